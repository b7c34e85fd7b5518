-- name: take_over
-- A new term. No row: somebody else leads. The same cluster and namespace may take over at once: Ray runs one actor per
-- name, and the fence covers a mistake.
INSERT INTO state.dispatcher AS d (name, epoch, holder, build, expires_at)
VALUES ('dispatcher', 1, %(holder)s::text, %(build)s::text, clock_timestamp() + %(ttl)s::interval)
ON CONFLICT (name) DO UPDATE SET epoch = d.epoch + 1, holder = excluded.holder, build = excluded.build,
  expires_at = excluded.expires_at
WHERE d.expires_at < clock_timestamp()
   OR regexp_replace(d.holder, '/[^/]*$', '') = regexp_replace(excluded.holder, '/[^/]*$', '')
RETURNING epoch;

-- name: release
-- End a term, so that the next Dispatcher need not wait for its expiry.
UPDATE state.dispatcher SET expires_at = clock_timestamp() WHERE name = 'dispatcher' AND epoch = %(epoch)s::bigint;

-- name: fence
-- Raises when another epoch leads; otherwise a take-over waits until this transaction ends. Up to there statements are
-- planned once and for all, row by row through indexes and in index order: the right plan is known, statistics of a queue
-- are always late, planning anew costs more than a small batch, and a hash or merge join would read all of the queue, or
-- all of its history, for the few rows of a tick.
SELECT state.fence('dispatcher', %(epoch)s::bigint, %(ttl)s::interval),
  set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
  set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
  set_config('enable_mergejoin', 'off', true);

-- name: claim
-- Lease due tasks of enabled streams in order, those of one group to one worker: a group shares job, range and pool, so
-- that one call extracts it, until its tasks have failed so often that each is tried alone. `slot` counts the groups from
-- 1. As many tasks are looked at as the slots can take, and some more. A pool that gives no head is left alone, so that an
-- outage costs no attempts. No lock is needed beside the fence's: what an operator cancels meanwhile is not queued. Rows are
-- found again at the place where they were read; one that has moved meanwhile is left to the next tick. Tokens come from a
-- secret that is drawn anew for each claim: a random number from the system for every row costs seven times as much.
WITH q AS (
  SELECT q.place, row_number() OVER (ORDER BY q.priority, q.run_at, q.seq) AS position, q.job_id, q.range_start, q.range_end,
    s.rpc_pool, s.dataset_key, s.cryo_dataset_name, j.chain_id, j.receipts,
    CASE WHEN q.task_failures >= %(alone)s::int THEN q.task_id END AS alone
  FROM (
    SELECT ctid AS place, task_id, job_id, stream_id, range_start, range_end, task_failures, priority, run_at, seq
    FROM state.tasks
    WHERE kind = 'sync' AND state = 'queued' AND run_at <= coalesce(%(now)s::timestamptz, now())
      AND stream_id = ANY(ARRAY(
        SELECT s.stream_id FROM state.streams s JOIN state.jobs j USING (job_id)
        LEFT JOIN state.heads h ON h.rpc_pool = s.rpc_pool AND h.chain_id = j.chain_id
        WHERE s.enabled AND j.enabled AND h.error IS NULL AND h.doubted IS NOT TRUE AND state.leads(%(epoch)s::bigint)))
    ORDER BY priority, run_at, seq
    LIMIT %(more)s::int + cardinality(%(slots)b::text[]) * (
      SELECT max(n) FROM (SELECT count(*) AS n FROM state.streams WHERE enabled GROUP BY job_id) per_job)) q
  JOIN state.streams s USING (stream_id)
  JOIN state.jobs j ON j.job_id = q.job_id),
f AS (
  SELECT q.*, min(position) OVER (PARTITION BY job_id, range_start, range_end, rpc_pool, alone) AS first FROM q),
p AS (SELECT f.*, dense_rank() OVER (ORDER BY first) AS slot FROM f),
c AS (
  UPDATE state.tasks t
  SET state = 'running', attempt = t.attempt + 1, worker_id = (%(slots)b::text[])[p.slot],
      lease_token = encode(substring(sha256(%(seed)b::bytea || uuid_send(t.task_id)) FOR 16), 'hex')::uuid,
      lease_expires_at = clock_timestamp() + %(ttl)s::interval, lease_epoch = %(epoch)s::bigint
  FROM p
  WHERE t.ctid = p.place AND p.slot <= cardinality(%(slots)b::text[]) AND t.state = 'queued'
    AND state.leads(%(epoch)s::bigint)
  RETURNING p.slot, p.position, t.task_id, t.job_id, t.dataset_uuid, t.range_start, t.range_end, t.attempt, t.lease_token,
    t.worker_id, t.generation, t.payload ->> 'config_hash' AS config_hash, p.chain_id, p.dataset_key, p.cryo_dataset_name,
    p.rpc_pool, p.receipts),
