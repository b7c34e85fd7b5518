"""A JSON-RPC server whose answers a test writes: for what a recording cannot do, such as refusing batches."""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. `body` is JSON, bytes as they are, or parts that are sent one after another."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def parts(self) -> Iterable[bytes]:
        if isinstance(self.body, bytes):
            return [self.body]
        if isinstance(self.body, dict | list | str | int | None):
            return [json.dumps(self.body).encode()]
        return self.body


Script = Callable[[Any], Reply]


class ScriptedNode:
    """Answers each request by its script, and remembers the requests in the order in which they came."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Any] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                node.requests.append(request)
                reply = script(request)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in reply.parts():
                    self.wfile.write(part)
                    self.wfile.flush()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing: the test shows what matters."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hangs up early is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def calls_of(request: Any) -> list[dict[str, Any]]:
    return request if isinstance(request, list) else [request]


def echo(call: dict[str, Any]) -> dict[str, Any]:
    """Answer a call with its first parameter, or its method."""
    return {"jsonrpc": "2.0", "id": call["id"], "result": (call["params"] or [call["method"]])[0]}


def failed(call: dict[str, Any], code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}


def answered(request: Any, answer: Callable[[dict[str, Any]], dict[str, Any]] = echo) -> Reply:
    """Answer a single call by an object and a batch by a list, as a good node does."""
    return Reply([answer(call) for call in request] if isinstance(request, list) else answer(request))


def without(method: str, upstream: str) -> Script:
    """The script of a node that passes everything on but does not know one method."""

    def script(request: Any) -> Reply:
        known = [call for call in calls_of(request) if call["method"] != method]
        found: dict[int, dict[str, Any]] = {}
        if known:
            found = {one["id"]: one for one in httpx.post(upstream, json=known).json()}

        def answer(call: dict[str, Any]) -> dict[str, Any]:
            return found.get(call["id"]) or failed(call, -32601, "the method does not exist/is not available")

        return answered(request, answer)

    return script
