-- name: ledger
SELECT ledger_id, object_store FROM state.ledger;

-- name: has_objects
SELECT EXISTS (SELECT FROM state.dataset_files) AS yes;

-- name: bind
UPDATE state.ledger SET object_store = %(url)s::text;

-- name: hold
-- Locks that must outlive a slow object store.
SET LOCAL idle_in_transaction_session_timeout = '15min';

-- name: judge
-- What the ledger knows of objects: whether a version holds them, and whether every task of their dataset and range has
-- ended. Those tasks are locked, so that none begins again before this transaction ends; one that somebody else has locked
-- counts as open, and a range without a task as unknown.
WITH i AS (
  SELECT * FROM unnest(%(keys)b::text[], %(datasets)b::uuid[], %(starts)b::bigint[], %(ends)b::bigint[], %(versions)b::uuid[])
    AS i(key, dataset_uuid, range_start, range_end, dataset_version)),
w AS (SELECT DISTINCT dataset_uuid, range_start, range_end FROM i),
n AS (
  SELECT dataset_uuid, range_start, range_end, count(*) AS tasks
  FROM state.tasks JOIN w USING (dataset_uuid, range_start, range_end) GROUP BY dataset_uuid, range_start, range_end),
l AS (
  SELECT t.dataset_uuid, t.range_start, t.range_end
  FROM state.tasks t JOIN w USING (dataset_uuid, range_start, range_end)
  WHERE t.state IN ('succeeded', 'dead', 'cancelled')
  FOR UPDATE OF t SKIP LOCKED),
e AS (
  SELECT dataset_uuid, range_start, range_end, count(*) AS ended FROM l GROUP BY dataset_uuid, range_start, range_end)
SELECT i.key, coalesce(n.tasks = e.ended, false) AS ended,
  EXISTS (SELECT FROM state.dataset_files f WHERE f.dataset_version = i.dataset_version AND f.key = i.key) AS registered
FROM i
LEFT JOIN n USING (dataset_uuid, range_start, range_end)
LEFT JOIN e USING (dataset_uuid, range_start, range_end);

-- name: judge_batches
-- What the ledger knows of batches of drafts: whether a message that is not handled, or a dead letter, stands for one, and
-- whether its attempt is over: a later one began, or its evaluation has ended. A lost attempt whose evaluation is queued is
-- not over, since a new term may adopt it. One statement, so that a message on its way from queue to dead letters, or back,
-- is always seen. Nothing is locked: an attempt that is over never offers a batch again.
SELECT i.key,
  coalesce(t.attempt > i.attempt OR (t.attempt = i.attempt AND t.state IN ('succeeded', 'dead', 'cancelled')), false) AS ended,
  EXISTS (SELECT FROM state.buffer_queue q WHERE q.idempotency_key = i.message)
    OR EXISTS (SELECT FROM state.buffer_dead_letters d WHERE d.idempotency_key = i.message) AS registered
FROM unnest(%(keys)b::text[], %(tasks)b::uuid[], %(attempts)b::int[], %(messages)b::text[])
  AS i(key, task_id, attempt, message)
LEFT JOIN state.tasks t ON t.task_id = i.task_id AND t.kind = 'evaluation';
