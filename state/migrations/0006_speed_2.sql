-- trace:database state
-- Fewer index entries for each task. The id of a version is made from the very columns that this constraint held, so that
-- the primary key says the same; versions of a dataset are found by their start, whether replaced or not. And nothing looks
-- for an event by its number but an operator, for a failed one.
ALTER TABLE state.dataset_versions
  DROP CONSTRAINT IF EXISTS dataset_versions_dataset_uuid_config_hash_range_start_range_key;
DROP INDEX state.versions_by_start;
CREATE INDEX versions_by_start ON state.dataset_versions (dataset_uuid, range_start);
ALTER TABLE state.outbox DROP CONSTRAINT outbox_pkey, DROP CONSTRAINT outbox_idempotency_key_key,
  ADD PRIMARY KEY (idempotency_key);

-- A task is written three times: with room on its page, a new version of its row is logged as a difference.
ALTER TABLE state.tasks SET (fillfactor = 45);
