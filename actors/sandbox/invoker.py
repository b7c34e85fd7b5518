"""The border between evaluation and whatever runs a bundle: a sandbox on this machine, or AWS Lambda."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from trace_ray.alerts import Invocation, Invoked


@dataclass(frozen=True, slots=True)
class QueryCall:
    """One question of a handler, as it came: nothing in it is checked but its form."""

    sql: str
    dataset_id: str | None
    limit: int | None
    format: Literal["json", "arrow"]


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The answer of the query service: HTTP status, media type, body."""

    status: int
    content_type: str
    body: bytes


Ask = Callable[[QueryCall], QueryAnswer]
"""The supervisor's door to `/v1/task/query`. The capability token lives behind it. Called from several threads; what it
raises counts as `query_unavailable`."""

Cancelled = Callable[[], bool]
"""True as soon as the lease is lost: the sandbox is killed at once. Called about ten times a second."""


class RuntimeInvoker(Protocol):
    """Runs one handler once. Thread-safe; never raises for what a bundle does."""

    def invoke(self, invocation: Invocation, ask: Ask, cancelled: Cancelled) -> Invoked: ...
