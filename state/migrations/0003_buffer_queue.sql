-- trace:database state
-- Batches on their way to a sink. Delivered at least once; whoever handled one acknowledges it with the receipt of that
-- very delivery. Consumers present no epoch and no lease.
CREATE TABLE state.buffer_queue (
  message_id uuid PRIMARY KEY,
  queue text NOT NULL,
  idempotency_key text NOT NULL UNIQUE, -- task_id:attempt:batch_uri
  payload jsonb NOT NULL,
  published_at timestamptz NOT NULL DEFAULT now(),
  available_at timestamptz NOT NULL DEFAULT now(), -- while it is delivered: when it becomes visible again
  deliveries int NOT NULL DEFAULT 0,
  max_deliveries int NOT NULL CHECK (max_deliveries > 0),
  receipt uuid, -- of the newest delivery; NULL before the first one and after a refusal
  last_error text,
  replays int NOT NULL DEFAULT 0
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX buffer_ready ON state.buffer_queue (queue, available_at, message_id) WHERE deliveries < max_deliveries;
CREATE INDEX buffer_spent ON state.buffer_queue (available_at) WHERE deliveries >= max_deliveries; -- to be buried

-- Messages whose deliveries are used up: visible, and left for an operator.
CREATE TABLE state.buffer_dead_letters (
  message_id uuid PRIMARY KEY,
  queue text NOT NULL,
  idempotency_key text NOT NULL UNIQUE,
  payload jsonb NOT NULL,
  published_at timestamptz NOT NULL,
  deliveries int NOT NULL,
  max_deliveries int NOT NULL,
  last_error text,
  replays int NOT NULL,
  reason text NOT NULL,
  dead_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letters_by_queue ON state.buffer_dead_letters (queue, dead_at);

CREATE INDEX outbox_failed ON state.outbox (id) WHERE failed; -- what operators look for
