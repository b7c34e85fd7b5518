"""Runs a Python handler inside the sandbox: asks for the invocation, calls the handler, posts what it returned.

Speaks the AWS Lambda Runtime API over `AWS_LAMBDA_RUNTIME_API`, or over the inherited descriptor `TRACE_FD`. What
authors see is `handler(event, context)` with `context.trace.query(...)` and `context.trace.emit([...])`.
"""

import _json
import _socket
import os
import sys
import time

TYPE_CHECKING = False  # `typing` costs some milliseconds of each start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

API = "/2018-06-01/runtime"
LAST_FRAMES = 16  # of a traceback; more is noise
EXIT_OF_INIT = 1


class TraceError(Exception):
    """The interface of trace_ray refused a call. `status` is the HTTP status: 403 not granted, 429 too many, ..."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{status}: {message}")


class Rows(list):  # pyright: ignore[reportMissingTypeArgument]  a subscript would import typing
    """Rows of an answer, each a dict. `columns`: name and type of each; `truncated`: there are more rows."""

    columns: "Any" = ()
    truncated = False


class Client:
    """HTTP/1.1 over one connection, kept alive. Small, because `http.client` costs 25 ms of each start."""

    def __init__(self) -> None:
        self._socket: _socket.socket | None = None
        self._rest = b""

    def call(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> tuple[int, dict[str, str], bytes]:
        """Return (status, headers with lower case names, body)."""
        if self._socket is None:
            self._socket, self._rest = _connect(), b""
        sock = self._socket
        head = f"{method} {path} HTTP/1.1\r\nHost: trace\r\nContent-Type: {content_type}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        try:
            sock.sendall(head.encode("ascii") + body)
        except OSError:
            pass  # a refused body: the answer that says so is already there
        return self._answer(sock)

    def _answer(self, sock: _socket.socket) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._rest:
            self._rest += _received(sock, 65536)
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        pieces, have = [self._rest], len(self._rest)
        while have < size:
            piece = _received(sock, 1 << 20)
            pieces.append(piece)
            have += len(piece)
        whole = b"".join(pieces)
        body, self._rest = whole[:size], whole[size:]
        if headers.get("connection", "").lower() == "close" and "TRACE_FD" not in os.environ:
            sock.close()
            self._socket = None
        return int(status.split(" ")[1]), headers, body


def _received(sock: _socket.socket, most: int) -> bytes:
    piece = sock.recv(most)
    if not piece:
        raise ConnectionError("the runtime interface is gone")
    return piece


def _connect() -> _socket.socket:
    if "TRACE_FD" in os.environ:
        return _socket.socket(fileno=int(os.environ["TRACE_FD"]))
    host, _, port = os.environ["AWS_LAMBDA_RUNTIME_API"].partition(":")
    made = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    made.connect((host, int(port)))
    made.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return made


class Trace:
    """What a handler may do: ask the granted datasets, emit events."""

    def __init__(self, client: Client, request_id: str, deadline_ms: int) -> None:
        self._client = client
        self._deadline_ms = deadline_ms
        self.request_id = request_id

    @property
    def remaining_s(self) -> float:
        """Seconds until the invocation is killed."""
        return max(0.0, self._deadline_ms / 1000 - time.time())

    def query(
        self,
        sql: str,
        dataset_id: str | None = None,
        limit: int | None = None,
        format: str = "json",  # noqa: A002  what handlers write
    ) -> "Any":
        """Return `Rows`, or with format "arrow" the bytes of an Arrow IPC stream. Raises TraceError."""
        asked = {"sql": sql, "dataset_id": dataset_id, "limit": limit, "format": format}
        given = _dumps({name: value for name, value in asked.items() if value is not None}).encode()
        body = self._call("/trace/v1/query", given, "application/json")
        if format == "arrow":
            return body
        answer = _loads(body)
        names = [column["name"] for column in answer["columns"]]
        rows = Rows(dict(zip(names, row)) for row in answer["rows"])
        rows.columns, rows.truncated = answer["columns"], bool(answer.get("truncated"))
        return rows

    def emit(self, events: "Iterable[Any]") -> None:
        """Hand over events (dicts). They leave only when the handler succeeds. Raises TraceError."""
        lines = [_dumps(event) for event in events]
        if lines:
            self._call("/trace/v1/events", "\n".join(lines).encode(), "application/x-ndjson")

    def _call(self, path: str, body: bytes, content_type: str) -> bytes:
        status, _, answer = self._client.call("POST", path, body, content_type)
        if status >= 300:
            raise TraceError(status, answer.decode("utf-8", "replace")[:1000])
        return answer


class Context:
    """The context of AWS Lambda, and `trace`."""

    identity = client_context = None

    def __init__(self, client: Client, headers: dict[str, str]) -> None:
        env = os.environ
        self._deadline_ms = int(headers["lambda-runtime-deadline-ms"])
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
        self.function_name = env["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = env["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = env["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = env["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.trace = Trace(client, self.aws_request_id, self._deadline_ms)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(self._deadline_ms - time.time() * 1000))


class _Plain:
    """How JSON is read: as `json.loads` does by default."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  the scanner wants one


_scan = _json.make_scanner(_Plain)  # pyright: ignore[reportArgumentType]  it reads attributes only; `json` imports `re`: a third of the start


def _loads(body: bytes) -> "Any":
    return _scan(body.decode("utf-8").strip(" \t\r\n"), 0)[0]


def _dumps(value: "Any") -> str:
    """Return JSON without blanks; NaN, cycles and what is no JSON raise ValueError or TypeError."""
    quote = _json.encode_basestring_ascii
    return "".join(_json.make_encoder({}, _no_json, quote, None, ":", ",", False, False, False)(value, 0))


def _no_json(value: "Any") -> "Any":
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _told(error: BaseException) -> "dict[str, Any]":
    """Return an exception as Lambda's error document."""
    import traceback

    frames = traceback.format_tb(error.__traceback__)[-LAST_FRAMES:]
    return {"errorType": type(error).__name__, "errorMessage": str(error)[:4000], "stackTrace": frames}


def _post_error(client: Client, path: str, error: BaseException) -> None:
    sys.stdout.flush()
    try:
        body = _dumps(_told(error)).encode()[:60000]
    except Exception:
        body = b'{"errorType": "Unprintable", "errorMessage": "an error that cannot be shown"}'
    client.call("POST", path, body)


def _load(client: Client) -> "Callable[[Any, Any], Any]":
    """Import the handler. A sandbox that was started ahead is told only now which one."""
    if os.environ["_HANDLER"] == "-":
        _, _, body = client.call("GET", "/trace/v1/handler")
        os.environ.update(_loads(body))
    try:
        module, _, name = os.environ["_HANDLER"].rpartition(".")
        found = __import__(module.replace("/", "."), fromlist=["*"])
        return getattr(found, name)
    except BaseException as error:
        _post_error(client, f"{API}/init/error", error)
        sys.exit(EXIT_OF_INIT)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  a TextIOWrapper here
    sys.path[0:0] = [os.environ["LAMBDA_TASK_ROOT"]]
    client = Client()
    handler = _load(client)
    while True:
        _, headers, body = client.call("GET", f"{API}/invocation/next")
        context = Context(client, headers)
        path = f"{API}/invocation/{context.aws_request_id}"
        try:
            answer = _dumps(handler(_loads(body), context)).encode()
        except Exception as error:
            _post_error(client, f"{path}/error", error)
        else:
            sys.stdout.flush()
            client.call("POST", f"{path}/response", answer)
