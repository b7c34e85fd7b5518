-- name: append
-- One event per cause: the same key again is the same event.
INSERT INTO state.outbox (topic, idempotency_key, payload) VALUES (%(topic)s::text, %(key)s::text, %(payload)s::jsonb)
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: drain
-- Take the oldest available events of the topics out, one row per event; those that share a row come together, so that a
-- first row with more than the limit is taken all the same. Locked rows are skipped, never a number: identity order is not
-- commit order. Events of this very transaction, available since its now(), are left: their cause may still be rolled back.
WITH q AS (
  SELECT ctid AS place, available_at, id, coalesce(cardinality(versions), 1) AS events FROM state.outbox
  WHERE topic = ANY(%(topics)s::text[]) AND NOT failed AND available_at <= coalesce(%(now)s::timestamptz, now())
    AND available_at <> now()
  ORDER BY available_at, id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED),
c AS (SELECT place, events, sum(events) OVER (ORDER BY available_at, id ROWS UNBOUNDED PRECEDING) AS so_far FROM q),
d AS (
  DELETE FROM state.outbox
  WHERE ctid = ANY(ARRAY(SELECT place FROM c WHERE so_far <= %(limit)s::int OR so_far = events))
    AND state.leads(%(epoch)s::bigint)
  RETURNING id, topic, idempotency_key, payload, attempts, versions)
SELECT CASE WHEN versions IS NULL THEN id END, topic, idempotency_key, payload, attempts FROM (
  SELECT id, topic, idempotency_key, payload, attempts, versions, 0 AS place FROM d WHERE versions IS NULL
  UNION ALL
  SELECT d.id, d.topic, 'published/' || i.dataset_version,
    jsonb_build_object('dataset_version', i.dataset_version, 'dataset_uuid', v.dataset_uuid,
      'range_start', v.range_start, 'range_end', v.range_end),
    d.attempts, d.versions, v.published_snapshot
  FROM d CROSS JOIN LATERAL unnest(d.versions) AS i(dataset_version)
  LEFT JOIN LATERAL ( -- one look-up each, also by a plan that was made when the registry was empty
    SELECT * FROM state.dataset_versions x WHERE x.dataset_version = i.dataset_version LIMIT 1) v ON true) o
ORDER BY id, place;

-- name: put_back
-- Events that `drain` took out in this transaction and that could not be handled: again after a back-off, or, when their
-- attempts are used up, never by themselves. One that shared its row gets a row, and a number, of its own.
INSERT INTO state.outbox (id, topic, idempotency_key, payload, attempts, failed, last_error, available_at)
OVERRIDING SYSTEM VALUE
SELECT coalesce(id, nextval(pg_get_serial_sequence('state.outbox', 'id'))), topic, idempotency_key, payload, attempts,
  attempts >= %(max_attempts)s::int, last_error,
  coalesce(%(now)s::timestamptz, now()) + state.backoff(idempotency_key, attempts, %(base)s::interval, %(cap)s::interval)
FROM unnest(%(ids)b::bigint[], %(topics)b::text[], %(keys)b::text[], %(payloads)b::jsonb[], %(attempts)b::int[],
  %(errors)b::text[]) AS i(id, topic, idempotency_key, payload, attempts, last_error)
WHERE state.leads(%(epoch)s::bigint);

-- name: replay
-- Failed events become available again with fresh attempts: one, or all.
UPDATE state.outbox SET failed = false, attempts = 0, available_at = coalesce(%(now)s::timestamptz, now())
WHERE failed AND (%(id)s::bigint IS NULL OR id = %(id)s::bigint)
RETURNING id;

-- name: listing
-- Events that are not handled yet: failed ones first, then those that failed most often, then the oldest.
SELECT id, topic, idempotency_key, payload, available_at, attempts, failed, last_error FROM state.events
WHERE NOT %(failed_only)s::boolean OR failed
ORDER BY failed DESC, attempts DESC, id LIMIT %(limit)s::int;
