"""What the service tells of datasets and of questions that were asked: the border to the ledgers."""

from typing import Any, Protocol
from uuid import UUID

from trace_ray.access import AuditRow, Caller, StoredResult
from trace_ray.reports import Coverage


class Catalogue(Protocol):
    """All of it may raise DatabaseUnavailable; what a caller may not see does not exist for him: NotFound."""

    def datasets(self, caller: Caller) -> list[Coverage]: ...
    def dataset(self, caller: Caller, name: str) -> Coverage: ...
    def entry(self, caller: Caller, query_id: UUID) -> tuple[AuditRow, StoredResult | None]:
        """Return how a question of this caller ended, and its stored answer until that expires."""
        ...

    def result(self, caller: Caller, query_id: UUID) -> str:
        """Return where the stored answer can be read: a local path or a signed URL."""
        ...

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of the tokens; none where they are signed with a shared secret."""
        ...
