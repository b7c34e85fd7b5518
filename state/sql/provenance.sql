-- name: ran
-- Which revision of its rule an attempt ran with, NULL when it is older than that record, and the rule's newest one.
SELECT a.rule_revision, r.revision AS newest
FROM state.tasks t
JOIN state.rules r ON r.rule_id = t.job_id
LEFT JOIN state.attempts a ON a.task_id = t.task_id AND a.attempt = %(attempt)s::int
WHERE t.task_id = %(task)s::uuid;

-- name: read
-- Versions of the datasets of a rule's revision that hold a block, as a snapshot shows them: one per dataset at the most.
SELECT v.dataset_version
FROM state.rule_revisions s
CROSS JOIN LATERAL unnest(s.dataset_uuids) WITH ORDINALITY AS w(dataset_uuid, position)
JOIN state.dataset_versions v USING (dataset_uuid)
WHERE s.rule_id = %(rule)s::uuid AND s.revision = %(revision)s::int AND v.range_start <= %(block)s::bigint AND v.range_end > %(block)s::bigint
  AND v.published_snapshot <= %(as_of)s::bigint
  AND (v.replaced_snapshot IS NULL OR v.replaced_snapshot > %(as_of)s::bigint)
ORDER BY w.position;
