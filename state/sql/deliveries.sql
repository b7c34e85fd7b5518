-- name: create
-- Deliveries of alerts, one per event and channel. One row per delivery that is new.
INSERT INTO data.alert_deliveries (delivery_id, org_id, event_id, channel, kind, rule_id, rule, max_age, throttle_count,
  throttle_per, due_at, created_at, retracted, state, reason, settled_at)
SELECT i.delivery_id, %(org)s::uuid, i.event_id, i.channel, 'alert', %(rule_id)s::uuid, %(rule)s::text, %(max_age)s::interval,
  %(count)s::int, %(per)s::interval, t.now, t.now, i.retracted, CASE WHEN i.reason IS NULL THEN 'queued' ELSE 'suppressed' END,
  i.reason, CASE WHEN i.reason IS NOT NULL THEN t.now END
FROM unnest(%(deliveries)b::uuid[], %(events)b::uuid[], %(channels)b::text[], %(retracted)b::boolean[], %(reasons)b::text[])
  AS i(delivery_id, event_id, channel, retracted, reason), (SELECT coalesce(%(now)s::timestamptz, now()) AS now) t
ON CONFLICT DO NOTHING
RETURNING delivery_id;

-- name: turn
-- One lease at a time, until the end of the transaction: what a throttle lets through is counted, then added to.
SELECT pg_advisory_xact_lock(%(lock)s::bigint);

-- name: due
-- The deliveries that may be sent now, oldest first in each channel, at most as many as the channel has free places;
-- channels that nobody named have `other`. Channels are found by skipping from one to the next in the index.
WITH RECURSIVE t AS (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now),
c AS (
  SELECT min(channel) AS channel FROM data.alert_deliveries WHERE state = 'queued'
  UNION ALL
  SELECT (SELECT min(d.channel) FROM data.alert_deliveries d WHERE d.state = 'queued' AND d.channel > c.channel)
  FROM c WHERE c.channel IS NOT NULL),
p AS (
  SELECT c.channel, coalesce(i.free, %(other)s::int) AS free
  FROM c LEFT JOIN unnest(%(channels)b::text[], %(free)b::int[]) AS i(channel, free) USING (channel)
  WHERE c.channel IS NOT NULL),
d AS (
  SELECT d.* FROM p, t CROSS JOIN LATERAL (
    SELECT * FROM data.alert_deliveries
    WHERE state = 'queued' AND channel = p.channel AND due_at <= t.now
    ORDER BY due_at, delivery_id LIMIT p.free FOR UPDATE SKIP LOCKED) d)
SELECT d.delivery_id, d.channel, d.rule_id, d.kind, d.attempt, d.retracted, t.now,
  (SELECT event_time FROM data.alert_events e WHERE e.event_id = d.event_id) AS event_time,
  extract(epoch FROM d.max_age)::float8 AS max_age_s, d.throttle_count, extract(epoch FROM d.throttle_per)::float8 AS per_s,
  CASE WHEN d.throttle_count IS NULL OR d.attempt > 0 THEN 0 ELSE (
    SELECT count(*) FROM (
      SELECT FROM data.alert_deliveries x
      WHERE x.rule_id = d.rule_id AND x.channel = d.channel AND x.first_sent_at > t.now - d.throttle_per
        AND x.kind = 'alert' LIMIT d.throttle_count) s) END AS recent
FROM t, d
ORDER BY d.due_at, d.delivery_id;

-- name: start
-- Lease deliveries that `due` found, and locked, in this transaction: one row each with all that its receiver is told, in
-- the order of the ids given.
WITH s AS (
  UPDATE data.alert_deliveries d
  SET state = 'sending', attempt = attempt + 1, lease_token = gen_random_uuid(),
      first_sent_at = coalesce(first_sent_at, t.now), due_at = t.now + %(lease)s::interval
  FROM (SELECT coalesce(%(now)s::timestamptz, clock_timestamp()) AS now) t
  WHERE delivery_id = ANY(%(deliveries)b::uuid[])
  RETURNING d.*)
