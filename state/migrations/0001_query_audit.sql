-- trace:database data
-- What was asked of the query service and what became of it. No SQL text, token, URL or value of a row is ever in it.
CREATE SCHEMA data;

CREATE TABLE data.query_audit (
  query_id uuid PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  org_id uuid,      -- NULL when the token was refused, as all of the next three
  user_name text,
  task_id uuid,
  attempt int,
  datasets jsonb NOT NULL DEFAULT '[]', -- [{"name", "snapshot"}]
  outcome text NOT NULL,                -- OK or the code of the error
  reason text,
  rows bigint NOT NULL,
  bytes bigint NOT NULL,      -- of the answer
  bytes_read bigint NOT NULL, -- of the files that it was read from
  seconds double precision NOT NULL,
  sql_hash text,    -- keyed: HMAC-SHA256 in hex
  hostile boolean NOT NULL, -- its process died
  killed boolean NOT NULL,
  CHECK (user_name IS NULL OR task_id IS NULL),
  CHECK ((task_id IS NULL) = (attempt IS NULL)),
  CHECK (org_id IS NOT NULL OR (user_name IS NULL AND task_id IS NULL))
);
CREATE INDEX audit_by_org ON data.query_audit (org_id, at DESC);

-- Answers that lie in the object store, until they expire. Equal answers within an organisation share one object.
CREATE TABLE data.query_results (
  query_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  key text NOT NULL,
  rows bigint NOT NULL,
  bytes bigint NOT NULL,
  digest text NOT NULL, -- SHA-256 in hex
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX results_by_expiry ON data.query_results (expires_at);
CREATE INDEX results_by_content ON data.query_results (org_id, digest);
CREATE INDEX results_by_key ON data.query_results (key);