a AS (
  INSERT INTO state.attempts (task_id, attempt, lease_token, epoch, worker_id, started_at)
  SELECT task_id, attempt, lease_token, %(epoch)s::bigint, worker_id, clock_timestamp() FROM c)
SELECT slot, task_id, job_id, dataset_uuid, range_start, range_end, attempt, lease_token, generation, config_hash, chain_id,
  dataset_key, cryo_dataset_name, rpc_pool, receipts
FROM c ORDER BY position;

-- name: neighbours
-- Published versions that touch or overlap these spans of datasets. Visible versions of a dataset do not overlap, so of
-- those that start before a span only the last one can reach it.
SELECT i.dataset_uuid, v.range_start, v.range_end, v.generation, v.parent_hash, v.end_hash
FROM unnest(%(datasets)b::uuid[], %(span_starts)b::bigint[], %(span_ends)b::bigint[]) AS i(dataset_uuid, span_start, span_end)
CROSS JOIN LATERAL (
  (SELECT range_start, range_end, generation, parent_hash, end_hash FROM state.dataset_versions o
   WHERE o.dataset_uuid = i.dataset_uuid AND o.replaced_snapshot IS NULL AND o.range_start < i.span_start
   ORDER BY o.range_start DESC LIMIT 1)
  UNION ALL
  SELECT range_start, range_end, generation, parent_hash, end_hash FROM state.dataset_versions o
  WHERE o.dataset_uuid = i.dataset_uuid AND o.replaced_snapshot IS NULL
    AND o.range_start BETWEEN i.span_start AND i.span_end) v
WHERE v.range_end >= i.span_start;

-- name: heartbeat
-- The attempts that are still held. Leases that have used a tenth of their time are renewed, the others are fresh enough.
WITH i AS (
  SELECT * FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[]) AS i(task_id, attempt, lease_token)),
r AS (
  UPDATE state.tasks t SET lease_expires_at = clock_timestamp() + %(ttl)s::interval
  FROM i
  WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token AND t.state = 'running'
    AND t.lease_expires_at < clock_timestamp() + %(ttl)s::interval * 9 / 10 AND state.leads(%(epoch)s::bigint))
SELECT t.task_id, t.attempt, t.lease_token
FROM i JOIN state.tasks t ON t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
WHERE t.state = 'running';

-- name: known
-- What the ledger knows of attempts.
SELECT t.task_id, i.attempt AS asked, t.state, t.attempt, t.lease_token, a.lease_token AS attempt_token
FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[]) AS i(task_id, attempt)
JOIN state.tasks t ON t.task_id = i.task_id
LEFT JOIN state.attempts a ON a.task_id = i.task_id AND a.attempt = i.attempt;

-- name: judge
-- What the ledger knows of attempts that want to publish, locked, by their position. The token of an open attempt is that
-- of its lease, so that its row need not be found.
SELECT i.position, t.state, t.attempt, t.lease_token,
  CASE WHEN t.state = 'running' AND t.attempt = i.attempt THEN t.lease_token ELSE (
    SELECT a.lease_token FROM state.attempts a WHERE a.task_id = i.task_id AND a.attempt = i.attempt) END,
  t.generation, t.dataset_uuid, t.range_start, t.range_end,
  (t.payload ->> 'chain_id')::bigint, t.payload ->> 'dataset_key', t.payload ->> 'config_hash'
FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[]) WITH ORDINALITY AS i(task_id, attempt, position)
JOIN state.tasks t ON t.task_id = i.task_id
WHERE state.leads(%(epoch)s::bigint)
FOR UPDATE OF t;

