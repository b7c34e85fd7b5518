"""Pure values of who asks: a user or a task, what the token says, what the audit keeps. Signing lives in `tokens`."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from trace_ray.contracts import Grant, OrgId, TaskId
from trace_ray.errors import RefusedInput

USER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
MAX_SUBJECT: Final = 256  # characters
DATASET_FOLDER: Final = 3  # segments of an object's key that name its dataset: cryo/<chain_id>/<dataset_uuid>


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """Whom a valid user token names. What that user may read, and its organisation, only the ledger knows."""

    subject: str


@dataclass(frozen=True, slots=True)
class Reader:
    """A user of the ledger: the one organisation that it belongs to, its name there, its roles."""

    org_id: OrgId
    user: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks a question: a user with its roles, or one attempt of a task."""

    org_id: OrgId
    user: str | None = None
    roles: frozenset[str] = frozenset()
    task_id: TaskId | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """What the ledger keeps of a user. `subject` is the `sub` of its tokens, unique in the installation."""

    name: str
    subject: str
    roles: frozenset[str]
    enabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Capability:
    """What a valid capability token says.

    `grant` is None when it is too long for a token: then `names` and `as_of` pin it in the registry, and `grant_digest`
    proves that the pin found the same objects. `read` and `write` are prefixes of object keys.
    """

    org_id: OrgId
    task_id: TaskId
    attempt: int
    names: tuple[str, ...]
    as_of: int
    grant_digest: str
    grant: Grant | None
    read: tuple[str, ...]
    write: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AuditedDataset:
    """A dataset that a question named, and the snapshot in which it was read."""

    name: str
    snapshot: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One answer or one refusal. Never SQL text, a token, a URL or a value of a row.

    Who asked is a user or an attempt of a task; nobody when the token was refused. `outcome` is `OK` or the code of the
    error, `reason` a word that says more. `bytes` is the size of the answer, `bytes_read` that of the files it was read
    from. `hostile` marks a question whose process died, `killed` one that was stopped. `at` is set by the database.
    """

    query_id: UUID
    outcome: str
    reason: str | None = None
    org_id: OrgId | None = None
    user: str | None = None
    task_id: TaskId | None = None
    attempt: int | None = None
    datasets: tuple[AuditedDataset, ...] = ()
    rows: int = 0
    bytes: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    sql_hash: str | None = field(default=None, repr=False)
    hostile: bool = False
    killed: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """An answer that was too large for its response and lies in the object store. `digest` is its SHA-256 in hex."""

    query_id: UUID
    org_id: OrgId
    key: str
    rows: int
    bytes: int
    digest: str
    expires_at: datetime | None = None


def user_subject(org_id: OrgId, name: str) -> str:
    """Return the `sub` of a user's tokens unless an identity provider gives another."""
    return f"user:{uuid5(org_id, f'user/{name}')}"


def check_user_name(name: str) -> str:
    """Return the name. Raises RefusedInput."""
    if not USER_NAME.fullmatch(name):
        raise RefusedInput("a user's name has letters, digits and . _ @ + - only, at most 128: choose another")
    return name


def check_roles(roles: Sequence[str]) -> list[str]:
    """Return roles sorted and once each. Raises RefusedInput: one sentence for each that is wrong."""
    wrong = [
        f"{role[:70]!r} is no role: begin with a small letter, then letters, digits, _ or -, at most 64"
        for role in roles
        if not ROLE.fullmatch(role)
    ]
    if wrong:
        raise RefusedInput(wrong)
    return sorted(set(roles))


def sql_hash(key: bytes, sql: str) -> str:
    """Return the keyed hash that the audit keeps of a statement: a plain hash of short SQL could be guessed."""
    return hmac.new(key, sql.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def is_under(key: str, prefixes: Sequence[str]) -> bool:
    """Say whether an object's key lies under one of the prefixes; whole segments count: `a/b` does not hold `a/bc`."""
    parts = _segments(key)
    if parts is None:
        return False
    wanted = (_segments(prefix.removesuffix("/")) for prefix in prefixes)
    return any(prefix is not None and len(parts) > len(prefix) and parts[: len(prefix)] == prefix for prefix in wanted)


def foreign_objects(grant: Grant, prefixes: Sequence[str]) -> list[str]:
    """Return the keys of a grant that lie under none of the prefixes."""
    return [file.key for dataset in grant.datasets for file in dataset.files if not is_under(file.key, prefixes)]


def read_prefixes(grant: Grant) -> tuple[str, ...]:
    """Return the folders of the granted datasets; none for a dataset of which nothing is published."""
    keys = (file.key for dataset in grant.datasets for file in dataset.files)
    return tuple(sorted({"/".join(key.split("/")[:DATASET_FOLDER]) + "/" for key in keys}))


def _segments(key: str) -> list[str] | None:
    """Return the segments of a key or prefix; None when one of them could mean another place."""
    parts = key.split("/")
    return None if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts) else parts
