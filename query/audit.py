"""Who asked and how it ended: the values that an audit row is made of. Never SQL, tokens, URLs or row values."""

from dataclasses import dataclass
from uuid import UUID

from trace_ray.contracts import OrgId


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a user with roles, or one attempt of a task."""

    org_id: OrgId
    user: str | None = None
    roles: frozenset[str] = frozenset()
    task_id: UUID | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """How one question ended.

    `caller` is None where no token held. `datasets` are the names that it read, with their snapshots; `bytes_read` the
    sizes of the selected files, `bytes` those of the answer. `fingerprint` is a keyed hash of the SQL. `hostile` marks
    a question whose process died.
    """

    query_id: UUID
    caller: Caller | None
    code: str
    reason: str | None
    datasets: tuple[tuple[str, int], ...]
    rows: int
    bytes: int
    bytes_read: int
    seconds: float
    fingerprint: str
    hostile: bool
    killed: bool
