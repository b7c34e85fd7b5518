"""Questions of a handler on their way to the query service and back, counted. Beside events the only way out."""

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from actors.sandbox import limits as caps
from actors.sandbox.connection import Connection
from actors.sandbox.invoker import Ask, QueryAnswer, QueryCall
from trace_ray.alerts import SandboxLimits

DENIED: Final = frozenset({401, 403})
SERVER_ERROR: Final = 500
OURS: Final = frozenset({408, 429})  # the service is busy: not the handler's doing
FIELDS: Final = frozenset({"sql", "dataset_id", "limit", "format"})


class Malformed(Exception):
    """A body is not a question. One sentence for the author of the handler."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the sandbox gets to see."""

    status: int
    content_type: str
    body: bytes


def refusal(status: int, sentence: str) -> Reply:
    return Reply(status, "application/json", orjson.dumps({"error": sentence}))


UNAVAILABLE: Final = refusal(502, "query_unavailable: the query service did not answer")
NOT_ASKED_FOR: Final = refusal(
    403, "the statement of this bundle asks for no queries: set requests.query, sign it anew"
)
TOO_MANY: Final = refusal(429, "too many queries in one invocation")
TOO_LARGE: Final = refusal(413, "the answers of one invocation are too large: ask for fewer rows or columns")


def read_call(body: bytes) -> QueryCall:
    """Raises: Malformed."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Malformed("a query is a JSON object with the text `sql`") from None
    if not isinstance(document, dict) or not isinstance(document.get("sql"), str):  # pyright: ignore[reportUnknownMemberType]  JSON of a stranger has no type
        raise Malformed("a query is a JSON object with the text `sql`")
    given: dict[str, object] = {str(name): value for name, value in document.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  JSON of a stranger has no type
    unknown = set(given) - FIELDS
    if unknown:
        raise Malformed("a query has only the fields sql, dataset_id, limit, format")
    return QueryCall(str(given["sql"]), _dataset(given), _limit(given), _format(given))


def _dataset(given: dict[str, object]) -> str | None:
    value = given.get("dataset_id")
    if value is not None and not isinstance(value, str):
        raise Malformed("`dataset_id` is a text")
    return value


def _limit(given: dict[str, object]) -> int | None:
    value = given.get("limit")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Malformed("`limit` is a number of rows, at least 1")
    return min(value, caps.ROWS_PER_QUERY)


def _format(given: dict[str, object]) -> Literal["json", "arrow"]:
    match given.get("format", "json"):
        case "json":
            return "json"
        case "arrow":
            return "arrow"
        case _:
            raise Malformed("`format` is json or arrow")


class Queries:
    """The questions of one invocation. Asked in threads of their own, because the supervisor must keep looking.

    Answers come back through `finished`, when `fileno` is readable. `denied` and `unavailable` are evidence.
    """

    def __init__(self, ask: Ask, limits: SandboxLimits, *, allowed: bool) -> None:
        """Args: allowed: False refuses every question, as one for data that is not granted."""
        self._ask = ask
        self._allowed = allowed
        self._limits = limits
        self._room = threading.BoundedSemaphore(caps.ASKS_AT_ONCE)
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._guard = threading.Lock()
        self._done: list[tuple[Connection, QueryAnswer | None]] = []
        self.calls = 0
        self.bytes = 0
        self.denied = False
        self.unavailable = False

    def fileno(self) -> int:
        return self._bell.fileno()

    def take(self, connection: Connection, body: bytes) -> Reply | None:
        """Ask; return a reply only when the question is not asked."""
        if not self._allowed:
            self.denied = True
            return NOT_ASKED_FOR
        if self.calls >= self._limits.queries:
            return TOO_MANY
        try:
            call = read_call(body)
        except Malformed as error:
            return refusal(400, str(error))
        self.calls += 1
        threading.Thread(target=self._run, args=(connection, call), name="sandbox-query", daemon=True).start()
        return None

    def finished(self) -> list[tuple[Connection, Reply]]:
        """Return the replies that have come."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)
        with self._guard:
            done, self._done = self._done, []
        return [(connection, self._reply(answer)) for connection, answer in done]

    def close(self) -> None:
        self._bell.close()
        self._ring.close()

    def _run(self, connection: Connection, call: QueryCall) -> None:
        with self._room:
            try:
                answer = self._ask(call)
            except Exception:  # noqa: BLE001  whatever our own door raises is our side's failure, and told as that
                answer = None
        with self._guard:
            self._done.append((connection, answer))
        with contextlib.suppress(OSError):  # the sandbox is gone: nobody waits
            self._ring.send(b"!")

    def _reply(self, answer: QueryAnswer | None) -> Reply:
        if answer is None or answer.status >= SERVER_ERROR or answer.status in OURS:
            self.unavailable = True
            return UNAVAILABLE
        if answer.status in DENIED:
            self.denied = True
            return Reply(403, answer.content_type, answer.body)
        if self.bytes + len(answer.body) > self._limits.query_bytes:
            return TOO_LARGE
        self.bytes += len(answer.body)
        return Reply(answer.status, answer.content_type, answer.body)
