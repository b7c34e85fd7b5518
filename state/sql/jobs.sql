-- name: lock_organisation
-- Job files of one organisation are applied one after another: they are checked against each other.
SELECT pg_advisory_xact_lock(hashtextextended('apply/' || %(org)s::uuid::text, 0));

-- name: find_job
SELECT chain_id, chain_name, enabled, mode, from_block, to_block, tail_lag, head_poll_s, max_head_age_s, receipts
FROM state.jobs WHERE job_id = %(job)s::uuid;

-- name: find_streams
-- Streams of a job, also those that left its file, with the name of their dataset and their cursor.
SELECT s.dataset_key, s.cryo_dataset_name, s.rpc_pool, s.chunk_size, s.max_inflight, s.enabled, d.name AS dataset, c.next_block
FROM state.streams s
JOIN state.datasets d USING (dataset_uuid)
JOIN state.cursors c USING (stream_id)
WHERE s.job_id = %(job)s::uuid;

-- name: other_claims
-- Spans that other jobs claim on these datasets; `span_end` NULL means for ever. A stream that left its job file claims
-- what it has planned.
SELECT j.name AS job, s.dataset_uuid, j.from_block AS span_start,
       CASE WHEN s.enabled THEN j.to_block ELSE c.next_block END AS span_end, d.name AS dataset
FROM state.streams s
JOIN state.jobs j USING (job_id)
JOIN state.cursors c USING (stream_id)
JOIN state.datasets d USING (dataset_uuid)
WHERE s.job_id <> %(job)s::uuid AND s.dataset_uuid = ANY(%(datasets)b::uuid[])
  AND (s.enabled OR c.next_block > j.from_block)
ORDER BY j.name;

-- name: taken_names
-- Datasets of the organisation that have one of these names.
SELECT dataset_uuid, name FROM state.datasets WHERE org_id = %(org)s::uuid AND name = ANY(%(names)b::text[]);

-- name: save_organisation
INSERT INTO state.snapshots (org_id) VALUES (%(org)s::uuid) ON CONFLICT (org_id) DO NOTHING;

-- name: save_job
INSERT INTO state.jobs AS j (job_id, org_id, name, chain_id, chain_name, enabled, mode, from_block, to_block, tail_lag,
  head_poll_s, max_head_age_s, receipts, yaml_hash)
VALUES (%(job)s::uuid, %(org)s::uuid, %(name)s::text, %(chain_id)s::bigint, %(chain_name)s::text, %(enabled)s::boolean,
  %(mode)s::text, %(from_block)s::bigint, %(to_block)s::bigint, %(tail_lag)s::bigint, %(head_poll_s)s::double precision,
  %(max_head_age_s)s::double precision, %(receipts)s::text, %(yaml_hash)s::text)
ON CONFLICT (job_id) DO UPDATE SET chain_name = excluded.chain_name, enabled = excluded.enabled,
  to_block = excluded.to_block, tail_lag = excluded.tail_lag, head_poll_s = excluded.head_poll_s,
  max_head_age_s = excluded.max_head_age_s, receipts = excluded.receipts, yaml_hash = excluded.yaml_hash, updated_at = now();

-- name: free_names
-- Datasets that get another name give up the old one first, so that two may swap names in one apply.
UPDATE state.datasets d SET name = 'renaming/' || d.dataset_uuid
FROM unnest(%(datasets)b::uuid[], %(names)b::text[]) AS i(dataset_uuid, name)
WHERE d.dataset_uuid = i.dataset_uuid AND d.name <> i.name;

-- name: save_datasets
INSERT INTO state.datasets (dataset_uuid, org_id, chain_id, dataset_key, cryo_dataset_name, name)
SELECT dataset_uuid, %(org)s::uuid, %(chain_id)s::bigint, dataset_key, cryo_dataset_name, name
FROM unnest(%(datasets)b::uuid[], %(keys)b::text[], %(cryo_names)b::text[], %(names)b::text[])
  AS i(dataset_uuid, dataset_key, cryo_dataset_name, name)