SELECT s.delivery_id, s.event_id, s.kind, s.channel, s.state, s.attempt, s.lease_token, s.retracts, s.last_error,
  s.rule_id, s.rule, s.created_at, e.severity, e.dedupe_key, e.event_time, e.chain_id, e.block_number,
  '0x' || encode(e.block_hash, 'hex') AS block_hash, '0x' || encode(e.tx_hash, 'hex') AS tx_hash, e.payload::text AS payload
FROM s CROSS JOIN LATERAL (
  SELECT * FROM data.alert_events e WHERE e.event_id = s.event_id LIMIT 1) e -- looked up one by one, never joined as a whole
ORDER BY array_position(%(deliveries)b::uuid[], s.delivery_id);

-- name: suppress
-- Deliveries that `due` found, and locked, in this transaction, and that will not be sent, each with the reason.
UPDATE data.alert_deliveries d
SET state = 'suppressed', reason = i.reason, settled_at = coalesce(%(now)s::timestamptz, clock_timestamp())
FROM unnest(%(deliveries)b::uuid[], %(reasons)b::text[]) AS i(delivery_id, reason)
WHERE d.delivery_id = i.delivery_id
RETURNING d.delivery_id;

-- name: suppress_rule
-- What a rule has queued, its alerts alone: no attempt of them was made, or all of them failed.
UPDATE data.alert_deliveries
SET state = 'suppressed', reason = %(reason)s::text, settled_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE org_id = %(org)s::uuid AND rule_id = %(rule)s::uuid AND kind = 'alert' AND state = 'queued'
RETURNING delivery_id;

-- name: delivered
-- The receiver took it. No row: the lease is over.
UPDATE data.alert_deliveries
SET state = 'delivered', lease_token = NULL, failures = 0, in_doubt = false, last_error = %(note)s::text,
    settled_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE delivery_id = %(delivery)s::uuid AND attempt = %(attempt)s::int AND lease_token = %(token)s::uuid AND state = 'sending'
RETURNING state, kind, retracted, in_doubt;

-- name: failed
-- The receiver did not take it: again after a back-off, which is no shorter than what the receiver asked for, up to the
-- cap; dead when trying again cannot help or was tried often enough; suppressed when its block is gone meanwhile. No row:
-- the lease is over.
UPDATE data.alert_deliveries d
SET state = n.state, lease_token = NULL, failures = d.failures + 1, in_doubt = d.in_doubt OR %(in_doubt)s::boolean,
    last_error = %(error)s::text, reason = CASE WHEN n.state = 'suppressed' THEN 'retracted' END,
    settled_at = CASE WHEN n.state <> 'queued' THEN n.now END,
    due_at = n.now + greatest(data.backoff(d.delivery_id::text, d.failures + 1, %(base)s::interval, %(cap)s::interval),
      %(retry_after)s::interval)
FROM (
  SELECT x.delivery_id, coalesce(%(now)s::timestamptz, clock_timestamp()) AS now,
    CASE WHEN x.retracted AND x.kind = 'alert' THEN 'suppressed'
         WHEN NOT %(retryable)s::boolean OR x.failures + 1 >= %(max_attempts)s::int THEN 'dead' ELSE 'queued' END AS state
  FROM data.alert_deliveries x
  WHERE x.delivery_id = %(delivery)s::uuid AND x.attempt = %(attempt)s::int AND x.lease_token = %(token)s::uuid
    AND x.state = 'sending' FOR UPDATE) n
WHERE d.delivery_id = n.delivery_id
RETURNING d.state, d.kind, d.retracted, d.in_doubt;

-- name: ended
-- Leases that ended without a word: whether the receiver has it is unknown.
SELECT delivery_id, attempt, lease_token FROM data.alert_deliveries
WHERE state = 'sending' AND due_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
ORDER BY due_at LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED;