-- name: complete
-- Finish attempts: task, attempt, range, dataset version, snapshot and outbox in one statement. The ids that come back
-- were accepted. A late reply of the current attempt is welcome until a newer one starts. A version is registered once,
-- so its event is new, and one that is not is an error that undoes all. One row of the outbox names all of them.
WITH i AS (
  SELECT * FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[], %(versions)b::uuid[], %(rows)b::bigint[],
      %(digests)b::text[], %(parents)b::bytea[], %(ends)b::bytea[], %(certificates)b::jsonb[], %(seconds)b::jsonb[])
    AS i(task_id, attempt, lease_token, dataset_version, row_count, digest, parent_hash, end_hash, certificate, seconds)),
d AS (
  UPDATE state.tasks t
  SET state = 'succeeded', lease_token = NULL, lease_expires_at = NULL, error = NULL, finished_at = clock_timestamp()
  FROM i
  WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
    AND t.state IN ('running', 'queued') AND state.leads(%(epoch)s::bigint)
  RETURNING t.task_id, t.attempt, t.generation, t.seq, t.payload ->> 'config_hash' AS config_hash, t.stream_id,
    t.dataset_uuid, t.range_start, t.range_end,
    i.dataset_version, i.row_count, i.digest, i.parent_hash, i.end_hash, i.certificate, i.seconds),
a AS (
  UPDATE state.attempts x SET outcome = 'succeeded', ended_at = clock_timestamp(), error = NULL, seconds = d.seconds
  FROM d WHERE x.task_id = d.task_id AND x.attempt = d.attempt),
r AS (UPDATE state.ranges x SET done = true, dead = false
  FROM d WHERE x.stream_id = d.stream_id AND x.range_start = d.range_start),
n AS (
  SELECT d.*, x.org_id, row_number() OVER (PARTITION BY x.org_id ORDER BY d.seq) AS step
  FROM d JOIN state.datasets x USING (dataset_uuid)),
s AS (
  UPDATE state.snapshots x SET newest = x.newest + m.steps
  FROM (SELECT org_id, max(step) AS steps FROM n GROUP BY org_id) m
  WHERE x.org_id = m.org_id
  RETURNING x.org_id, x.newest - m.steps AS before),
u AS (
  UPDATE state.datasets x SET snapshot = m.newest
  FROM (SELECT n.dataset_uuid, max(s.before + n.step) AS newest FROM n JOIN s USING (org_id) GROUP BY n.dataset_uuid) m
  WHERE x.dataset_uuid = m.dataset_uuid),
v AS (
  INSERT INTO state.dataset_versions (dataset_version, dataset_uuid, config_hash, range_start, range_end, generation,
    row_count, digest, parent_hash, end_hash, certificate, task_id, attempt, published_snapshot)
  SELECT n.dataset_version, n.dataset_uuid, n.config_hash, n.range_start, n.range_end, n.generation,
    n.row_count, n.digest, n.parent_hash, n.end_hash, n.certificate, n.task_id, n.attempt, s.before + n.step
  FROM n JOIN s USING (org_id)),
e AS (SELECT array_agg(dataset_version ORDER BY seq) AS versions FROM d HAVING count(*) > 0),
o AS (
  INSERT INTO state.outbox (topic, idempotency_key, payload, versions)
  SELECT 'dataset.published', 'published/' || versions[1], '{}', versions FROM e)
SELECT task_id, attempt FROM d;

-- name: add_files
INSERT INTO state.dataset_files (dataset_version, position, key, bytes, row_count, digest, min_block, max_block)
SELECT * FROM unnest(%(versions)b::uuid[], %(positions)b::int[], %(keys)b::text[], %(bytes)b::bigint[], %(rows)b::bigint[],
  %(digests)b::text[], %(mins)b::bigint[], %(maxs)b::bigint[]);

-- name: replace
-- A later generation of a range replaces the earlier ones from its own snapshot on.
UPDATE state.dataset_versions old SET replaced_snapshot = new.published_snapshot
FROM state.dataset_versions new
WHERE new.dataset_version = ANY(%(versions)b::uuid[]) AND old.dataset_uuid = new.dataset_uuid
  AND old.range_start = new.range_start AND old.range_end = new.range_end
  AND old.generation < new.generation AND old.replaced_snapshot IS NULL;

