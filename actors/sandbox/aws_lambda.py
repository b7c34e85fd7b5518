"""Runs invocations on AWS Lambda instead of in a sandbox here. The walls are then Amazon's.

A handler there gets the payload and returns `{"events": [...]}`; there is no `context.trace`, because the capability
token never leaves this process. Its function must be published beforehand: `invocation.function`, behind a prefix, and
`invocation.version` as its immutable version number, built from the same zip. Retries are off: attempts are counted in
one place, the ledger. Only what is seen from here makes a class: our clock, sizes, the status of the Invoke API.
"""

import base64
import binascii
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from actors.sandbox import limits as caps
from actors.sandbox import outcome
from actors.sandbox.events import Events, NotAnAnswer, NotAskedFor, TooManyEvents
from actors.sandbox.invoker import Ask, Cancelled
from actors.sandbox.runtime_api import told
from trace_ray.alerts import CAPS, Invocation, Invoked, OutcomeKind

CONNECT_S: Final = 5.0
SPARE_S: Final = 5.0  # for the way there and back, and a cold start that the function's own limit does not count
POLL_S: Final = 0.1
OURS: Final = "the Invoke API refused the call ({code}): look at the function's name, version and permissions"


class LambdaClient(Protocol):
    """The one method that is used of botocore's client."""

    def invoke(self, **named: Any) -> dict[str, Any]: ...


def open_client(*, region: str, endpoint: str | None = None) -> LambdaClient:
    """Return a client with the credentials that botocore finds. `endpoint`: another address than Amazon's."""
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=CAPS.wall_s + CAPS.init_s + SPARE_S,
        retries={"total_max_attempts": 1},
        max_pool_connections=64,
    )
    session = botocore.session.Session()
    made: Any = session.create_client(  # pyright: ignore[reportUnknownMemberType]  botocore has no types
        "lambda", region_name=region, endpoint_url=endpoint, config=config
    )
    return cast(LambdaClient, made)


@dataclass(slots=True)
class _Call:
    """One call of the Invoke API, in a thread of its own: it cannot be broken off, only left alone."""

    client: LambdaClient
    parameters: Mapping[str, Any]
    most: int
    done: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] = field(default_factory=dict[str, Any])
    body: bytes = b""
    error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self.client.invoke(**self.parameters)
            self.body = self.answer["Payload"].read(self.most + 1)
        except Exception as error:  # noqa: BLE001  botocore stumbles in many ways over an answer that makes no sense
            self.error = error
        finally:
            self.done.set()


class AwsLambda:
    """A `RuntimeInvoker`. `prefix` goes before the function's name, for instance the stage."""

    def __init__(self, client: LambdaClient, *, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def invoke(self, invocation: Invocation, ask: Ask, cancelled: Cancelled) -> Invoked:
        """Run a handler. `ask` is never called. A handler that is left alone may still run to its end, ignored."""
        limits = caps.capped(invocation.limits)
        call = _Call(self._client, self._parameters(invocation), limits.response)
        threading.Thread(target=call.run, name="aws-lambda", daemon=True).start()
        began = time.monotonic()
        deadline = began + limits.wall_s + limits.init_s + SPARE_S
        while not call.done.wait(POLL_S):
            if cancelled():
                return _ended(OutcomeKind.LOST_LEASE, "the lease was lost: its result is ignored", began)
            if time.monotonic() > deadline:
                return _ended(OutcomeKind.TIMEOUT, f"it had not answered after {limits.wall_s:g} s", began)
        if call.error is not None:
            return _refused(call.error, began)
        return _judged(call, Events(limits, allowed=invocation.may_emit), invocation, began)

    def _parameters(self, invocation: Invocation) -> dict[str, Any]:
        return {
            "FunctionName": self._prefix + invocation.function,
            "Qualifier": invocation.version,
            "InvocationType": "RequestResponse",
            "LogType": "Tail",
            "Payload": invocation.payload,
        }


def _judged(call: _Call, events: Events, invocation: Invocation, began: float) -> Invoked:
    log = _log(call.answer.get("LogResult"))
    if call.answer.get("ExecutedVersion") != invocation.version:
        return _ended(OutcomeKind.SANDBOX_UNAVAILABLE, "another version of the function ran: publish this one", began)
    if len(call.body) > call.most:
        return _ended(OutcomeKind.OUTPUT_LIMIT, f"its response is larger than {call.most >> 10} KiB", began, log=log)
    if "FunctionError" in call.answer:
        return _ended(OutcomeKind.USER_ERROR, told(call.body), began, log=log)
    try:
        events.take_response(call.body)
    except (NotAnAnswer, NotAskedFor) as error:
        return _ended(OutcomeKind.BAD_OUTPUT, str(error), began, log=log)
    except TooManyEvents as error:
        return _ended(OutcomeKind.OUTPUT_LIMIT, str(error), began, log=log)
    return _ended(
        OutcomeKind.OK, "the handler returned", began, log=log, response=call.body, events=tuple(events.lines)
    )


def _refused(error: Exception, began: float) -> Invoked:
    if isinstance(error, ReadTimeoutError):
        return _ended(OutcomeKind.TIMEOUT, "it had not answered when the connection was given up", began)
    if isinstance(error, ClientError):
        response: Mapping[str, Any] = cast(Any, error).response  # untyped
        code = str(response.get("Error", {}).get("Code", "unknown"))
        return _ended(OutcomeKind.SANDBOX_UNAVAILABLE, OURS.format(code=code), began)
    if isinstance(error, BotoCoreError):
        return _ended(
            OutcomeKind.SANDBOX_UNAVAILABLE,
            "AWS Lambda cannot be reached: check region, network and credentials",
            began,
        )
    return _ended(OutcomeKind.SANDBOX_UNAVAILABLE, "the Invoke API gave an answer that makes no sense", began)


def _log(encoded: object) -> str:
    if not isinstance(encoded, str):
        return ""
    try:
        return outcome.tail(base64.b64decode(encoded, validate=True), caps.LOG_TAIL)
    except binascii.Error:
        return ""


def _ended(
    kind: OutcomeKind,
    detail: str,
    began: float,
    *,
    log: str = "",
    response: bytes = b"",
    events: tuple[bytes, ...] = (),
) -> Invoked:
    usage = {
        "wall_s": time.monotonic() - began,
        "cpu_s": None,
        "memory": None,
        "queries": 0.0,
        "events": float(len(events)),
    }
    return Invoked(kind, outcome.cleaned(detail, outcome.DETAIL), response, events, log, usage)
