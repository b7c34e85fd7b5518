-- trace:database state
-- What a rule said, each time that its file changed it; a pause is no change. An attempt of an evaluation names the revision
-- that it ran with. `dataset_uuids` are in the order of the file.
CREATE TABLE state.rule_revisions (
  rule_id uuid REFERENCES state.rules ON DELETE CASCADE,
  revision int CHECK (revision > 0),
  bundle text NOT NULL,
  dataset_uuids uuid[] NOT NULL,
  parameters jsonb NOT NULL,
  channels text[] NOT NULL,
  severity text NOT NULL,
  mode text NOT NULL,
  timeout_s double precision NOT NULL,
  memory_mib int NOT NULL,
  max_delivery_age_s double precision,
  throttle_count int,
  throttle_per_s double precision,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (rule_id, revision)
);

ALTER TABLE state.rules ADD COLUMN revision int NOT NULL DEFAULT 0; -- the newest one
UPDATE state.rules SET revision = 1;
INSERT INTO state.rule_revisions (rule_id, revision, bundle, dataset_uuids, parameters, channels, severity, mode, timeout_s,
  memory_mib, max_delivery_age_s, throttle_count, throttle_per_s, applied_at)
SELECT rule_id, revision, bundle,
  ARRAY(SELECT dataset_uuid FROM state.rule_datasets w WHERE w.rule_id = r.rule_id ORDER BY position),
  parameters, channels, severity, mode, timeout_s, memory_mib, max_delivery_age_s, throttle_count, throttle_per_s, updated_at
FROM state.rules r;

ALTER TABLE state.attempts ADD COLUMN rule_revision int; -- NULL: of a range, or older than this column
