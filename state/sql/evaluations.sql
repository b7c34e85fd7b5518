-- name: watched
-- Published versions and the rules that watch their datasets, paused ones too. Without any rule this costs next to nothing.
SELECT v.dataset_version, v.dataset_uuid, v.range_start, v.range_end, r.rule_id
FROM state.dataset_versions v
JOIN state.rule_datasets w USING (dataset_uuid)
JOIN state.rules r USING (rule_id)
WHERE v.dataset_version = ANY(%(versions)b::uuid[]) AND EXISTS (SELECT FROM state.rules)
ORDER BY v.dataset_version, r.rule_id;

-- name: members
-- The datasets of rules.
SELECT w.rule_id, w.dataset_uuid, d.chain_id
FROM state.rule_datasets w JOIN state.datasets d USING (dataset_uuid)
WHERE w.rule_id = ANY(%(rules)b::uuid[]) ORDER BY w.rule_id, w.position;

-- name: named
-- The datasets of an organisation that have one of these names.
SELECT dataset_uuid, chain_id FROM state.datasets
WHERE org_id = %(org)s::uuid AND name = ANY(%(names)b::text[]) ORDER BY dataset_uuid;

-- name: visible
-- Versions that are visible now and overlap these spans of datasets, and the newest snapshot, which shows all of them.
-- Visible versions of a dataset do not overlap, so of those that start before a span only the last one can reach it.
SELECT i.dataset_uuid, v.dataset_version, v.range_start, v.range_end, y.newest
FROM unnest(%(datasets)b::uuid[], %(starts)b::bigint[], %(ends)b::bigint[]) AS i(dataset_uuid, span_start, span_end)
JOIN state.datasets d USING (dataset_uuid)
JOIN state.snapshots y USING (org_id)
CROSS JOIN LATERAL (
  (SELECT dataset_version, range_start, range_end FROM state.dataset_versions o
   WHERE o.dataset_uuid = i.dataset_uuid AND o.replaced_snapshot IS NULL AND o.range_start < i.span_start
   ORDER BY o.range_start DESC LIMIT 1)
  UNION ALL
  SELECT dataset_version, range_start, range_end FROM state.dataset_versions o
  WHERE o.dataset_uuid = i.dataset_uuid AND o.replaced_snapshot IS NULL
    AND o.range_start >= i.span_start AND o.range_start < i.span_end) v
WHERE v.range_end > i.span_start;

-- name: add
-- Queue evaluations. The ids that come back are new; one that was planned before stays as it is.
INSERT INTO state.tasks (task_id, kind, job_id, stream_id, dataset_uuid, range_start, range_end, priority, payload)
SELECT task_id, 'evaluation', rule_id, rule_id, rule_id, range_start, range_end, %(priority)s::smallint,
  jsonb_build_object('rule_id', rule_id, 'chain_id', chain_id, 'as_of', as_of, 'inputs', inputs,
    'range_start', range_start, 'range_end', range_end)
FROM unnest(%(tasks)b::uuid[], %(rules)b::uuid[], %(chains)b::bigint[], %(starts)b::bigint[], %(ends)b::bigint[],
  %(snapshots)b::bigint[], %(inputs)b::text[])
  WITH ORDINALITY AS i(task_id, rule_id, chain_id, range_start, range_end, as_of, inputs, position)
ORDER BY position
ON CONFLICT (task_id) DO NOTHING
RETURNING task_id;

-- name: restore
-- What was left out of these evaluations is queued after all.
UPDATE state.tasks
SET state = 'queued', priority = %(priority)s::smallint, task_failures = 0, infra_failures = 0, run_at = now(),
  finished_at = NULL, error = NULL
WHERE task_id = ANY(%(tasks)b::uuid[]) AND kind = 'evaluation' AND state = 'cancelled'
RETURNING task_id;

-- name: claim
-- Lease due evaluations of enabled rules whose bundle is not revoked, one per slot. Rules take turns, so that one with a
-- long queue holds up no other. No lock is needed beside the fence's: what an operator cancels meanwhile is not queued.
WITH q AS (
  SELECT q.task_id, r.revision, q.run_at, q.seq,
    row_number() OVER (PARTITION BY r.rule_id ORDER BY q.priority, q.run_at, q.seq) AS turn
  FROM state.rules r
  CROSS JOIN LATERAL (
    SELECT task_id, priority, run_at, seq FROM state.tasks
    WHERE kind = 'evaluation' AND job_id = r.rule_id AND state = 'queued' AND run_at <= coalesce(%(now)s::timestamptz, now())
    ORDER BY priority, run_at, seq LIMIT cardinality(%(slots)b::text[])) q
  WHERE r.enabled AND state.leads(%(epoch)s::bigint)
    AND NOT EXISTS (
      SELECT FROM state.bundles b WHERE b.org_id = r.org_id AND b.digest = r.bundle AND b.revoked_at IS NOT NULL)),
p AS (
  SELECT task_id, revision, row_number() OVER (ORDER BY turn, run_at, seq) AS slot
  FROM q ORDER BY turn, run_at, seq LIMIT cardinality(%(slots)b::text[])),
