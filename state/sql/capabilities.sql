-- name: running
-- The organisation of an attempt that runs at this moment: the newest of its task, under a lease that has not expired. A
-- task belongs to a job, or to a rule whose evaluation it is.
SELECT coalesce(j.org_id, r.org_id) AS org_id
FROM state.tasks t
LEFT JOIN state.jobs j ON j.job_id = t.job_id
LEFT JOIN state.rules r ON r.rule_id = t.job_id
WHERE (j.job_id IS NOT NULL OR r.rule_id IS NOT NULL) AND t.task_id = %(task)s::uuid AND t.attempt = %(attempt)s::int
  AND t.state = 'running' AND t.lease_expires_at > clock_timestamp();
