-- trace:database state
-- Whose code may run, and which. Public keys alone: private ones never come here. Nothing is deleted: what is revoked stays
-- to be seen, and cannot be trusted or pushed again.
CREATE TABLE state.bundle_keys (
  org_id uuid,
  keyid text,
  algorithm text NOT NULL CHECK (algorithm = 'ed25519'),
  public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
  languages text[] NOT NULL,
  not_after timestamptz, -- NULL: until it is revoked
  trusted_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz,
  PRIMARY KEY (org_id, keyid)
);

CREATE TABLE state.bundles (
  org_id uuid,
  digest text CHECK (digest ~ '^[0-9a-f]{64}$'), -- SHA-256 of the zip
  name text NOT NULL,
  version text NOT NULL,
  language text NOT NULL,
  entrypoint text NOT NULL,
  size bigint NOT NULL CHECK (size > 0),
  envelope bytea NOT NULL, -- may gain signatures; all the rest never changes
  object_key text NOT NULL,
  pushed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_at timestamptz,
  PRIMARY KEY (org_id, digest),
  UNIQUE (org_id, name, version)
);
