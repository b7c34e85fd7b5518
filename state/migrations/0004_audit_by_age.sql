-- trace:database data
-- Old rows are forgotten, the oldest first.
CREATE INDEX audit_by_age ON data.query_audit (at);
