-- trace:database data
-- Alert events: drafts that the sink accepted, each once in its organisation. Organisation, rule, task, severity and mode
-- come from the ledger, the rest from the draft. `event_id` is made of organisation and dedupe key.
CREATE TABLE data.alert_events (
  event_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  rule_id uuid NOT NULL,
  rule text NOT NULL, -- the rule's name; no key leads out of this database
  task_id uuid NOT NULL,
  attempt int NOT NULL,
  severity text NOT NULL,
  mode text NOT NULL,
  dedupe_key text NOT NULL,
  event_time timestamptz NOT NULL,
  chain_id bigint NOT NULL,
  block_number bigint NOT NULL,
  block_hash bytea NOT NULL,
  tx_hash bytea,
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  retracted_at timestamptz, -- since then its block is known to be gone
  UNIQUE (org_id, dedupe_key)
);
CREATE INDEX events_by_org ON data.alert_events (org_id, created_at DESC);
CREATE INDEX events_by_rule ON data.alert_events (rule_id, created_at DESC);
CREATE INDEX events_by_block ON data.alert_events (chain_id, block_number); -- what a reorg takes back
