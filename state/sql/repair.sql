-- name: lock_streams
-- Enabled streams of a job with their cursors, locked: planning waits, so that nothing is planned twice.
SELECT s.stream_id, s.dataset_key, s.dataset_uuid, s.chunk_size, j.job_id, j.from_block, c.next_block
FROM state.cursors c
JOIN state.streams s USING (stream_id)
JOIN state.jobs j USING (job_id)
WHERE j.org_id = %(org)s::uuid AND j.name = %(name)s::text AND s.enabled
ORDER BY c.stream_id
FOR UPDATE OF c;

-- name: published
-- Blocks of a dataset that are visible now, in order.
SELECT range_start, range_end FROM state.dataset_versions
WHERE dataset_uuid = %(dataset)s::uuid AND replaced_snapshot IS NULL AND range_end > %(start)s::bigint AND range_start < %(end)s::bigint
ORDER BY range_start;

-- name: ranges
-- Planned ranges of a stream that are not open and not published: dead ones, and done ones whose version is out of sight.
-- `generation` is that of the next version.
SELECT r.range_start, r.range_end, r.task_id, r.done, 1 + greatest(t.generation, (
    SELECT max(v.generation) FROM state.dataset_versions v
    WHERE v.dataset_uuid = t.dataset_uuid AND v.range_start = r.range_start AND v.range_end = r.range_end)) AS generation
FROM state.ranges r
LEFT JOIN state.tasks t USING (task_id)
WHERE r.stream_id = %(stream)s::uuid
  AND (r.dead OR (r.done AND NOT EXISTS (
    SELECT FROM state.dataset_versions v
    WHERE v.dataset_uuid = %(dataset)s::uuid AND v.replaced_snapshot IS NULL
      AND v.range_start = r.range_start AND v.range_end = r.range_end)))
ORDER BY r.range_start;

-- name: planned
-- Every planned range of a stream that begins in a span.
SELECT range_start, range_end FROM state.ranges
WHERE stream_id = %(stream)s::uuid AND range_start < %(end)s::bigint AND range_end > %(start)s::bigint ORDER BY range_start;

-- name: requeue
-- Dead tasks go back to queued with fresh budgets; attempts go on counting, so history is kept.
WITH d AS (
  UPDATE state.tasks SET state = 'queued', task_failures = 0, infra_failures = 0, run_at = now(), finished_at = NULL, error = NULL,
    lease_token = NULL
  WHERE task_id = ANY(%(tasks)b::uuid[]) AND state IN ('dead', 'cancelled')
  RETURNING task_id, stream_id, range_start),
r AS (
  UPDATE state.ranges x SET dead = false FROM d WHERE x.stream_id = d.stream_id AND x.range_start = d.range_start)
SELECT task_id FROM d;

-- name: plan
-- Ranges with tasks of their own: new ranges, and known ones whose next generation is to be made.
WITH i AS (
  SELECT * FROM unnest(%(tasks)b::uuid[], %(starts)b::bigint[], %(ends)b::bigint[], %(generations)b::int[])
    WITH ORDINALITY AS i(task_id, range_start, range_end, generation, position)),
t AS (
  INSERT INTO state.tasks (task_id, job_id, stream_id, dataset_uuid, range_start, range_end, generation, payload)
  SELECT i.task_id, s.job_id, s.stream_id, s.dataset_uuid, i.range_start, i.range_end, i.generation,
    jsonb_build_object('chain_id', j.chain_id, 'dataset_key', s.dataset_key, 'dataset_uuid', s.dataset_uuid,
      'cryo_dataset_name', s.cryo_dataset_name, 'rpc_pool', s.rpc_pool, 'range_start', i.range_start,
      'range_end', i.range_end, 'config_hash', s.config_hash)
  FROM i, state.streams s JOIN state.jobs j USING (job_id)
  WHERE s.stream_id = %(stream)s::uuid
  ORDER BY i.position
  ON CONFLICT (task_id) DO NOTHING
  RETURNING task_id)
INSERT INTO state.ranges AS r (stream_id, range_start, range_end, task_id)
SELECT %(stream)s::uuid, range_start, range_end, task_id FROM i
ON CONFLICT (stream_id, range_start) DO UPDATE SET task_id = excluded.task_id, done = false, dead = false
RETURNING r.range_start;

-- name: withdraw
-- Take visible versions out of sight from the next snapshot on.
WITH v AS (
  SELECT v.dataset_version, v.dataset_uuid, d.org_id FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
  WHERE v.dataset_version = ANY(%(versions)b::uuid[]) AND v.replaced_snapshot IS NULL
  FOR UPDATE OF v),
s AS (
  UPDATE state.snapshots x SET newest = x.newest + 1 FROM (SELECT DISTINCT org_id FROM v) o WHERE x.org_id = o.org_id
  RETURNING x.org_id, x.newest),
d AS (
  UPDATE state.datasets x SET snapshot = s.newest FROM s, (SELECT DISTINCT dataset_uuid, org_id FROM v) w
  WHERE x.dataset_uuid = w.dataset_uuid AND s.org_id = w.org_id)
UPDATE state.dataset_versions x SET replaced_snapshot = s.newest, withdrawn = %(reason)s::text
FROM v JOIN s USING (org_id)
WHERE x.dataset_version = v.dataset_version
RETURNING x.dataset_version;

-- name: registered
-- Objects of the visible versions of a job's datasets.
SELECT v.dataset_version, d.chain_id, d.dataset_uuid, f.key, f.bytes
FROM state.jobs j
JOIN state.streams s USING (job_id)
JOIN state.datasets d USING (dataset_uuid)
JOIN state.dataset_versions v USING (dataset_uuid)
JOIN state.dataset_files f USING (dataset_version)
WHERE j.org_id = %(org)s::uuid AND j.name = %(name)s::text AND v.replaced_snapshot IS NULL
ORDER BY d.dataset_uuid, f.key;
