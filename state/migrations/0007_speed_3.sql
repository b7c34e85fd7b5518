-- trace:database state
-- Versions that one statement publishes share one row of the outbox: a row for each, which the next tick deletes, cost as
-- much as the version itself. `versions` names them, and what an event says of each is read from the registry. NULL: the
-- row is one event, as its key and payload say.
ALTER TABLE state.outbox ADD COLUMN versions uuid[];

-- One row per event, however they are stored.
CREATE VIEW state.events AS
SELECT id, topic, idempotency_key, payload, available_at, attempts, failed, last_error
FROM state.outbox WHERE versions IS NULL
UNION ALL
SELECT o.id, o.topic, 'published/' || i.dataset_version,
  jsonb_build_object('dataset_version', i.dataset_version, 'dataset_uuid', v.dataset_uuid,
    'range_start', v.range_start, 'range_end', v.range_end),
  o.available_at, o.attempts, o.failed, o.last_error
FROM state.outbox o CROSS JOIN LATERAL unnest(o.versions) AS i(dataset_version)
LEFT JOIN state.dataset_versions v USING (dataset_version);
