-- trace:database state
-- Alert rules: which bundle runs over which datasets. `bundle` is the SHA-256 of its zip, whatever the file calls it.
CREATE TABLE state.rules (
  rule_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  name text NOT NULL,
  bundle text NOT NULL CHECK (bundle ~ '^[0-9a-f]{64}$'),
  parameters jsonb NOT NULL,
  channels text[] NOT NULL,
  severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  mode text NOT NULL CHECK (mode IN ('live', 'shadow')),
  enabled boolean NOT NULL,
  timeout_s double precision NOT NULL CHECK (timeout_s > 0),
  memory_mib int NOT NULL CHECK (memory_mib > 0),
  max_delivery_age_s double precision,
  throttle_count int,
  throttle_per_s double precision,
  yaml_hash text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, name),
  CHECK ((throttle_count IS NULL) = (throttle_per_s IS NULL))
);

-- By identity, not by name: a dataset that gets another name is still the one that the rule watches.
CREATE TABLE state.rule_datasets (
  rule_id uuid REFERENCES state.rules,
  position int,
  dataset_uuid uuid NOT NULL REFERENCES state.datasets,
  PRIMARY KEY (rule_id, position),
  UNIQUE (dataset_uuid, rule_id)
);

-- An evaluation is a task: leases, attempts and budgets are those of a range. Its job_id, stream_id and dataset_uuid are
-- the id of its rule, so that nothing of a job finds it. Who claims ranges must not look past a queue of evaluations.
ALTER TABLE state.tasks ADD COLUMN kind text NOT NULL DEFAULT 'sync' CHECK (kind IN ('sync', 'evaluation'));
DROP INDEX state.tasks_ready;
CREATE INDEX tasks_ready ON state.tasks (priority, run_at, seq) WHERE state = 'queued' AND kind = 'sync';
CREATE INDEX evaluations_by_rule ON state.tasks (job_id, state, priority, run_at, seq) WHERE kind = 'evaluation';
