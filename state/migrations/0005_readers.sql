-- trace:database state
-- Who may read what. A token says who asks; the organisation and the roles are here alone.
CREATE TABLE state.users (
  org_id uuid,
  name text,
  subject text NOT NULL UNIQUE, -- `sub` of the user's tokens: unique in the installation, so that it leads to one organisation
  roles text[] NOT NULL DEFAULT '{}',
  enabled boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, name)
);

-- Users with one of these roles may read the dataset; when there is none, every user of its organisation.
ALTER TABLE state.datasets ADD COLUMN read_roles text[] NOT NULL DEFAULT '{}';
