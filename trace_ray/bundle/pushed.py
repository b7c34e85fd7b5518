"""Frozen values of what the ledger knows of bundles and keys."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from trace_ray.bundle.keys import Keyring, TrustedKey
from trace_ray.bundle.manifest import Language
from trace_ray.contracts import OrgId

OBJECTS: Final = "bundles/"  # folder of the object store


@dataclass(frozen=True, slots=True)
class PushedBundle:
    """A bundle of an organisation. `digest`, the SHA-256 of the zip, is its pin; `size` is that of the zip in bytes.

    `key` names the zip in the object store. A bundle never changes, but its envelope may gain signatures.
    """

    org_id: OrgId
    digest: str
    name: str
    version: str
    language: Language
    entrypoint: str
    size: int
    envelope: bytes
    key: str
    pushed_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UsableBundle:
    """A bundle with the keys that vouched for it when a lease was given out; a worker checks the one with the other."""

    bundle: PushedBundle
    keyring: Keyring


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key and when it was trusted and revoked."""

    key: TrustedKey
    trusted_at: datetime
    revoked_at: datetime | None


def object_key(org_id: OrgId, digest: str) -> str:
    """Return the key of a bundle's zip in the object store."""
    return f"{OBJECTS}{org_id}/{digest}.zip"
