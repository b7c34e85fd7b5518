-- name: publish
-- Put the batches of running attempts into their queues. One row per batch whose attempt holds its task, which is locked
-- until the end of the transaction; `other` means that its key is known with another content.
WITH i AS (
  SELECT * FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[], %(messages)b::uuid[], %(queues)b::text[],
      %(keys)b::text[], %(payloads)b::jsonb[])
    WITH ORDINALITY AS i(task_id, attempt, lease_token, message_id, queue, idempotency_key, payload, position)),
l AS (
  SELECT t.task_id, t.attempt, t.lease_token FROM state.tasks t
  WHERE t.task_id = ANY(%(tasks)b::uuid[]) AND t.state = 'running' AND state.leads(%(epoch)s::bigint)
  ORDER BY t.task_id FOR NO KEY UPDATE),
h AS (
  SELECT i.message_id, i.queue, i.idempotency_key, i.payload, i.position
  FROM i JOIN l USING (task_id, attempt, lease_token)),
k AS (
  SELECT h.position, (h.payload, h.queue) IS DISTINCT FROM (x.payload, x.queue) AS other
  FROM h
  JOIN (
    SELECT idempotency_key, payload, queue FROM state.buffer_queue WHERE idempotency_key = ANY(%(keys)b::text[])
    UNION ALL
    SELECT idempotency_key, payload, queue FROM state.buffer_dead_letters WHERE idempotency_key = ANY(%(keys)b::text[])) x
    USING (idempotency_key)),
p AS (
  INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, available_at, max_deliveries)
  SELECT message_id, queue, idempotency_key, payload, coalesce(%(now)s::timestamptz, now()), %(max_deliveries)s::int
  FROM h WHERE position NOT IN (SELECT position FROM k) ORDER BY position
  ON CONFLICT (idempotency_key) DO NOTHING)
SELECT h.position, coalesce(bool_or(k.other), false) AS other FROM h LEFT JOIN k USING (position) GROUP BY h.position;

-- name: receive
-- Deliver the oldest visible messages: each gets a fresh receipt and is invisible for a while.
WITH d AS (
  UPDATE state.buffer_queue
  SET receipt = gen_random_uuid(), deliveries = deliveries + 1,
      available_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + %(visibility)s::interval
  WHERE message_id = ANY(ARRAY(
    SELECT message_id FROM state.buffer_queue
    WHERE queue = %(queue)s::text AND deliveries < max_deliveries AND available_at <= coalesce(%(now)s::timestamptz, now())
    ORDER BY available_at, message_id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED))
  RETURNING message_id, receipt, queue, idempotency_key, payload, deliveries, max_deliveries, published_at)
SELECT * FROM d ORDER BY published_at, message_id;

-- name: extend
-- Stay invisible for longer. No row: the message was delivered anew, refused, buried, or is handled.
UPDATE state.buffer_queue SET available_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + %(visibility)s::interval
WHERE message_id = %(message)s::uuid AND receipt = %(receipt)s::uuid
RETURNING message_id;

-- name: ack
-- The message is handled. No row: this delivery is not its newest one, so the message stays.
DELETE FROM state.buffer_queue WHERE message_id = %(message)s::uuid AND receipt = %(receipt)s::uuid RETURNING message_id;

-- name: nack
-- The delivery failed: visible again after a back-off, or at once to be buried when it was the last one.
UPDATE state.buffer_queue
SET receipt = NULL, last_error = %(error)s::text,
    available_at = coalesce(%(now)s::timestamptz, clock_timestamp()) + CASE WHEN deliveries < max_deliveries
      THEN state.backoff(message_id::text, deliveries, %(base)s::interval, %(cap)s::interval) ELSE '0' END
WHERE message_id = %(message)s::uuid AND receipt = %(receipt)s::uuid
RETURNING message_id;

-- name: reject
-- A delivery that no later one could better becomes a dead letter at once. No row: it is not the message's newest one.
WITH d AS (
  DELETE FROM state.buffer_queue WHERE message_id = %(message)s::uuid AND receipt = %(receipt)s::uuid RETURNING *)
