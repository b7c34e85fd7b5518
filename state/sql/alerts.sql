-- name: add
-- Keep events, each once in its organisation. The rows that come back are new.
INSERT INTO data.alert_events (event_id, org_id, rule_id, rule, task_id, attempt, severity, mode, dedupe_key, event_time,
  chain_id, block_number, block_hash, tx_hash, payload)
SELECT event_id, %(org)s::uuid, %(rule_id)s::uuid, %(rule)s::text, %(task)s::uuid, %(attempt)s::int, %(severity)s::text,
  %(mode)s::text, dedupe_key, 'epoch'::timestamptz + event_us * interval '1 microsecond', chain_id, block_number, block_hash,
  nullif(tx_hash, ''), payload
FROM unnest(%(events)b::uuid[], %(keys)b::text[], %(times)b::bigint[], %(chains)b::bigint[], %(blocks)b::bigint[],
  %(block_hashes)b::bytea[], %(tx_hashes)b::bytea[], %(payloads)b::jsonb[])
  AS i(event_id, dedupe_key, event_us, chain_id, block_number, block_hash, tx_hash, payload)
ON CONFLICT DO NOTHING
RETURNING event_id, created_at;

-- name: differ
-- Which of these events are known with another content, or as those of another rule.
SELECT e.event_id
FROM unnest(%(events)b::uuid[], %(times)b::bigint[], %(chains)b::bigint[], %(blocks)b::bigint[], %(block_hashes)b::bytea[],
  %(tx_hashes)b::bytea[], %(payloads)b::jsonb[])
  AS i(event_id, event_us, chain_id, block_number, block_hash, tx_hash, payload)
JOIN data.alert_events e USING (event_id)
WHERE (e.rule_id, e.event_time, e.chain_id, e.block_number, e.block_hash, e.tx_hash, e.payload) IS DISTINCT FROM
  (%(rule_id)s::uuid, 'epoch'::timestamptz + i.event_us * interval '1 microsecond', i.chain_id, i.block_number, i.block_hash,
   nullif(i.tx_hash, ''), i.payload);

-- name: recent
-- The newest events of an organisation, of one rule or of all.
SELECT * FROM data.alert_events
WHERE org_id = %(org)s::uuid AND (%(rule_id)s::uuid IS NULL OR rule_id = %(rule_id)s::uuid)
ORDER BY created_at DESC, event_id LIMIT %(limit)s::int;

-- name: blocks
-- The blocks that events of an organisation are about and that are not known to be gone.
SELECT DISTINCT block_number, block_hash FROM data.alert_events
WHERE org_id = %(org)s::uuid AND chain_id = %(chain)s::bigint AND block_number >= %(start)s::bigint
  AND block_number < %(end)s::bigint AND retracted_at IS NULL;

-- name: retract
-- Mark events whose blocks are gone; the rows that come back are those that were not. In the order of their ids, so that
-- two consumers wait for each other and never in a ring.
UPDATE data.alert_events SET retracted_at = now()
WHERE event_id = ANY(ARRAY(
  SELECT e.event_id
  FROM unnest(%(blocks)b::bigint[], %(hashes)b::bytea[]) AS i(block_number, block_hash)
  JOIN data.alert_events e USING (block_number, block_hash)
  WHERE e.org_id = %(org)s::uuid AND e.chain_id = %(chain)s::bigint AND e.retracted_at IS NULL
  ORDER BY e.event_id LIMIT %(limit)s::int FOR UPDATE OF e))
RETURNING event_id;

-- name: find
SELECT * FROM data.alert_events WHERE org_id = %(org)s::uuid AND event_id = %(event)s::uuid;
