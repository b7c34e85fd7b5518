-- name: record
INSERT INTO data.query_audit
  (query_id, org_id, user_name, task_id, attempt, datasets, outcome, reason, rows, bytes, bytes_read, seconds, sql_hash,
   hostile, killed)
VALUES (%(query)s::uuid, %(org)s::uuid, %(user)s::text, %(task)s::uuid, %(attempt)s::int, %(datasets)s::jsonb,
  %(outcome)s::text, %(reason)s::text, %(rows)s::bigint, %(bytes)s::bigint, %(bytes_read)s::bigint, %(seconds)s::float8,
  %(sql_hash)s::text, %(hostile)s::boolean, %(killed)s::boolean);

-- name: recent
-- The newest rows of an organisation; with `strangers` also those of refused tokens, which belong to none.
SELECT * FROM data.query_audit
WHERE (org_id = %(org)s::uuid OR (%(strangers)s::boolean AND org_id IS NULL))
  AND (%(user)s::text IS NULL OR user_name = %(user)s::text)
  AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s::text)
ORDER BY at DESC, query_id
LIMIT %(limit)s::int;

-- name: find
SELECT * FROM data.query_audit WHERE query_id = %(query)s::uuid AND org_id = %(org)s::uuid;

-- name: save_result
-- Keep a result once. The second time it changes nothing; what is there must then be the same.
INSERT INTO data.query_results (query_id, org_id, key, rows, bytes, digest, expires_at)
VALUES (%(query)s::uuid, %(org)s::uuid, %(key)s::text, %(rows)s::bigint, %(bytes)s::bigint, %(digest)s::text,
  now() + make_interval(secs => %(kept_s)s::float8))
ON CONFLICT DO NOTHING;

-- name: result
-- A result that has not expired.
SELECT * FROM data.query_results
WHERE query_id = %(query)s::uuid AND org_id = %(org)s::uuid AND expires_at > now();

-- name: same_content
-- The stored result of an organisation that has this content and lives longest; kept from the sweeper meanwhile.
SELECT * FROM data.query_results
WHERE org_id = %(org)s::uuid AND digest = %(digest)s::text AND expires_at > now()
ORDER BY expires_at DESC LIMIT 1 FOR SHARE;

-- name: expired_results
-- Results to be removed, the oldest first; locked, so that one sweeper removes each. `shared`: a result that has not
-- expired lies in the same object.
SELECT r.*, EXISTS (SELECT FROM data.query_results o WHERE o.key = r.key AND o.expires_at > now()) AS shared
FROM data.query_results r
WHERE r.expires_at <= now()
ORDER BY r.expires_at LIMIT %(limit)s::int FOR UPDATE OF r SKIP LOCKED;

-- name: expired_count
SELECT count(*) AS count FROM data.query_results WHERE expires_at <= now();

-- name: known_keys
SELECT DISTINCT key FROM data.query_results WHERE key = ANY(%(keys)s::text[]);

-- name: forget
DELETE FROM data.query_results WHERE query_id = ANY(%(queries)s::uuid[]);

-- name: forget_old
-- Remove the oldest rows that are older than they are kept, so many at a time; what another sweeper removes is passed by.
WITH old AS (
  SELECT query_id FROM data.query_audit
  WHERE at < clock_timestamp() - make_interval(secs => %(kept_s)s::float8)
  ORDER BY at LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED)
DELETE FROM data.query_audit a USING old WHERE a.query_id = old.query_id;

-- name: old_count
SELECT count(*) AS count FROM data.query_audit
WHERE at < clock_timestamp() - make_interval(secs => %(kept_s)s::float8);
