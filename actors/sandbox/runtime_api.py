"""The AWS Lambda Runtime API of one sandbox, and our two routes beside it: state and answers, no sockets.

Checked against aws-lambda-rust-runtime 4c4e5fac: the headers of `next`, the 202 of results, error trailers of streamed
answers. A wrong, late or second id is answered 400 and has no effect.
"""

import re
import time
from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson

from actors.sandbox import limits as caps
from actors.sandbox.connection import Connection, Request
from actors.sandbox.events import Events, NotAnAnswer, NotAskedFor, TooManyEvents
from actors.sandbox.outcome import Cause
from actors.sandbox.queries import Queries, Reply, refusal
from trace_ray.alerts import Invocation

NEXT: Final = "/2018-06-01/runtime/invocation/next"
INIT_ERROR: Final = "/2018-06-01/runtime/init/error"
RESULT: Final = re.compile(r"/2018-06-01/runtime/invocation/([^/]{1,64})/(response|error)")
QUERY: Final = "/trace/v1/query"
EVENTS: Final = "/trace/v1/events"
HANDLER: Final = "/trace/v1/handler"
ERROR_TRAILER: Final = "lambda-runtime-function-error-type"
SMALL_BODY: Final = 1024

ACCEPTED: Final = Reply(202, "application/json", b'{"status": "OK"}')
NO_INVOCATION: Final = refusal(409, "no invocation is active")
WRONG_ID: Final = refusal(400, "this is not the active invocation")
NO_ROUTE: Final = refusal(404, "there is no such route")


class Phase(Enum):
    INIT = "init"
    ACTIVE = "active"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class End:
    """Why it is over, what was said, and the response if there is one."""

    cause: Cause
    said: str
    response: bytes = b""


@dataclass(frozen=True, slots=True)
class Work:
    """One invocation and where its questions and events go. `environment`: what a sandbox started ahead is told."""

    invocation: Invocation
    queries: Queries
    events: Events
    environment: dict[str, str]


