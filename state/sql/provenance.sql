-- name: read
-- Versions of a rule's datasets that hold a block, as a snapshot shows them: one per dataset at the most.
SELECT v.dataset_version
FROM state.rule_datasets w JOIN state.dataset_versions v USING (dataset_uuid)
WHERE w.rule_id = %(rule)s::uuid AND v.range_start <= %(block)s::bigint AND v.range_end > %(block)s::bigint
  AND v.published_snapshot <= %(as_of)s::bigint
  AND (v.replaced_snapshot IS NULL OR v.replaced_snapshot > %(as_of)s::bigint)
ORDER BY w.position;
