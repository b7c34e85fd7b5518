-- name: job_names
SELECT name FROM state.jobs WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: tasks
-- Tasks of an organisation, by job, by state, by id, or all: the newest trouble first, then what moved last. Chosen before
-- they are joined, since a ledger keeps every task that ever was. An evaluation has a rule in place of a job.
SELECT t.task_id, coalesce(j.name, e.name) AS job, coalesce(d.name, 'rule ' || e.name) AS dataset, t.range_start, t.range_end,
  t.generation, t.state, t.attempt, t.task_failures, t.infra_failures, coalesce(s.rpc_pool, '') AS rpc_pool, t.worker_id,
  t.created_at, t.run_at, t.lease_expires_at, t.finished_at, t.error, t.run_at > clock_timestamp() AS waits,
  coalesce(j.enabled, e.enabled) AS job_enabled, coalesce(s.enabled, true) AS stream_enabled, h.error AS head_error
FROM (
  SELECT task_id, row_number() OVER () AS place
  FROM (
    SELECT task_id FROM state.tasks
    WHERE job_id = ANY(ARRAY(
        SELECT job_id FROM state.jobs
        WHERE org_id = %(org)s::uuid AND (%(job)s::text IS NULL OR name = %(job)s::text)
        UNION ALL SELECT rule_id FROM state.rules WHERE org_id = %(org)s::uuid AND %(job)s::text IS NULL))
      AND (%(state)s::text IS NULL OR state = %(state)s::text)
      AND (%(tasks)b::uuid[] IS NULL OR task_id = ANY(%(tasks)b::uuid[]))
    ORDER BY CASE WHEN error IS NOT NULL THEN (error ->> 'at')::timestamptz END DESC NULLS LAST,
      coalesce(finished_at, lease_expires_at, created_at) DESC, seq DESC
    LIMIT %(limit)s::int) o) c
JOIN state.tasks t USING (task_id)
LEFT JOIN state.rules e ON e.rule_id = t.job_id
LEFT JOIN state.jobs j ON j.job_id = t.job_id
LEFT JOIN state.streams s USING (stream_id)
LEFT JOIN state.datasets d ON d.dataset_uuid = t.dataset_uuid
LEFT JOIN state.heads h ON h.rpc_pool = s.rpc_pool AND h.chain_id = j.chain_id
ORDER BY c.place;

-- name: attempts
-- Attempts of tasks, in order. The lease token stays in the table: who reads it could finish the attempt.
SELECT task_id, attempt, worker_id, epoch, started_at, ended_at, outcome, error, seconds
FROM state.attempts WHERE task_id = ANY(%(tasks)b::uuid[]) ORDER BY task_id, attempt;

-- name: dataset
SELECT dataset_uuid, name, chain_id, cryo_dataset_name FROM state.datasets
WHERE org_id = %(org)s::uuid AND name = %(name)s::text;

-- name: dataset_names
SELECT name FROM state.datasets WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: streams
-- What the jobs of a dataset want and how far they are planned.
SELECT j.name AS job, j.enabled AS job_enabled, j.from_block, j.to_block, c.next_block
FROM state.streams s
JOIN state.jobs j USING (job_id)
JOIN state.cursors c USING (stream_id)
WHERE s.dataset_uuid = %(dataset)s::uuid AND s.enabled;

-- name: planned
-- Planned ranges of a dataset that touch a span, in order.
SELECT r.range_start, r.range_end, r.task_id
FROM state.streams s
JOIN state.ranges r USING (stream_id)
WHERE s.dataset_uuid = %(dataset)s::uuid AND r.range_start < %(end)s::bigint AND r.range_end > %(start)s::bigint
ORDER BY r.range_start LIMIT %(limit)s::int;

-- name: versions
-- Versions of a dataset that touch a span, visible or not, in order and the newest generation first.
SELECT dataset_version, range_start, range_end, generation, row_count, digest, parent_hash, end_hash, certificate,
  task_id, attempt, published_at, published_snapshot, replaced_snapshot, withdrawn
FROM state.dataset_versions
WHERE dataset_uuid = %(dataset)s::uuid AND range_start < %(end)s::bigint AND range_end > %(start)s::bigint
  AND (%(versions)b::uuid[] IS NULL OR dataset_version = ANY(%(versions)b::uuid[]))
ORDER BY range_start, generation DESC LIMIT %(limit)s::int;

-- name: find_version
SELECT v.dataset_version, v.range_start, v.range_end, d.dataset_uuid, d.name, d.chain_id, d.cryo_dataset_name
FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
WHERE d.org_id = %(org)s::uuid AND v.dataset_version = %(version)s::uuid;

-- name: find_object
-- Versions that hold an object: by the last part of its key, perhaps of one version, or by how its digest begins.
SELECT DISTINCT v.dataset_version, v.range_start, v.range_end, d.dataset_uuid, d.name, d.chain_id, d.cryo_dataset_name
FROM state.dataset_files f
JOIN state.dataset_versions v USING (dataset_version)
JOIN state.datasets d USING (dataset_uuid)
WHERE d.org_id = %(org)s::uuid AND (%(version)s::uuid IS NULL OR f.dataset_version = %(version)s::uuid)
  AND (%(name)s::text IS NULL OR right(f.key, length(%(name)s::text) + 1) = '/' || %(name)s::text)
  AND (%(digest)s::text IS NULL OR starts_with(f.digest, %(digest)s::text))
LIMIT %(limit)s::int;

-- name: objects
SELECT dataset_version, key, bytes, row_count, digest, min_block, max_block
FROM state.dataset_files WHERE dataset_version = ANY(%(versions)b::uuid[]) ORDER BY dataset_version, position;