c AS (
  UPDATE state.tasks t
  SET state = 'running', attempt = t.attempt + 1, worker_id = (%(slots)b::text[])[p.slot], lease_token = gen_random_uuid(),
      lease_expires_at = clock_timestamp() + %(ttl)s::interval, lease_epoch = %(epoch)s::bigint
  FROM p
  WHERE t.task_id = p.task_id AND t.state = 'queued' AND state.leads(%(epoch)s::bigint)
  RETURNING p.slot, p.revision, t.task_id, t.job_id, t.range_start, t.range_end, t.attempt, t.lease_token, t.worker_id,
    t.payload),
a AS (
  INSERT INTO state.attempts (task_id, attempt, lease_token, epoch, worker_id, started_at, rule_revision)
  SELECT task_id, attempt, lease_token, %(epoch)s::bigint, worker_id, clock_timestamp(), revision FROM c)
SELECT task_id, job_id AS rule_id, revision, range_start, range_end, attempt, lease_token, worker_id, payload
FROM c ORDER BY slot;

-- name: finish
-- A running attempt of an evaluation succeeds. No row: it does not hold its task.
WITH d AS (
  UPDATE state.tasks
  SET state = 'succeeded', lease_token = NULL, lease_expires_at = NULL, error = NULL, finished_at = clock_timestamp()
  WHERE task_id = %(task)s::uuid AND attempt = %(attempt)s::int AND lease_token = %(token)s::uuid
    AND kind = 'evaluation' AND state = 'running' AND state.leads(%(epoch)s::bigint)
  RETURNING task_id, attempt),
a AS (
  UPDATE state.attempts x SET outcome = 'succeeded', ended_at = clock_timestamp(), error = NULL, seconds = %(durations)s::jsonb
  FROM d WHERE x.task_id = d.task_id AND x.attempt = d.attempt)
SELECT task_id FROM d;

-- name: source
-- What the ledger knows of an evaluation.
SELECT t.task_id, t.job_id AS rule_id, t.state, t.attempt, t.lease_token, t.range_start, t.range_end,
  t.payload, r.org_id
FROM state.tasks t JOIN state.rules r ON r.rule_id = t.job_id
WHERE t.task_id = %(task)s::uuid AND t.kind = 'evaluation';

-- name: replay
-- Dead evaluations of a rule go back to queued with fresh budgets; attempts go on counting, so history is kept.
UPDATE state.tasks
SET state = 'queued', task_failures = 0, infra_failures = 0, run_at = now(), finished_at = NULL, error = NULL,
  lease_token = NULL -- a late reply of an attempt that died is refused, as it was while the task was dead
WHERE kind = 'evaluation' AND job_id = %(rule)s::uuid AND state = 'dead'
RETURNING task_id;

-- name: queued
-- The queued evaluations of a rule, which nobody leases until the transaction ends.
SELECT task_id, range_start, range_end FROM state.tasks
WHERE kind = 'evaluation' AND job_id = %(rule)s::uuid AND state = 'queued'
ORDER BY range_start, range_end, task_id FOR UPDATE;

-- name: standing
-- Those of these attempts that run. `over`: their rule is paused or gone, or their bundle is revoked. `doubted`: a key of the
-- organisation was revoked since they began, a minute more because a revocation counts from where its transaction began.
SELECT t.task_id, t.attempt, t.lease_token, r.org_id, coalesce(v.bundle, r.bundle) AS bundle,
  r.enabled IS NOT TRUE OR EXISTS (
    SELECT FROM state.bundles b
    WHERE b.org_id = r.org_id AND b.digest = coalesce(v.bundle, r.bundle) AND b.revoked_at IS NOT NULL) AS over,
  EXISTS (
    SELECT FROM state.bundle_keys k
    WHERE k.org_id = r.org_id AND k.revoked_at > a.started_at - interval '1 min') AS doubted
FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[]) AS i(task_id, attempt, lease_token)
JOIN state.tasks t ON t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
JOIN state.attempts a ON a.task_id = t.task_id AND a.attempt = t.attempt
LEFT JOIN state.rules r ON r.rule_id = t.job_id
LEFT JOIN state.rule_revisions v ON v.rule_id = r.rule_id AND v.revision = a.rule_revision
WHERE t.kind = 'evaluation' AND t.state = 'running' AND state.leads(%(epoch)s::bigint);

-- name: withdraw
-- Running attempts lose their lease, and their evaluations wait again. This spends no budget: nobody failed.
WITH d AS (
  UPDATE state.tasks t
  SET state = 'queued', worker_id = NULL, lease_token = NULL, lease_expires_at = NULL, run_at = now()
  FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[]) AS i(task_id, attempt, lease_token)
  WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
    AND t.kind = 'evaluation' AND t.state = 'running' AND state.leads(%(epoch)s::bigint)
  RETURNING t.task_id, t.attempt)
UPDATE state.attempts x
SET outcome = 'released', ended_at = clock_timestamp(), error = jsonb_build_object(
  'kind', 'Withdrawn', 'message', 'its rule was paused, or its bundle or key revoked', 'at', now())
FROM d WHERE x.task_id = d.task_id AND x.attempt = d.attempt;