INSERT INTO state.buffer_dead_letters AS x (message_id, queue, idempotency_key, payload, published_at, deliveries,
  max_deliveries, last_error, replays, reason)
SELECT message_id, queue, idempotency_key, payload, published_at, deliveries, max_deliveries, %(error)s::text, replays,
  'rejected at delivery ' || deliveries || ' of ' || max_deliveries
    || CASE replays WHEN 0 THEN '' WHEN 1 THEN ', after 1 replay' ELSE ', after ' || replays || ' replays' END
FROM d
ON CONFLICT (message_id) DO UPDATE SET last_error = excluded.last_error, replays = greatest(x.replays, excluded.replays),
  reason = excluded.reason, dead_at = excluded.dead_at
RETURNING message_id;

-- name: bury
-- Messages whose deliveries are used up become dead letters in one statement, once their last delivery is over.
WITH d AS (
  DELETE FROM state.buffer_queue
  WHERE message_id = ANY(ARRAY(
      SELECT message_id FROM state.buffer_queue
      WHERE deliveries >= max_deliveries AND available_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
      FOR UPDATE SKIP LOCKED))
  RETURNING *)
INSERT INTO state.buffer_dead_letters AS x (message_id, queue, idempotency_key, payload, published_at, deliveries,
  max_deliveries, last_error, replays, reason)
SELECT message_id, queue, idempotency_key, payload, published_at, deliveries, max_deliveries, last_error, replays,
  CASE WHEN receipt IS NULL THEN 'refused' ELSE 'not acknowledged' END || ' at delivery ' || deliveries || ' of ' || max_deliveries
    || CASE replays WHEN 0 THEN '' WHEN 1 THEN ', after 1 replay' ELSE ', after ' || replays || ' replays' END
FROM d
ON CONFLICT (message_id) DO UPDATE SET last_error = excluded.last_error, replays = greatest(x.replays, excluded.replays),
  reason = excluded.reason, dead_at = excluded.dead_at
RETURNING message_id;

-- name: replay
-- Dead letters go back to their queue with fresh deliveries: one, those of a queue, or all. What was published anew
-- meanwhile stays as it is.
WITH d AS (
  DELETE FROM state.buffer_dead_letters
  WHERE (%(message)s::uuid IS NULL OR message_id = %(message)s::uuid) AND (%(queue)s::text IS NULL OR queue = %(queue)s::text)
  RETURNING *),
q AS (
  INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, published_at, max_deliveries, last_error, replays)
  SELECT message_id, queue, idempotency_key, payload, published_at, max_deliveries, last_error, replays + 1 FROM d
  ON CONFLICT (idempotency_key) DO NOTHING)
SELECT message_id FROM d;

-- name: dead_letters
-- Newest first, of one queue or of all.
SELECT message_id, queue, idempotency_key, payload, published_at, deliveries, max_deliveries, last_error, replays, reason, dead_at
FROM state.buffer_dead_letters
WHERE %(queue)s::text IS NULL OR queue = %(queue)s::text
ORDER BY dead_at DESC, message_id LIMIT %(limit)s::int;

-- name: depths
-- One row per queue that holds anything. `ready` can be delivered now; `delivered` is with a consumer; `waiting` backs off;
-- `spent` has no delivery left and is buried next.
SELECT queue, count(*) FILTER (WHERE place = 'ready') AS ready, count(*) FILTER (WHERE place = 'delivered') AS delivered,
  count(*) FILTER (WHERE place = 'waiting') AS waiting, count(*) FILTER (WHERE place = 'spent') AS spent,
  count(*) FILTER (WHERE place = 'dead') AS dead, min(published_at) FILTER (WHERE place <> 'dead') AS oldest
FROM (
  SELECT queue, published_at,
    CASE WHEN available_at > t.now THEN CASE WHEN receipt IS NULL THEN 'waiting' ELSE 'delivered' END
         WHEN deliveries < max_deliveries THEN 'ready' ELSE 'spent' END AS place
  FROM state.buffer_queue, (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) t
  UNION ALL
  SELECT queue, published_at, 'dead' FROM state.buffer_dead_letters) m
GROUP BY queue ORDER BY queue;
