-- name: running
-- The organisation of an attempt that runs at this moment: the newest of its task, under a lease that has not expired.
SELECT j.org_id
FROM state.tasks t JOIN state.jobs j USING (job_id)
WHERE t.task_id = %(task)s::uuid AND t.attempt = %(attempt)s::int
  AND t.state = 'running' AND t.lease_expires_at > clock_timestamp();
