"""What the service tells of datasets and of questions that were asked. Frozen values and the border to the ledgers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from query.audit import Caller
from trace_ray.reports import Coverage


@dataclass(frozen=True, slots=True)
class PastQuery:
    """How a question ended. `location` is set when its answer was stored, until it expires."""

    query_id: UUID
    at: datetime
    outcome: str
    datasets: tuple[tuple[str, int], ...]
    rows: int
    bytes: int
    seconds: float
    location: str | None


class Catalogue(Protocol):
    """All of it may raise DatabaseUnavailable; what a caller may not see does not exist for him: NotFound."""

    def datasets(self, caller: Caller) -> list[Coverage]: ...
    def dataset(self, caller: Caller, name: str) -> Coverage: ...
    def entry(self, caller: Caller, query_id: UUID) -> PastQuery: ...
    def result(self, caller: Caller, query_id: UUID) -> str:
        """Return where the stored answer can be read: a local path or a signed URL."""
        ...

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of the tokens; none where they are signed with a shared secret."""
        ...
