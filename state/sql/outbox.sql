-- name: append
-- One event per cause: the same key again is the same event.
INSERT INTO state.outbox (topic, idempotency_key, payload) VALUES (%(topic)s::text, %(key)s::text, %(payload)s::jsonb)
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: drain
-- Take the oldest available events of the topics out. Locked rows are skipped, never a number: identity order is not
-- commit order. Events of this very transaction, available since its now(), are left: their cause may still
-- be rolled back.
WITH d AS (
  DELETE FROM state.outbox
  WHERE ctid = ANY(ARRAY(
      SELECT ctid FROM state.outbox
      WHERE topic = ANY(%(topics)s::text[]) AND NOT failed AND available_at <= coalesce(%(now)s::timestamptz, now())
        AND available_at <> now()
      ORDER BY available_at, id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED))
    AND state.leads(%(epoch)s::bigint)
  RETURNING id, topic, idempotency_key, payload, attempts)
SELECT * FROM d ORDER BY id;

-- name: put_back
-- Events that `drain` took out in this transaction and that could not be handled: again after a back-off, or, when their
-- attempts are used up, never by themselves.
INSERT INTO state.outbox (id, topic, idempotency_key, payload, attempts, failed, last_error, available_at)
OVERRIDING SYSTEM VALUE
SELECT id, topic, idempotency_key, payload, attempts, attempts >= %(max_attempts)s::int, last_error,
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
SELECT id, topic, idempotency_key, payload, available_at, attempts, failed, last_error FROM state.outbox
WHERE NOT %(failed_only)s::boolean OR failed
ORDER BY failed DESC, attempts DESC, id LIMIT %(limit)s::int;
