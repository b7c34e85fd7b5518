"""The ledger of bundles: whose keys an organisation trusts, which bundles were pushed, and what was revoked.

A bundle is known by the SHA-256 of its zip and never changes. What is revoked stays so: another key, another version.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

from state.db import Connection, Row, statements, storable
from trace_ray.bundle import manifest, signing, verify
from trace_ray.bundle.keys import Algorithm, Keyring, TrustedKey, keyid_of
from trace_ray.bundle.manifest import DIGEST, Language, Manifest
from trace_ray.bundle.pushed import KeyEntry, PushedBundle, UsableBundle, object_key
from trace_ray.contracts import OrgId
from trace_ray.errors import BundleFault, BundleRejected, NotFound, RefusedInput

SQL: Final = statements("bundles")
MAX_KEYS: Final = 64  # of an organisation: each may have to be tried on each signature


# --- keys ---------------------------------------------------------------------------------------------------------


def trust(
    conn: Connection, org_id: OrgId, public: bytes, languages: Collection[Language], not_after: datetime | None = None
) -> TrustedKey:
    """Let a key (raw, 32 bytes) sign bundles of these languages, until `not_after`; a trusted key is changed.

    Raises:
        RefusedInput: the key is revoked, or there are 64 others.
    """
    key = TrustedKey(keyid_of(public), public, frozenset(languages), not_after)
    (found,) = conn.execute(SQL["count_keys"], {"org": org_id, "keyid": key.keyid})
    if found["keys"] >= MAX_KEYS:
        raise RefusedInput(f"the organisation has {MAX_KEYS} keys, revoked ones among them: use one of them")
    values = {
        "org": org_id,
        "keyid": key.keyid,
        "algorithm": key.algorithm,
        "public": public,
        "languages": sorted(languages),
        "not_after": not_after,
    }
    if conn.execute(SQL["trust"], values).fetchone() is None:
        raise RefusedInput(f"{key.keyid} was revoked, which is for good: make a new key with `trace-ray bundle keygen`")
    return key


def keys(conn: Connection, org_id: OrgId) -> list[KeyEntry]:
    """Return the keys of an organisation, revoked ones among them, the first trusted one first."""
    return [
        KeyEntry(
            TrustedKey(
                row["keyid"],
                bytes(row["public_key"]),
                frozenset(map(Language, row["languages"])),
                row["not_after"],
                revoked=row["revoked_at"] is not None,
                algorithm=Algorithm(row["algorithm"]),
            ),
            row["trusted_at"],
            row["revoked_at"],
        )
        for row in conn.execute(SQL["keys"], {"org": org_id})
    ]


def keyring(conn: Connection, org_id: OrgId) -> Keyring:
    """Return the keys to check a bundle with, as of now by the clock of the database."""
    (now,) = conn.execute(SQL["now"])
    return Keyring(tuple(entry.key for entry in keys(conn, org_id)), now["now"])


def revoke(conn: Connection, org_id: OrgId, reference: str) -> str:
    """Revoke a key by its keyid, or a bundle by its digest, for good; return in words what it is.

    From then on no lease is given out for the bundle, or for bundles that no other trusted key signed; the Dispatcher
    withdraws those that were.

    Raises:
        NotFound
    """
    if DIGEST.fullmatch(reference):
        row = conn.execute(SQL["revoke_bundle"], {"org": org_id, "digest": reference}).fetchone()
        found = None if row is None else f"bundle {row['name']}@{row['version']}"
    else:
        row = conn.execute(SQL["revoke_key"], {"org": org_id, "keyid": storable(reference)}).fetchone()
        found = None if row is None else f"key {row['keyid']}"
    if found is None:
        raise NotFound(f"there is no key or bundle {reference[:80]}: `trace-ray bundle list` shows keyids and digests")
    return found


# --- bundles ------------------------------------------------------------------------------------------------------


def push(conn: Connection, org_id: OrgId, digest: str, envelope: bytes) -> PushedBundle:
    """Add a bundle whose zip lies in the object store; pushing the same again changes nothing but its signatures.

    The envelope is checked against the organisation's keys as they are in this transaction.

    Raises:
        BundleRejected: the envelope does not hold, or the bundle was revoked.
        RefusedInput: the same name and version, or the same zip, was pushed with another content.
    """
    said, _ = verify.believe(envelope, digest, keyring(conn, org_id))
    values = {
        "org": org_id,
        "digest": digest,
        "name": said.name,
        "version": said.version,
        "language": said.language,
        "entrypoint": said.entrypoint,
        "size": said.size,
        "envelope": envelope,
        "key": object_key(org_id, digest),
    }
    if row := conn.execute(SQL["push"], values).fetchone():
        return _bundle(row)
    check(conn, org_id, digest, envelope)  # what stands in the way is committed by now
    (row,) = conn.execute(SQL["sign_again"], values)
    return _bundle(row)


def check(conn: Connection, org_id: OrgId, digest: str, envelope: bytes) -> None:
    """Refuse what `push` would refuse, and change nothing: before a zip is uploaded.

    Raises:
        BundleRejected, RefusedInput: as `push` does.
    """
    said, _ = verify.believe(envelope, digest, keyring(conn, org_id))
    values = {"org": org_id, "digest": digest, "name": said.name, "version": said.version}
    for row in conn.execute(SQL["same"], values).fetchall():
        _check_same(_bundle(row), digest, said)


def bundles(conn: Connection, org_id: OrgId) -> list[PushedBundle]:
    """Return the bundles of an organisation by name, and the oldest first."""
    return [_bundle(row) for row in conn.execute(SQL["bundles"], {"org": org_id})]


def pin(conn: Connection, org_id: OrgId, reference: str) -> PushedBundle:
    """Return the bundle that is meant by `name@version`, by `name` (the one pushed last) or by a digest.

    Raises:
        NotFound
        BundleRejected: it is revoked.
    """
    return _not_revoked(find(conn, org_id, reference))


def find(conn: Connection, org_id: OrgId, reference: str) -> PushedBundle:
    """Return the bundle that `pin` means, also one that is revoked.

    Raises:
        NotFound
    """
    reference = storable(reference)
    name, at, version = reference.partition("@")
    values = {"org": org_id, "digest": reference, "name": name, "version": version}
    statement = "by_version" if at else "by_digest" if DIGEST.fullmatch(reference) else "newest"
    row = conn.execute(SQL[statement], values).fetchone()
    if row is None:
        raise NotFound(f"there is no bundle {reference[:130]}: `trace-ray bundle list` shows names and digests")
    return _bundle(row)


def usable(conn: Connection, org_id: OrgId, digest: str) -> UsableBundle:
    """Return a bundle and the keys to check it with, at the moment when it is leased out.

    Raises:
        NotFound
        BundleRejected: `revoked`, or no key that signed it is trusted any more (`sig_...`).
    """
    bundle = pin(conn, org_id, digest)
    keyring_now = keyring(conn, org_id)
    verify.believe(bundle.envelope, bundle.digest, keyring_now)
    return UsableBundle(bundle, keyring_now)


def _check_same(found: PushedBundle, digest: str, said: Manifest) -> None:
    """Refuse to push something else than what is there."""
    _not_revoked(found)
    if found.digest != digest:
        raise RefusedInput(f"{said.name}@{said.version} was pushed with another content: give this one another version")
    before = manifest.parse_statement(signing.parse_envelope(found.envelope).payload)
    if replace(manifest.parse_predicate(before.predicate), created=said.created) != said:
        raise RefusedInput(
            f"the same zip was pushed as {found.name}@{found.version} with another statement: change the zip, or sign "
            "that statement"
        )


def _not_revoked(bundle: PushedBundle) -> PushedBundle:
    if bundle.revoked_at is not None:
        raise BundleRejected(
            BundleFault.REVOKED, f"{bundle.name}@{bundle.version} was revoked, which is for good: push another version"
        )
    return bundle


def _bundle(row: Row) -> PushedBundle:
    return PushedBundle(
        org_id=OrgId(row["org_id"]),
        digest=row["digest"],
        name=row["name"],
        version=row["version"],
        language=Language(row["language"]),
        entrypoint=row["entrypoint"],
        size=row["size"],
        envelope=bytes(row["envelope"]),
        key=row["object_key"],
        pushed_at=row["pushed_at"],
        revoked_at=row["revoked_at"],
    )
