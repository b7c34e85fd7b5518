-- name: trust
-- Add a key, or change what a trusted one may sign and until when. No row when it is revoked.
INSERT INTO state.bundle_keys AS k (org_id, keyid, algorithm, public_key, languages, not_after)
VALUES (%(org)s::uuid, %(keyid)s::text, %(algorithm)s::text, %(public)s::bytea, %(languages)s::text[],
  %(not_after)s::timestamptz)
ON CONFLICT (org_id, keyid) DO UPDATE SET languages = excluded.languages, not_after = excluded.not_after
WHERE k.revoked_at IS NULL AND k.public_key = excluded.public_key
RETURNING keyid;

-- name: count_keys
SELECT count(*) AS keys FROM state.bundle_keys WHERE org_id = %(org)s::uuid AND keyid <> %(keyid)s::text;

-- name: revoke_key
-- The row when there is such a key; revoking twice keeps the first instant.
UPDATE state.bundle_keys SET revoked_at = coalesce(revoked_at, now())
WHERE org_id = %(org)s::uuid AND keyid = %(keyid)s::text
RETURNING keyid;

-- name: revoke_bundle
-- The row when there is such a bundle; revoking twice keeps the first instant.
UPDATE state.bundles SET revoked_at = coalesce(revoked_at, now())
WHERE org_id = %(org)s::uuid AND digest = %(digest)s::text
RETURNING name, version;

-- name: now
SELECT clock_timestamp() AS now;

-- name: keys
SELECT keyid, algorithm, public_key, languages, not_after, trusted_at, revoked_at FROM state.bundle_keys
WHERE org_id = %(org)s::uuid ORDER BY trusted_at, keyid;

-- name: push
-- Add a bundle. No row when its digest, or its name and version, are there.
INSERT INTO state.bundles (org_id, digest, name, version, language, entrypoint, size, envelope, object_key)
VALUES (%(org)s::uuid, %(digest)s::text, %(name)s::text, %(version)s::text, %(language)s::text, %(entrypoint)s::text,
  %(size)s::bigint, %(envelope)s::bytea, %(key)s::text)
ON CONFLICT DO NOTHING
RETURNING *;

-- name: same
-- The bundles that stand in the way of a push: of its digest, or of its name and version. Locked until the commit.
SELECT * FROM state.bundles
WHERE org_id = %(org)s::uuid
  AND (digest = %(digest)s::text OR (name = %(name)s::text AND version = %(version)s::text))
ORDER BY digest FOR UPDATE;

-- name: sign_again
UPDATE state.bundles SET envelope = %(envelope)s::bytea
WHERE org_id = %(org)s::uuid AND digest = %(digest)s::text
RETURNING *;

-- name: by_digest
SELECT * FROM state.bundles WHERE org_id = %(org)s::uuid AND digest = %(digest)s::text;

-- name: by_version
SELECT * FROM state.bundles WHERE org_id = %(org)s::uuid AND name = %(name)s::text AND version = %(version)s::text;

-- name: newest
-- The bundle of a name that was pushed last and is not revoked.
SELECT * FROM state.bundles WHERE org_id = %(org)s::uuid AND name = %(name)s::text AND revoked_at IS NULL
ORDER BY pushed_at DESC, version DESC LIMIT 1;

-- name: bundles
SELECT * FROM state.bundles WHERE org_id = %(org)s::uuid ORDER BY name, pushed_at, version;