ON CONFLICT (dataset_uuid) DO UPDATE SET name = excluded.name;

-- name: save_streams
-- A new stream starts its cursor at the job's first block; a known one keeps it.
WITH s AS (
  INSERT INTO state.streams (stream_id, job_id, dataset_key, dataset_uuid, cryo_dataset_name, rpc_pool, config_hash,
    chunk_size, max_inflight)
  SELECT stream_id, %(job)s::uuid, dataset_key, dataset_uuid, cryo_dataset_name, rpc_pool, config_hash, chunk_size, max_inflight
  FROM unnest(%(streams)b::uuid[], %(keys)b::text[], %(datasets)b::uuid[], %(cryo_names)b::text[], %(pools)b::text[],
    %(config_hashes)b::text[], %(chunk_sizes)b::bigint[], %(max_inflights)b::int[])
    AS i(stream_id, dataset_key, dataset_uuid, cryo_dataset_name, rpc_pool, config_hash, chunk_size, max_inflight)
  ON CONFLICT (stream_id) DO UPDATE SET rpc_pool = excluded.rpc_pool, config_hash = excluded.config_hash,
    chunk_size = excluded.chunk_size, max_inflight = excluded.max_inflight, enabled = true
  RETURNING stream_id)
INSERT INTO state.cursors (stream_id, next_block) SELECT stream_id, %(from_block)s::bigint FROM s
ON CONFLICT (stream_id) DO NOTHING;

-- name: disable_streams
-- Streams that are no longer in the job file.
UPDATE state.streams SET enabled = false WHERE job_id = %(job)s::uuid AND enabled AND stream_id <> ALL(%(streams)b::uuid[]);

-- name: set_enabled
UPDATE state.jobs SET enabled = %(enabled)s::boolean, updated_at = now()
WHERE org_id = %(org)s::uuid AND name = %(name)s::text RETURNING job_id;

-- name: job_names
SELECT name FROM state.jobs WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: heads_wanted
-- Heads that are due: of every pool and chain with work left, each at its own pace, and sooner again after an error.
SELECT w.rpc_pool, w.chain_id, w.poll_s
FROM (
  SELECT s.rpc_pool, j.chain_id, min(coalesce(j.head_poll_s, %(poll)s::double precision)) AS poll_s
  FROM state.streams s
  JOIN state.jobs j USING (job_id)
  JOIN state.cursors c USING (stream_id)
  WHERE s.enabled AND j.enabled
    AND (j.to_block IS NULL OR c.next_block < j.to_block
      OR EXISTS (SELECT FROM state.ranges r WHERE r.stream_id = s.stream_id AND NOT r.done AND NOT r.dead))
  GROUP BY s.rpc_pool, j.chain_id) w
LEFT JOIN state.heads h USING (rpc_pool, chain_id)
WHERE h.asked_at IS NULL OR h.doubted
   OR h.asked_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
        - make_interval(secs => CASE WHEN h.error IS NULL THEN w.poll_s ELSE least(w.poll_s, %(retry)s::double precision) END)
ORDER BY w.rpc_pool, w.chain_id;

-- name: record_head
INSERT INTO state.heads (rpc_pool, chain_id, head, observed_at, asked_at)
SELECT %(pool)s::text, %(chain_id)s::bigint, %(head)s::bigint, clock_timestamp(), clock_timestamp()
WHERE state.leads(%(epoch)s::bigint)
ON CONFLICT (rpc_pool, chain_id) DO UPDATE SET head = excluded.head, observed_at = excluded.observed_at,
  asked_at = excluded.asked_at, error = NULL, doubted = false;

-- name: record_head_error
-- The last known head stays, and grows old.
INSERT INTO state.heads (rpc_pool, chain_id, error, asked_at)
SELECT %(pool)s::text, %(chain_id)s::bigint, %(error)s::text, clock_timestamp()
WHERE state.leads(%(epoch)s::bigint)
ON CONFLICT (rpc_pool, chain_id) DO UPDATE SET error = excluded.error, asked_at = excluded.asked_at,
  doubted = false;

