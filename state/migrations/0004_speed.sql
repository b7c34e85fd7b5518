-- trace:database state
-- An attempt is written twice, when it starts and when it ends: with room on its page, the second time touches no index.
ALTER TABLE state.attempts SET (fillfactor = 60);
