-- name: find
-- Datasets of an organisation, by name, or all of them. `from_block` is the first block that a stream ever wanted,
-- `planned_to` the first that none has planned. `newest` is the organisation's snapshot, `snapshot` the dataset's: the
-- number of its last change, or of the last one up to the snapshot that is asked for. Without `roles` all is seen.
SELECT d.dataset_uuid, d.name, d.cryo_dataset_name, y.newest,
  CASE WHEN %(snapshot)s::bigint IS NULL OR %(snapshot)s::bigint >= d.snapshot THEN d.snapshot ELSE coalesce((
    SELECT max(greatest(published_snapshot, CASE WHEN replaced_snapshot <= %(snapshot)s::bigint THEN replaced_snapshot END))
    FROM state.dataset_versions v
    WHERE v.dataset_uuid = d.dataset_uuid AND v.published_snapshot <= %(snapshot)s::bigint), 0) END AS snapshot,
  (SELECT min(j.from_block) FROM state.streams s JOIN state.jobs j USING (job_id) WHERE s.dataset_uuid = d.dataset_uuid) AS from_block,
  (SELECT max(c.next_block) FROM state.streams s JOIN state.cursors c USING (stream_id) WHERE s.dataset_uuid = d.dataset_uuid) AS planned_to,
  (SELECT max(j.to_block) FROM state.streams s JOIN state.jobs j USING (job_id)
   WHERE s.dataset_uuid = d.dataset_uuid AND s.enabled) AS wanted_to
FROM state.datasets d
JOIN state.snapshots y USING (org_id)
WHERE d.org_id = %(org)s::uuid AND (%(names)s::text[] IS NULL OR d.name = ANY(%(names)s::text[]))
  AND (%(roles)s::text[] IS NULL OR d.read_roles = '{}' OR d.read_roles && %(roles)s::text[])
ORDER BY d.name;

-- name: names
SELECT name FROM state.datasets
WHERE org_id = %(org)s::uuid AND (%(roles)s::text[] IS NULL OR read_roles = '{}' OR read_roles && %(roles)s::text[])
ORDER BY name;

-- name: islands
-- Published blocks of datasets in a snapshot, neighbouring versions joined, in order.
WITH v AS (
  SELECT dataset_uuid, range_start, range_end,
    range_start > lag(range_end) OVER (PARTITION BY dataset_uuid ORDER BY range_start) AS apart
  FROM state.dataset_versions
  WHERE dataset_uuid = ANY(%(datasets)s::uuid[]) AND published_snapshot <= %(snapshot)s::bigint
    AND (replaced_snapshot IS NULL OR replaced_snapshot > %(snapshot)s::bigint)),
n AS (
  SELECT v.*, count(*) FILTER (WHERE apart) OVER (PARTITION BY dataset_uuid ORDER BY range_start) AS island FROM v)
SELECT dataset_uuid, min(range_start) AS range_start, max(range_end) AS range_end
FROM n GROUP BY dataset_uuid, island ORDER BY dataset_uuid, range_start;

-- name: sizes
-- What a snapshot shows of datasets, in numbers. No row for a dataset of which nothing is published.
SELECT v.dataset_uuid, sum(f.row_count)::bigint AS rows, count(*) AS files, sum(f.bytes)::bigint AS bytes
FROM state.dataset_versions v JOIN state.dataset_files f USING (dataset_version)
WHERE v.dataset_uuid = ANY(%(datasets)s::uuid[]) AND v.published_snapshot <= %(snapshot)s::bigint
  AND (v.replaced_snapshot IS NULL OR v.replaced_snapshot > %(snapshot)s::bigint)
GROUP BY v.dataset_uuid;

-- name: versions
-- Versions of a dataset that a snapshot shows, in order.
SELECT dataset_version, range_start, range_end, row_count, parent_hash, end_hash, certificate
FROM state.dataset_versions
WHERE dataset_uuid = %(dataset)s::uuid AND published_snapshot <= %(snapshot)s::bigint
  AND (replaced_snapshot IS NULL OR replaced_snapshot > %(snapshot)s::bigint)
ORDER BY range_start;

-- name: files
-- Files of datasets that a snapshot shows, in order of their blocks.
SELECT v.dataset_uuid, f.key, f.min_block, f.max_block, f.bytes, f.row_count
FROM state.dataset_versions v JOIN state.dataset_files f USING (dataset_version)
WHERE v.dataset_uuid = ANY(%(datasets)s::uuid[]) AND v.published_snapshot <= %(snapshot)s::bigint
  AND (v.replaced_snapshot IS NULL OR v.replaced_snapshot > %(snapshot)s::bigint)
ORDER BY v.dataset_uuid, v.range_start, f.position;

-- name: unpublished
-- Planned ranges of a dataset that are not done, with the reason as people read it. What waits after a failure is queued.
SELECT r.range_start, r.range_end, t.error ->> 'message' AS detail,
  CASE t.state WHEN 'running' THEN 'running' WHEN 'queued' THEN 'queued' ELSE 'dead' END AS reason
FROM state.streams s
JOIN state.ranges r USING (stream_id)
JOIN state.tasks t USING (task_id)
WHERE s.dataset_uuid = %(dataset)s::uuid AND NOT r.done
ORDER BY r.range_start;

-- name: out_of_sight
-- Ranges whose last version was replaced without a successor. They cannot overlap: a version that overlaps a visible one is
-- refused, and the last generation of a range stands for all of its generations.
SELECT DISTINCT ON (v.range_start) v.range_start, v.range_end, v.withdrawn AS detail
FROM state.dataset_versions v
WHERE v.dataset_uuid = %(dataset)s::uuid AND v.replaced_snapshot IS NOT NULL AND v.withdrawn IS NOT NULL
ORDER BY v.range_start, v.generation DESC;