-- name: doubt_heads
-- Ask the pools of these tasks again, and lease nothing of them before they answer.
UPDATE state.heads h SET doubted = true
FROM state.tasks t JOIN state.streams s USING (stream_id) JOIN state.jobs j ON j.job_id = s.job_id
WHERE t.task_id = ANY(%(tasks)b::uuid[]) AND h.rpc_pool = s.rpc_pool AND h.chain_id = j.chain_id
  AND state.leads(%(epoch)s::bigint);

-- name: lock_cursors
-- Streams that may have something left to plan. Counting comes after the lock, in `plannable`.
SELECT c.stream_id
FROM state.cursors c
JOIN state.streams s USING (stream_id)
JOIN state.jobs j USING (job_id)
WHERE s.enabled AND j.enabled AND (j.to_block IS NULL OR c.next_block < j.to_block) AND state.leads(%(epoch)s::bigint)
ORDER BY c.stream_id
FOR UPDATE OF c;

-- name: plannable
-- What planning needs to know of each stream. `head` is NULL while it is unknown, or too old for a job that follows it.
SELECT c.stream_id, c.next_block, s.job_id, s.dataset_key, s.chunk_size, s.max_inflight,
  j.mode, j.from_block, j.to_block, j.tail_lag, j.head_poll_s, j.max_head_age_s,
  CASE WHEN j.max_head_age_s IS NULL
         OR h.observed_at >= coalesce(%(now)s::timestamptz, clock_timestamp()) - make_interval(secs => j.max_head_age_s)
       THEN h.head END AS head,
  (SELECT count(*) FROM state.ranges r WHERE r.stream_id = c.stream_id AND NOT r.done AND NOT r.dead) AS open_ranges
FROM state.cursors c
JOIN state.streams s USING (stream_id)
JOIN state.jobs j USING (job_id)
JOIN state.heads h ON h.rpc_pool = s.rpc_pool AND h.chain_id = j.chain_id
WHERE c.stream_id = ANY(%(streams)b::uuid[])
ORDER BY j.created_at, j.job_id, s.dataset_key;

-- name: add_ranges
-- Insert ranges with their tasks, in the given order, and advance the cursors. One row per range that was known, and
-- whether it is in conflict with what was known.
WITH i AS (
  SELECT * FROM unnest(%(tasks)b::uuid[], %(streams)b::uuid[], %(starts)b::bigint[], %(ends)b::bigint[])
    WITH ORDINALITY AS i(task_id, stream_id, range_start, range_end, position)),
b AS MATERIALIZED ( -- what the tasks of a stream share, made once
  SELECT s.stream_id, s.job_id, s.dataset_uuid, jsonb_build_object('chain_id', j.chain_id, 'dataset_key', s.dataset_key,
    'dataset_uuid', s.dataset_uuid, 'cryo_dataset_name', s.cryo_dataset_name, 'rpc_pool', s.rpc_pool,
    'config_hash', s.config_hash) AS payload
  FROM (SELECT DISTINCT stream_id FROM i) w JOIN state.streams s USING (stream_id) JOIN state.jobs j USING (job_id)),
p AS (
  SELECT i.*, b.job_id, b.dataset_uuid,
    b.payload || jsonb_build_object('range_start', i.range_start, 'range_end', i.range_end) AS payload
  FROM i JOIN b USING (stream_id)),
t AS (
  INSERT INTO state.tasks (task_id, job_id, stream_id, dataset_uuid, range_start, range_end, payload)
  SELECT task_id, job_id, stream_id, dataset_uuid, range_start, range_end, payload FROM p ORDER BY position
  ON CONFLICT (task_id) DO NOTHING RETURNING task_id),