class RuntimeApi:
    """Serves one sandbox for one invocation. `phase_since` is a monotonic time: init, or the invocation, began then."""

    def __init__(self) -> None:
        self.phase = Phase.INIT
        self.phase_since = time.monotonic()
        self.end: End | None = None
        self.waiting: Connection | None = None  # started ahead: it has asked for its handler
        self._work: Work | None = None
        self._id = ""

    def give(self, work: Work) -> None:
        """Hand out the invocation. A sandbox that waits for its handler is told; the init time counts from now."""
        self._work = work
        self._id = str(work.invocation.request_id)
        self.phase_since = time.monotonic()
        if self.waiting is not None:
            self.waiting.answer(200, orjson.dumps(work.environment))
            self.waiting = None

    def cap(self, path: str) -> int:
        """Return the most bytes that the body of a route may have."""
        if path == INIT_ERROR:
            return caps.ERROR_BODY
        if self._work is None:
            return SMALL_BODY
        if path == QUERY:
            return caps.QUERY_BODY
        if path == EVENTS:
            return self._work.events.room
        found = RESULT.fullmatch(path)
        if found is None:
            return SMALL_BODY
        return caps.ERROR_BODY if found[2] == "error" else self._work.invocation.limits.response

    def too_large(self, path: str, connection: Connection) -> None:
        """A body passes its cap: where that is an output of the handler, it is over."""
        connection.answer(413, b'{"error": "the body is too large"}', last=True)
        found = RESULT.fullmatch(path)
        if path == EVENTS and self.phase is Phase.ACTIVE:
            self._finish(Cause.OUTPUT, "it emitted more bytes of events than allowed")
        elif found is not None and self.phase is Phase.ACTIVE:
            self._finish(Cause.OUTPUT, f"its {found[2]} is larger than {self.cap(path) >> 10} KiB")

    def serve(self, request: Request, connection: Connection) -> None:
        """Answer a request now, or later: `next` and queries may wait."""
        reply = self._reply(request, connection)
        if reply is not None:
            connection.answer(reply.status, reply.body, content_type=reply.content_type)

    def _reply(self, request: Request, connection: Connection) -> Reply | None:
        match request.method, request.path:
            case "GET", path if path == NEXT:
                return self._next(connection)
            case "GET", path if path == HANDLER:
                return self._handler(connection)
            case "POST", path if path == INIT_ERROR:
                return self._init_error(request)
            case "POST", path if path in (QUERY, EVENTS):
                return self._ours(request, connection)
            case "POST", path if (found := RESULT.fullmatch(path)) is not None:
                return self._result(request, found[1], found[2])
            case _:
                return NO_ROUTE

    def _next(self, connection: Connection) -> None:
        """Start the invocation. A second `next` before the result waits for ever, as on Lambda."""
        if self.phase is not Phase.INIT or self._work is None:
            return
        now = time.monotonic()
        self.phase, self.phase_since = Phase.ACTIVE, now
        invocation = self._work.invocation
        deadline = int((time.time() + invocation.limits.wall_s) * 1000)
        name, version = invocation.function, invocation.version
        connection.answer(
            200,
            invocation.payload,
            headers=[
                ("Lambda-Runtime-Aws-Request-Id", self._id),
                ("Lambda-Runtime-Deadline-Ms", str(deadline)),
                ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:local:000000000000:function:{name}:{version}"),
            ],
        )

    def _handler(self, connection: Connection) -> Reply | None:
        if self._work is not None or self.waiting is not None:
            return NO_ROUTE
        self.waiting = connection
        return None

    def _init_error(self, request: Request) -> Reply:
        if self.phase is not Phase.INIT or self._work is None:
            return WRONG_ID
        self._finish(Cause.INIT_ERROR, told(request.body))
        return ACCEPTED

    def _ours(self, request: Request, connection: Connection) -> Reply | None:
        if self.phase is not Phase.ACTIVE or self._work is None:
            return NO_INVOCATION
        if request.path == QUERY:
            return self._work.queries.take(connection, request.body)
        try:
            self._work.events.take(request.body)
        except TooManyEvents as error:
            self._finish(Cause.OUTPUT, str(error))
            return refusal(413, "too many events")
        except NotAskedFor as error:
            self._finish(Cause.BAD_RESPONSE, str(error))
            return refusal(403, str(error))
        return ACCEPTED

    def _result(self, request: Request, given: str, kind: str) -> Reply:
        if self.phase is not Phase.ACTIVE or self._work is None or given != self._id:
            return WRONG_ID
        if kind == "error":
            self._finish(Cause.ERROR, told(request.body))
        elif ERROR_TRAILER in request.trailers:
            self._finish(Cause.ERROR, told_in_trailers(request.trailers))
        else:
            self._response(request.body, self._work.events)
        return ACCEPTED

    def _response(self, body: bytes, events: Events) -> None:
        try:
            events.take_response(body)
        except (NotAnAnswer, NotAskedFor) as error:
            self._finish(Cause.BAD_RESPONSE, str(error))
        except TooManyEvents as error:
            self._finish(Cause.OUTPUT, str(error))
        else:
            self._finish(Cause.RESPONSE, "", body)

    def _finish(self, cause: Cause, said: str, response: bytes = b"") -> None:
        self.phase = Phase.DONE
        self.end = End(cause, said, response)


def told(body: bytes) -> str:
    """Return what an error body says, whatever it is: text for people, never a class of outcome."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[: caps.LOG_TAIL].decode("utf-8", "replace")
    if not isinstance(document, dict):
        return body[: caps.LOG_TAIL].decode("utf-8", "replace")
    said: list[object] = [document.get("errorType"), document.get("errorMessage")]  # pyright: ignore[reportUnknownMemberType]  JSON of a stranger has no type
    return ": ".join(part for part in said if isinstance(part, str) and part) or "it gave no reason"


def told_in_trailers(trailers: dict[str, str]) -> str:
    """Return what the trailers of a broken stream say; the body is base64 of an error document, and only text here."""
    return f"{trailers[ERROR_TRAILER]}: the stream was broken off"