-- name: fail
-- Count failed attempts: back to queued with back-off, or dead when fatal or when a budget is spent. What our own side
-- failed at spends the budget of lost workers, not that of the range.
WITH i AS (
  SELECT i.*, t.task_failures + (NOT i.infra)::int AS task_failures, t.infra_failures + i.infra::int AS infra_failures,
    i.retryable AND CASE WHEN i.infra THEN t.infra_failures + 1 < %(max_infra)s::int
                         ELSE t.task_failures + 1 < %(max_attempts)s::int END AS again
  FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[], %(retryable)s::boolean[], %(infra)s::boolean[],
      %(errors)b::text[]) AS i(task_id, attempt, lease_token, retryable, infra, error)
  JOIN state.tasks t ON t.task_id = i.task_id
  FOR UPDATE OF t),
f AS (
  UPDATE state.tasks t
  SET task_failures = i.task_failures, infra_failures = i.infra_failures,
      error = i.error::jsonb || jsonb_build_object('at', now()), lease_token = NULL, lease_expires_at = NULL, worker_id = NULL,
      state = CASE WHEN i.again THEN 'queued' ELSE 'dead' END,
      finished_at = CASE WHEN i.again THEN NULL ELSE clock_timestamp() END,
      run_at = now() + state.backoff(t.job_id::text || t.range_start,
        CASE WHEN i.infra THEN i.infra_failures ELSE i.task_failures END, %(base)s::interval, %(cap)s::interval)
  FROM i
  WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
    AND t.state IN ('running', 'queued') AND state.leads(%(epoch)s::bigint)
  RETURNING t.task_id, t.attempt, t.state, t.error, t.payload, t.stream_id, t.range_start),
a AS (
  UPDATE state.attempts x SET outcome = 'failed', ended_at = clock_timestamp(), error = f.error
  FROM f WHERE x.task_id = f.task_id AND x.attempt = f.attempt),
r AS (
  UPDATE state.ranges x SET dead = true
  FROM f WHERE x.stream_id = f.stream_id AND x.range_start = f.range_start AND f.state = 'dead'),
o AS (
  INSERT INTO state.outbox (topic, idempotency_key, payload)
  SELECT 'task.dead', 'dead/' || task_id || '/' || attempt, payload || jsonb_build_object('task_id', task_id) FROM f WHERE state = 'dead'
  ON CONFLICT (idempotency_key) DO NOTHING)
SELECT task_id, attempt FROM f;

-- name: reap
-- Take back expired leases in one statement. The token stays on the row: a late reply is welcome until the next claim.
WITH f AS (
  UPDATE state.tasks t
  SET infra_failures = t.infra_failures + 1, worker_id = NULL, lease_expires_at = NULL,
      state = CASE WHEN t.infra_failures + 1 < %(max_infra)s::int THEN 'queued' ELSE 'dead' END,
      finished_at = CASE WHEN t.infra_failures + 1 < %(max_infra)s::int THEN NULL ELSE clock_timestamp() END,
      error = jsonb_build_object('kind', 'LeaseExpired', 'message', 'the worker went silent and its lease expired', 'at', now()),
      run_at = now() + state.backoff(t.job_id::text || t.range_start, t.infra_failures + 1, %(base)s::interval, %(cap)s::interval)
  WHERE t.task_id = ANY(ARRAY(
      SELECT task_id FROM state.tasks WHERE state = 'running' AND lease_expires_at < clock_timestamp() FOR UPDATE SKIP LOCKED))
    AND t.state = 'running' AND t.lease_expires_at < clock_timestamp() AND state.leads(%(epoch)s::bigint)
  RETURNING t.task_id, t.attempt, t.state, t.error, t.payload, t.stream_id, t.range_start),
a AS (
  UPDATE state.attempts x SET outcome = 'expired', ended_at = clock_timestamp(), error = f.error
  FROM f WHERE x.task_id = f.task_id AND x.attempt = f.attempt),
r AS (
  UPDATE state.ranges x SET dead = true
  FROM f WHERE x.stream_id = f.stream_id AND x.range_start = f.range_start AND f.state = 'dead'),
o AS (
  INSERT INTO state.outbox (topic, idempotency_key, payload)
  SELECT 'task.dead', 'dead/' || task_id || '/' || attempt, payload || jsonb_build_object('task_id', task_id) FROM f WHERE state = 'dead'
  ON CONFLICT (idempotency_key) DO NOTHING)
SELECT task_id FROM f;