r AS (
  INSERT INTO state.ranges (stream_id, range_start, range_end, task_id)
  SELECT stream_id, range_start, range_end, task_id FROM p
  ON CONFLICT (stream_id, range_start) DO NOTHING RETURNING task_id),
c AS (
  UPDATE state.cursors x SET next_block = m.next_block, updated_at = now()
  FROM (SELECT stream_id, max(range_end) AS next_block FROM i GROUP BY stream_id) m
  WHERE x.stream_id = m.stream_id)
SELECT p.range_start, p.range_end, p.payload ->> 'dataset_key' AS dataset_key, t.task_id IS NOT NULL AS known,
  coalesce(t.payload - 'rpc_pool' <> p.payload - 'rpc_pool', false) OR coalesce(r.task_id <> p.task_id, false) AS conflict
FROM p
LEFT JOIN state.tasks t USING (task_id)
LEFT JOIN state.ranges r ON r.stream_id = p.stream_id AND r.range_start = p.range_start
WHERE p.task_id NOT IN (SELECT task_id FROM t) OR p.task_id NOT IN (SELECT task_id FROM r);

-- name: status
-- One row per enabled stream of the organisation's jobs, of one job or of all. Sizes and rates are in blocks.
SELECT j.job_id, j.name, j.chain_id, j.enabled, j.mode, j.from_block, j.to_block, j.tail_lag, j.head_poll_s, j.max_head_age_s,
  s.dataset_key, s.rpc_pool, d.name AS dataset, c.next_block, h.head, h.error AS head_error, h.asked_at IS NOT NULL AS head_asked,
  h.observed_at < clock_timestamp() - make_interval(secs => j.max_head_age_s) AS head_stale,
  u.queued, u.running, u.dead, u.dead_blocks, coalesce(u.first_undone, c.next_block) AS first_undone, u.last_error,
  o.succeeded, o.blocks_done, v.recent_blocks, v.recent_s,
  EXISTS (SELECT FROM state.dispatcher WHERE name = 'dispatcher' AND expires_at > clock_timestamp()) AS led
FROM state.jobs j
JOIN state.streams s USING (job_id)
JOIN state.datasets d USING (dataset_uuid)
JOIN state.cursors c USING (stream_id)
LEFT JOIN state.heads h ON h.rpc_pool = s.rpc_pool AND h.chain_id = j.chain_id
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE t.state = 'queued') AS queued, count(*) FILTER (WHERE t.state = 'running') AS running,
    count(*) FILTER (WHERE t.state IN ('dead', 'cancelled')) AS dead,
    coalesce(sum(t.range_end - t.range_start) FILTER (WHERE t.state IN ('dead', 'cancelled')), 0)::bigint AS dead_blocks,
    min(t.range_start) AS first_undone,
    (array_agg(jsonb_build_array(t.range_start, t.range_end, t.error ->> 'message') ORDER BY t.error ->> 'at' DESC)
      FILTER (WHERE t.error IS NOT NULL))[1] AS last_error
  FROM state.ranges r JOIN state.tasks t USING (task_id)
  WHERE r.stream_id = s.stream_id AND NOT r.done) u
CROSS JOIN LATERAL (
  SELECT count(*) AS succeeded, coalesce(sum(range_end - range_start), 0)::bigint AS blocks_done
  FROM state.ranges WHERE stream_id = s.stream_id AND done) o
CROSS JOIN LATERAL (
  SELECT sum(v.range_end - v.range_start)::bigint AS recent_blocks,
    extract(epoch FROM clock_timestamp() - greatest(min(a.started_at), clock_timestamp() - %(window)s::interval))::double precision AS recent_s
  FROM state.dataset_versions v
  JOIN state.attempts a ON a.task_id = v.task_id AND a.attempt = v.attempt
  WHERE v.dataset_uuid = s.dataset_uuid AND v.published_at > now() - %(window)s::interval) v
WHERE j.org_id = %(org)s::uuid AND s.enabled AND (%(name)s::text IS NULL OR j.name = %(name)s::text)
ORDER BY j.name, s.dataset_key;
