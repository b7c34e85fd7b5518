-- name: lock_organisation
-- Rules of one organisation are applied one after another.
SELECT pg_advisory_xact_lock(hashtextextended('rules/' || %(org)s::uuid::text, 0));

-- name: datasets
-- Datasets of an organisation that have one of these names.
SELECT dataset_uuid, name, chain_id FROM state.datasets
WHERE org_id = %(org)s::uuid AND name = ANY(%(names)b::text[]);

-- name: dataset_names
SELECT name FROM state.datasets WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: find
-- Rules by id, or all of an organisation, in the order of their names; each with its datasets as they are named now.
SELECT r.*, ARRAY(
    SELECT d.name FROM state.rule_datasets w JOIN state.datasets d USING (dataset_uuid)
    WHERE w.rule_id = r.rule_id ORDER BY w.position) AS datasets
FROM state.rules r
WHERE (%(rules)b::uuid[] IS NULL OR r.rule_id = ANY(%(rules)b::uuid[]))
  AND (%(org)s::uuid IS NULL OR r.org_id = %(org)s::uuid)
ORDER BY r.name, r.rule_id;

-- name: save
INSERT INTO state.rules AS r (rule_id, org_id, name, bundle, parameters, channels, severity, mode, enabled, timeout_s,
  memory_mib, max_delivery_age_s, throttle_count, throttle_per_s, yaml_hash)
VALUES (%(rule)s::uuid, %(org)s::uuid, %(name)s::text, %(bundle)s::text, %(parameters)s::jsonb, %(channels)s::text[],
  %(severity)s::text, %(mode)s::text, %(enabled)s::boolean, %(timeout_s)s::float8, %(memory_mib)s::int,
  %(max_delivery_age_s)s::float8, %(throttle_count)s::int, %(throttle_per_s)s::float8, %(yaml_hash)s::text)
ON CONFLICT (rule_id) DO UPDATE SET bundle = excluded.bundle, parameters = excluded.parameters,
  channels = excluded.channels, severity = excluded.severity, mode = excluded.mode, enabled = excluded.enabled,
  timeout_s = excluded.timeout_s, memory_mib = excluded.memory_mib, max_delivery_age_s = excluded.max_delivery_age_s,
  throttle_count = excluded.throttle_count, throttle_per_s = excluded.throttle_per_s, yaml_hash = excluded.yaml_hash,
  updated_at = now();

-- name: drop_datasets
DELETE FROM state.rule_datasets WHERE rule_id = %(rule)s::uuid;

-- name: add_datasets
INSERT INTO state.rule_datasets (rule_id, position, dataset_uuid)
SELECT %(rule)s::uuid, position, dataset_uuid
FROM unnest(%(datasets)b::uuid[]) WITH ORDINALITY AS i(dataset_uuid, position);

-- name: revise
-- Keep what a rule says now as its next revision.
WITH r AS (UPDATE state.rules SET revision = revision + 1 WHERE rule_id = %(rule)s::uuid RETURNING *)
INSERT INTO state.rule_revisions (rule_id, revision, bundle, dataset_uuids, parameters, channels, severity, mode, timeout_s,
  memory_mib, max_delivery_age_s, throttle_count, throttle_per_s)
SELECT rule_id, revision, bundle,
  ARRAY(SELECT dataset_uuid FROM state.rule_datasets w WHERE w.rule_id = r.rule_id ORDER BY position),
  parameters, channels, severity, mode, timeout_s, memory_mib, max_delivery_age_s, throttle_count, throttle_per_s
FROM r;

-- name: revisions
-- Revisions of rules; their datasets as they are named now, and whether the rule is enabled now.
SELECT v.rule_id, v.revision, v.applied_at, r.org_id, r.name, r.enabled, r.yaml_hash, v.bundle, v.parameters, v.channels,
  v.severity, v.mode, v.timeout_s, v.memory_mib, v.max_delivery_age_s, v.throttle_count, v.throttle_per_s,
  ARRAY(
    SELECT d.name FROM unnest(v.dataset_uuids) WITH ORDINALITY AS w(dataset_uuid, position)
    JOIN state.datasets d USING (dataset_uuid) ORDER BY w.position) AS datasets
FROM unnest(%(rules)b::uuid[], %(revisions)b::int[]) AS i(rule_id, revision)
JOIN state.rule_revisions v USING (rule_id, revision)
JOIN state.rules r USING (rule_id);

-- name: set_enabled
-- One row with what it was before, or none when there is no such rule.
WITH b AS (SELECT rule_id, enabled FROM state.rules WHERE org_id = %(org)s::uuid AND name = %(name)s::text FOR UPDATE)
UPDATE state.rules r SET enabled = %(enabled)s::boolean, updated_at = now() FROM b WHERE r.rule_id = b.rule_id
RETURNING b.enabled AS before;

-- name: names
SELECT name FROM state.rules WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: counts
-- How many evaluations rules have, by state.
SELECT job_id AS rule_id, state, count(*) AS evaluations FROM state.tasks
WHERE kind = 'evaluation' AND job_id = ANY(%(rules)b::uuid[]) GROUP BY job_id, state;

-- name: troubles
-- Evaluations of a rule that failed and are not done: dead ones first, then the newest trouble.
SELECT task_id, state, attempt, range_start, range_end, error FROM state.tasks
WHERE kind = 'evaluation' AND job_id = %(rule)s::uuid AND state IN ('queued', 'running', 'dead') AND error IS NOT NULL
ORDER BY state = 'dead' DESC, (error ->> 'at')::timestamptz DESC, task_id LIMIT %(limit)s::int;

-- name: any_enabled
-- Whether evaluations will have to be run.
SELECT EXISTS (SELECT FROM state.rules WHERE enabled) AS enabled;
