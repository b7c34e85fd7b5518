-- trace:database state
-- Ids are deterministic UUIDs; ranges are end-exclusive: [range_start, range_end). The database's clock is the only clock.
-- Hot tables carry no foreign keys: a check per row costs more than the statements that keep them consistent.
CREATE SCHEMA state;

-- Who may write: every write of a Dispatcher presents its epoch.
CREATE TABLE state.dispatcher (
  name text PRIMARY KEY,
  epoch bigint NOT NULL,
  holder text NOT NULL, -- cluster/namespace/pid
  expires_at timestamptz NOT NULL
);

CREATE FUNCTION state.fence(p_name text, p_epoch bigint, p_ttl interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE state.dispatcher SET expires_at = clock_timestamp() + p_ttl WHERE name = p_name AND epoch = p_epoch;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'epoch % is fenced', p_epoch USING ERRCODE = 'TR001';
  END IF;
END $$;

-- True for the epoch that leads, else an error: a guard in each statement of a Dispatcher, so that none can be written
-- without a term. The lock that makes a take-over wait is the fence's.
CREATE FUNCTION state.leads(p_epoch bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  PERFORM FROM state.dispatcher WHERE name = 'dispatcher' AND epoch = p_epoch;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'epoch % is fenced', p_epoch USING ERRCODE = 'TR001';
  END IF;
  RETURN true;
END $$;

-- Delay before the next attempt: doubling, capped, jittered by 0.5 to 1.5. The jitter is a hash of the seed, so that
-- the tasks of one range, which failed together, come back together.
CREATE FUNCTION state.backoff(p_seed text, p_failures int, p_base interval, p_cap interval) RETURNS interval
LANGUAGE sql IMMUTABLE AS $$
  SELECT least(p_cap, p_base * (2 ^ least(greatest(p_failures, 1) - 1, 20)))
         * (0.5 + (hashtextextended(p_seed, p_failures) & 1023) / 1023.0)
$$;

CREATE TABLE state.jobs (
  job_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  name text NOT NULL,
  chain_id bigint NOT NULL,
  chain_name text NOT NULL,
  enabled boolean NOT NULL,
  mode text NOT NULL CHECK (mode IN ('fixed_target', 'follow_head')),
  from_block bigint NOT NULL CHECK (from_block >= 0),
  to_block bigint,
  tail_lag bigint,
  head_poll_s double precision,
  max_head_age_s double precision,
  receipts text NOT NULL,
  yaml_hash text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, name),
  CHECK ((mode = 'fixed_target') = (to_block IS NOT NULL)),
  CHECK ((mode = 'follow_head') = (tail_lag IS NOT NULL AND max_head_age_s IS NOT NULL))
);

-- Snapshot numbers come from one counter per organisation, so that one number fixes what is visible in all its datasets.
CREATE TABLE state.snapshots (
  org_id uuid PRIMARY KEY,
  newest bigint NOT NULL DEFAULT 0
);

CREATE TABLE state.datasets (
  dataset_uuid uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  chain_id bigint NOT NULL,
  dataset_key text NOT NULL,
  cryo_dataset_name text NOT NULL,
  name text NOT NULL,
  snapshot bigint NOT NULL DEFAULT 0, -- number of its newest publication or replacement
  UNIQUE (org_id, name)
);

CREATE TABLE state.streams (
  stream_id uuid PRIMARY KEY,
  job_id uuid NOT NULL REFERENCES state.jobs,
  dataset_key text NOT NULL,
  dataset_uuid uuid NOT NULL REFERENCES state.datasets,
  cryo_dataset_name text NOT NULL,
  rpc_pool text NOT NULL,
  config_hash text NOT NULL,
  chunk_size bigint NOT NULL CHECK (chunk_size > 0),
  max_inflight int NOT NULL CHECK (max_inflight > 0),
  enabled boolean NOT NULL DEFAULT true, -- false: the stream left the job file; its data stays
  UNIQUE (job_id, dataset_key)
);
CREATE INDEX streams_dataset ON state.streams (dataset_uuid);

CREATE TABLE state.cursors (
  stream_id uuid PRIMARY KEY REFERENCES state.streams,
  next_block bigint NOT NULL CHECK (next_block >= 0), -- first block not yet scheduled
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- Newest block that a pool named. `head` is the last answer; `error` why the last question got none; `doubted` that a
-- range could not reach its provider since: the pool is asked at once, and nothing of it is leased before it answers.
CREATE TABLE state.heads (
  rpc_pool text,
  chain_id bigint,
  head bigint,
  observed_at timestamptz,
  error text,
  doubted boolean NOT NULL DEFAULT false,
  asked_at timestamptz NOT NULL,
  PRIMARY KEY (rpc_pool, chain_id)
);

CREATE TABLE state.ranges (
  stream_id uuid,
  range_start bigint,
  range_end bigint NOT NULL,
  task_id uuid NOT NULL,
  done boolean NOT NULL DEFAULT false,
  dead boolean NOT NULL DEFAULT false,
  PRIMARY KEY (stream_id, range_start),
  UNIQUE (stream_id, range_end),
  CHECK (range_end > range_start)
);
CREATE INDEX ranges_undone ON state.ranges (stream_id, range_start) WHERE NOT done; -- those not dead count as in flight

CREATE TABLE state.tasks (
  task_id uuid PRIMARY KEY,
  seq bigint GENERATED ALWAYS AS IDENTITY,
  job_id uuid NOT NULL,
  stream_id uuid NOT NULL,
  dataset_uuid uuid NOT NULL,
  range_start bigint NOT NULL,
  range_end bigint NOT NULL,
  priority smallint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'succeeded', 'dead', 'cancelled')),
  attempt int NOT NULL DEFAULT 0,
  generation int NOT NULL DEFAULT 0,
  task_failures int NOT NULL DEFAULT 0,  -- the range is bad
  infra_failures int NOT NULL DEFAULT 0, -- a worker, node or Dispatcher was lost
  payload jsonb NOT NULL,
  run_at timestamptz NOT NULL DEFAULT now(),
  error jsonb,
  lease_token uuid,
  lease_expires_at timestamptz,
  lease_epoch bigint,
  worker_id text,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  CHECK (state <> 'running' OR (lease_token IS NOT NULL AND lease_expires_at IS NOT NULL)),
  CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'dead', 'cancelled')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tasks_ready ON state.tasks (priority, run_at, seq) WHERE state = 'queued';