-- name: retract
-- The blocks of these events are gone. Every alert of them is marked, and one that is not being sent now is settled: what
-- is queued is suppressed. One row per alert; `took`: its receiver has it, or may have it.
UPDATE data.alert_deliveries d
SET retracted = true,
    state = CASE WHEN state = 'queued' THEN 'suppressed' ELSE state END,
    reason = CASE WHEN state = 'queued' THEN 'retracted' ELSE reason END,
    settled_at = CASE WHEN state = 'queued' THEN coalesce(%(now)s::timestamptz, clock_timestamp()) ELSE settled_at END
WHERE event_id = ANY(%(events)b::uuid[]) AND kind = 'alert' AND NOT retracted
RETURNING delivery_id, state = 'delivered' OR (in_doubt AND state <> 'sending') AS took;

-- name: take_back
-- Retractions of alerts that were received, or may have been. One row per retraction that is new.
INSERT INTO data.alert_deliveries (delivery_id, org_id, event_id, channel, kind, retracts, rule_id, rule, due_at, created_at)
SELECT i.retraction, d.org_id, d.event_id, d.channel, 'retraction', d.delivery_id, d.rule_id, d.rule, t.now, t.now
FROM unnest(%(retractions)b::uuid[], %(deliveries)b::uuid[]) AS i(retraction, delivery_id)
  JOIN data.alert_deliveries d USING (delivery_id), (SELECT coalesce(%(now)s::timestamptz, now()) AS now) t
ON CONFLICT DO NOTHING
RETURNING delivery_id;

-- name: sources
-- The event and the channel of deliveries, from which their retractions have their ids.
SELECT delivery_id, event_id, channel FROM data.alert_deliveries WHERE delivery_id = ANY(%(deliveries)b::uuid[])
ORDER BY delivery_id;

-- name: replay
-- Dead deliveries are queued again with fresh attempts: one, those of a channel, or all. A suppressed one only when it is
-- named. What a person puts back is neither too old nor too much; what was retracted stays where it is.
UPDATE data.alert_deliveries
SET state = 'queued', reason = NULL, settled_at = NULL, failures = 0, replays = replays + 1, max_age = NULL,
    throttle_count = NULL, throttle_per = NULL, due_at = coalesce(%(now)s::timestamptz, clock_timestamp())
WHERE org_id = %(org)s::uuid AND (%(delivery)s::uuid IS NULL OR delivery_id = %(delivery)s::uuid)
  AND (%(channel)s::text IS NULL OR channel = %(channel)s::text)
  AND (state = 'dead' OR (state = 'suppressed' AND delivery_id = %(delivery)s::uuid))
  AND NOT (retracted AND kind = 'alert')
RETURNING delivery_id;

-- name: find
-- One delivery of an organisation.
SELECT event_id, state, reason, retracted FROM data.alert_deliveries
WHERE org_id = %(org)s::uuid AND delivery_id = %(delivery)s::uuid;

-- name: listing
-- Deliveries of an organisation, newest first.
SELECT delivery_id, event_id, kind, channel, state, attempt, lease_token, retracts, last_error, rule, reason, failures,
  replays, created_at, settled_at, CASE WHEN state = 'queued' THEN due_at END AS due_at
FROM data.alert_deliveries
WHERE org_id = %(org)s::uuid AND (%(state)s::text IS NULL OR state = %(state)s::text)
  AND (%(rule)s::text IS NULL OR rule = %(rule)s::text) AND (%(channel)s::text IS NULL OR channel = %(channel)s::text)
  AND (%(event)s::uuid IS NULL OR event_id = %(event)s::uuid)
ORDER BY created_at DESC, delivery_id LIMIT %(limit)s::int;

-- name: depths
-- One row per channel of an organisation that has anything open or dead.
SELECT channel, count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'sending') AS sending,
  count(*) FILTER (WHERE state = 'dead') AS dead, min(created_at) FILTER (WHERE state <> 'dead') AS oldest
FROM data.alert_deliveries
WHERE org_id = %(org)s::uuid AND state IN ('queued', 'sending', 'dead')
GROUP BY channel ORDER BY channel;