-- name: free
-- Requeue at once what dead workers held; `workers` NULL means every worker except `except`, older epochs only.
WITH f AS (
  UPDATE state.tasks t
  SET infra_failures = t.infra_failures + 1, worker_id = NULL, lease_expires_at = NULL, lease_token = NULL,
      state = CASE WHEN t.infra_failures + 1 < %(max_infra)s::int THEN 'queued' ELSE 'dead' END,
      finished_at = CASE WHEN t.infra_failures + 1 < %(max_infra)s::int THEN NULL ELSE clock_timestamp() END,
      error = jsonb_build_object('kind', 'WorkerLost', 'message', 'the worker died', 'at', now()),
      run_at = now()
  WHERE t.state = 'running' AND state.leads(%(epoch)s::bigint)
    AND CASE WHEN %(workers)b::text[] IS NULL
             THEN t.lease_epoch < %(epoch)s::bigint AND t.worker_id <> ALL(%(except)b::text[])
             ELSE t.worker_id = ANY(%(workers)b::text[]) END
  RETURNING t.task_id, t.attempt, t.state, t.error, t.payload, t.stream_id, t.range_start),
a AS (
  UPDATE state.attempts x SET outcome = 'released', ended_at = clock_timestamp(), error = f.error
  FROM f WHERE x.task_id = f.task_id AND x.attempt = f.attempt),
r AS (
  UPDATE state.ranges x SET dead = true
  FROM f WHERE x.stream_id = f.stream_id AND x.range_start = f.range_start AND f.state = 'dead'),
o AS (
  INSERT INTO state.outbox (topic, idempotency_key, payload)
  SELECT 'task.dead', 'dead/' || task_id || '/' || attempt, payload || jsonb_build_object('task_id', task_id) FROM f WHERE state = 'dead'
  ON CONFLICT (idempotency_key) DO NOTHING)
SELECT task_id FROM f;

-- name: adopt
-- A new term takes over what living workers hold, even when the lease has expired meanwhile. No newer attempt exists
-- where attempt and token still match.
WITH d AS (
  UPDATE state.tasks t
  SET state = 'running', lease_epoch = %(epoch)s::bigint, worker_id = i.worker_id,
      lease_expires_at = clock_timestamp() + %(ttl)s::interval
  FROM unnest(%(tasks)b::uuid[], %(attempts)b::int[], %(tokens)b::uuid[], %(workers)b::text[])
    AS i(task_id, attempt, lease_token, worker_id)
  WHERE t.task_id = i.task_id AND t.attempt = i.attempt AND t.lease_token = i.lease_token
    AND t.state IN ('running', 'queued') AND state.leads(%(epoch)s::bigint)
  RETURNING t.task_id, t.attempt, t.lease_token),
a AS (
  UPDATE state.attempts x SET outcome = NULL, ended_at = NULL, error = NULL
  FROM d WHERE x.task_id = d.task_id AND x.attempt = d.attempt)
SELECT * FROM d;

-- name: cancel
-- Queued and running tasks end for good; the token dies with them.
WITH d AS (
  UPDATE state.tasks
  SET state = 'cancelled', lease_token = NULL, lease_expires_at = NULL, worker_id = NULL, finished_at = clock_timestamp()
  WHERE task_id = ANY(%(tasks)b::uuid[]) AND state IN ('queued', 'running')
  RETURNING task_id, attempt, stream_id, range_start),
a AS (
  UPDATE state.attempts x SET outcome = 'cancelled', ended_at = clock_timestamp()
  FROM d WHERE x.task_id = d.task_id AND x.attempt = d.attempt AND x.outcome IS NULL),
r AS (
  UPDATE state.ranges x SET dead = true FROM d WHERE x.stream_id = d.stream_id AND x.range_start = d.range_start)
SELECT task_id FROM d;

-- name: replay
-- Dead ranges of a job go back to queued with fresh budgets; attempts go on counting, so history is kept.
WITH d AS (
  UPDATE state.tasks SET state = 'queued', task_failures = 0, infra_failures = 0, run_at = now(), finished_at = NULL, error = NULL,
    lease_token = NULL -- a late reply of an attempt that died is refused, as it was while the task was dead
  WHERE state IN ('dead', 'cancelled') AND task_id = ANY(ARRAY(
    SELECT r.task_id FROM state.ranges r JOIN state.streams s USING (stream_id)
    WHERE s.job_id = %(job)s::uuid AND NOT r.done AND r.dead))
  RETURNING task_id, stream_id, range_start),
r AS (
  UPDATE state.ranges x SET dead = false FROM d WHERE x.stream_id = d.stream_id AND x.range_start = d.range_start)
SELECT task_id FROM d;
