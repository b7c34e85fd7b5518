-- name: reader
-- The enabled user whose tokens carry this subject.
SELECT org_id, name, roles FROM state.users WHERE subject = %(subject)s::text AND enabled;

-- name: save
-- Create a user, or change its roles where roles are given. No row when another user has the subject.
INSERT INTO state.users AS u (org_id, name, subject, roles)
VALUES (%(org)s::uuid, %(name)s::text, coalesce(%(subject)s::text, %(default_subject)s::text), coalesce(%(roles)s::text[], '{}'))
ON CONFLICT (org_id, name) DO UPDATE
SET roles = coalesce(%(roles)s::text[], u.roles), subject = coalesce(%(subject)s::text, u.subject), updated_at = now()
RETURNING name, subject, roles, enabled, created_at;

-- name: enable
UPDATE state.users SET enabled = %(enabled)s::boolean, updated_at = now()
WHERE org_id = %(org)s::uuid AND name = %(name)s::text
RETURNING name;

-- name: users
SELECT name, subject, roles, enabled, created_at FROM state.users WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: read_roles
SELECT name, read_roles FROM state.datasets WHERE org_id = %(org)s::uuid ORDER BY name;

-- name: set_read_roles
UPDATE state.datasets SET read_roles = %(roles)s::text[]
WHERE org_id = %(org)s::uuid AND name = %(name)s::text
RETURNING name;
