-- trace:database data
-- Alert events that the sink accepted: each once in an organisation, by its dedupe key.
CREATE TABLE data.alert_events (
  event_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  rule_id uuid NOT NULL,
  task_id uuid NOT NULL,
  attempt int NOT NULL,
  severity text NOT NULL,
  mode text NOT NULL,
  alert_definition_id uuid NOT NULL,
  dedupe_key text NOT NULL,
  event_time timestamptz NOT NULL,
  chain_id bigint NOT NULL,
  block_number bigint NOT NULL,
  block_hash bytea NOT NULL,
  tx_hash bytea,
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  retracted_at timestamptz,
  UNIQUE (org_id, dedupe_key)
);