CREATE INDEX tasks_running ON state.tasks (worker_id) WHERE state = 'running'; -- lease_expires_at stays unindexed: HOT

CREATE TABLE state.attempts (
  task_id uuid,
  attempt int,
  lease_token uuid NOT NULL,
  epoch bigint NOT NULL,
  worker_id text,
  started_at timestamptz NOT NULL,
  ended_at timestamptz,
  outcome text CHECK (outcome IN ('succeeded', 'failed', 'expired', 'released', 'cancelled')),
  error jsonb,
  PRIMARY KEY (task_id, attempt)
);

CREATE TABLE state.dataset_versions (
  dataset_version uuid PRIMARY KEY,
  dataset_uuid uuid NOT NULL,
  config_hash text NOT NULL,
  range_start bigint NOT NULL,
  range_end bigint NOT NULL,
  generation int NOT NULL,
  row_count bigint NOT NULL,
  digest text NOT NULL,
  parent_hash bytea NOT NULL, -- of block range_start
  end_hash bytea NOT NULL,    -- hash of block range_end - 1
  certificate jsonb NOT NULL,
  task_id uuid NOT NULL,
  attempt int NOT NULL,
  published_at timestamptz NOT NULL DEFAULT now(),
  published_snapshot bigint NOT NULL,
  replaced_snapshot bigint,
  UNIQUE (dataset_uuid, config_hash, range_start, range_end, generation)
);
-- Finds neighbours. Partial, because an estimate of IS NULL on a table without statistics reads the whole history.
CREATE INDEX versions_by_start ON state.dataset_versions (dataset_uuid, range_start) WHERE replaced_snapshot IS NULL;
CREATE INDEX versions_recent ON state.dataset_versions (published_at);

CREATE TABLE state.dataset_files (
  dataset_version uuid,
  position int NOT NULL,
  key text NOT NULL,
  bytes bigint NOT NULL,
  row_count bigint NOT NULL,
  digest text NOT NULL,
  min_block bigint NOT NULL,
  max_block bigint NOT NULL,
  PRIMARY KEY (dataset_version, position)
);

CREATE TABLE state.outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL,
  idempotency_key text NOT NULL UNIQUE,
  payload jsonb NOT NULL,
  available_at timestamptz NOT NULL DEFAULT now(),
  attempts int NOT NULL DEFAULT 0,
  failed boolean NOT NULL DEFAULT false, -- attempts are used up: visible, and left for an operator
  last_error text
);
CREATE INDEX outbox_ready ON state.outbox (topic, available_at, id) WHERE NOT failed;
