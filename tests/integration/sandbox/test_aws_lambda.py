"""The invoker of AWS Lambda against a local server that speaks the Invoke API: one call, no retries, honest classes."""

import base64
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest

from actors.sandbox import aws_lambda
from actors.sandbox.aws_lambda import AwsLambda, open_client
from actors.sandbox.invoker import QueryAnswer, QueryCall
from trace_ray.alerts import Invocation, Invoked, SandboxLimits

ORDER = Invocation(
    UUID(int=7), "/unused", "python", "main.handler", "rule", "3", b"{}", True, True, SandboxLimits(response=1000)
)


class Api(BaseHTTPRequestHandler):
    """Answers as the payload says."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, Any], dict[str, str]]]

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, payload, dict(self.headers)))
        time.sleep(payload.get("sleep", 0))
        body = payload.get("body", "{}").encode()
        self.send_response(payload.get("status", 200))
        for name, value in {"X-Amz-Executed-Version": "3", **payload.get("headers", {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[AwsLambda, list[Any]]]:
    """One for all: botocore takes most of a second to make a client."""
    seen: list[Any] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Api,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with credentials():
        client = open_client(region="eu-central-1", endpoint=f"http://127.0.0.1:{server.server_address[1]}")
        yield AwsLambda(client, prefix="dev-"), seen
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def credentials() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield


@pytest.fixture
def api(server: tuple[AwsLambda, list[Any]]) -> tuple[AwsLambda, list[Any]]:
    server[1].clear()
    return server


def never_asked(_: QueryCall) -> QueryAnswer:
    raise AssertionError("there are no queries on AWS Lambda")


def run(invoker: AwsLambda, **payload: Any) -> Invoked:
    order = dataclasses.replace(ORDER, payload=json.dumps(payload).encode())
    return invoker.invoke(order, never_asked, lambda: False)


def test_handler_is_called_once_and_its_events_come_back(api: tuple[AwsLambda, list[Any]]) -> None:
    invoker, seen = api
    log = base64.b64encode(b"\x1b[31mlast words\n").decode()
    result = run(invoker, body='{"events": [{"a": 1}], "n": 2}', headers={"X-Amz-Log-Result": log})
    assert (result.outcome, result.events, result.log) == ("ok", (b'{"a":1}',), "last words\n")
    assert json.loads(result.response)["n"] == 2
    ((path, _, headers),) = seen
    assert path == "/2015-03-31/functions/dev-rule/invocations?Qualifier=3"
    assert (headers["X-Amz-Invocation-Type"], headers["X-Amz-Log-Type"]) == ("RequestResponse", "Tail")


KIND = "x-amzn-ErrorType"
RAISED = '{"errorType": "ValueError", "errorMessage": "no\\u001b[2J"}'
ERROR = {"X-Amz-Function-Error": "Unhandled"}


@pytest.mark.parametrize(
    ("payload", "outcome", "says"),
    [
        ({"body": RAISED, "headers": ERROR}, "user_error", "ValueError: no"),
        ({"body": "[[[", "headers": ERROR}, "user_error", "[[["),
        ({"body": "<html>"}, "bad_output", "not JSON"),
        ({"body": '{"events": 1}'}, "bad_output", "events"),
        ({"body": '"' + "x" * 2000 + '"'}, "output_limit", "response"),
        ({"headers": {"X-Amz-Executed-Version": "4"}}, "sandbox_unavailable", "another version"),
        ({"headers": {"X-Amz-Log-Result": "no base64!"}}, "ok", "returned"),
        ({"status": 429, "headers": {KIND: "TooManyRequestsException"}}, "sandbox_unavailable", "TooManyRequests"),
        ({"status": 404, "headers": {KIND: "ResourceNotFoundException"}}, "sandbox_unavailable", "NotFound"),
        ({"status": 500}, "sandbox_unavailable", "500"),
        ({"status": 503, "body": "null"}, "sandbox_unavailable", "no sense"),
    ],
)  # fmt: skip
def test_end_is_what_is_seen_from_here(
    api: tuple[AwsLambda, list[Any]], payload: dict[str, Any], outcome: str, says: str
) -> None:
    invoker, seen = api
    result = run(invoker, **payload)
    assert (result.outcome, says in result.detail) == (outcome, True), result
    assert len(seen) == 1  # a retry of our own would be an attempt that the ledger does not know
    assert "\x1b" not in result.detail
    assert result.events == ()


def test_lost_lease_leaves_it_alone(api: tuple[AwsLambda, list[Any]]) -> None:
    order = dataclasses.replace(ORDER, payload=b'{"sleep": 3}')
    result = api[0].invoke(order, never_asked, lambda: True)
    assert result.outcome == "lost_lease"


def test_our_clock_ends_it(api: tuple[AwsLambda, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_lambda, "SPARE_S", 0.1)
    limits = SandboxLimits(wall_s=0.2, init_s=0.1)
    order = dataclasses.replace(ORDER, payload=b'{"sleep": 3}', limits=limits)
    assert api[0].invoke(order, never_asked, lambda: False).outcome == "timeout"


def test_no_connection_is_our_side() -> None:
    with credentials():
        invoker = AwsLambda(open_client(region="eu-central-1", endpoint="http://127.0.0.1:9"))
        assert run(invoker).outcome == "sandbox_unavailable"
