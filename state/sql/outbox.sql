-- name: append
-- One event per cause: the same key again is the same event.
INSERT INTO state.outbox (topic, idempotency_key, payload) VALUES (%(topic)s::text, %(key)s::text, %(payload)s::jsonb)
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: drain
-- Take the oldest available events of the topics out. Locked rows are skipped, never a number: identity order is not
-- commit order.
WITH d AS (
  DELETE FROM state.outbox
  WHERE id = ANY(ARRAY(
      SELECT id FROM state.outbox
      WHERE topic = ANY(%(topics)s::text[]) AND NOT failed AND available_at <= now()
      ORDER BY available_at, id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED))
    AND state.leads(%(epoch)s::bigint)
  RETURNING id, topic, idempotency_key, payload)
SELECT * FROM d ORDER BY id;
