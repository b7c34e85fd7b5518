"""A synchronous JSON-RPC client for one provider: timeouts, batches, bounded retries, the pool's rate.

What comes back is checked for form only. Retries here bridge a busy second of a provider; longer troubles belong to the
ledger. No message holds any part of the URL, which may carry a key.
"""

import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final, Self, cast

import httpx
import orjson

from trace_ray import retry
from trace_ray.errors import DeadlineExceeded, MethodMissing, SourceUnavailable
from trace_ray.extract.engine import Provider
from trace_ray.extract.redact import redact

MAX_QUANTITY: Final = 2**63  # no ledger can hold more, and no chain has it
TIMEOUT_S: Final = 30.0  # a batch of full mainnet blocks takes a slow node 10 s
CONNECT_S: Final = 5.0
CONNECTIONS: Final = 32
MAX_ANSWER_BYTES: Final = 256 << 20  # more than any sane batch; a provider must not be able to fill the memory
MESSAGE_CHARS: Final = 200

BUSY_STATUS: Final = frozenset({429, 502, 503, 504})
BUSY_CODES: Final = frozenset({429, -32005, -32016})  # limits of calls or of results, as large providers number them
TOO_LARGE_STATUS: Final = 413
HTTP_OK: Final = 200
TOO_LARGE_CODE: Final = -32003  # geth: the calls of a batch after its answer has grown too large
METHOD_MISSING_CODE: Final = -32601
METHOD_MISSING: Final = re.compile(
    r"unsupported method|method\b.*(not (found|available|supported|allowed|enabled)|does not exist|disabled)", re.I
)
BACKOFF: Final = retry.RetryPolicy(base_s=0.25, cap_s=4.0, max_attempts=5, max_infra_failures=5)
RETRY_AFTER_MAX_S: Final = 10.0
PROBED_BLOCKS: Final = 16  # a probe needs a block that has transactions; quiet chains are empty for minutes
PROBE_EXTRAS: Final[Mapping[str, list[object]]] = {"debug_traceBlockByNumber": [{"tracer": "callTracer"}]}

Call = tuple[str, list[object]]

for _name in ("httpx", "httpcore"):  # at INFO they log each request with its whole URL
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why one call has no result. `is_busy`: the same call may succeed soon; `is_large`: a smaller batch may."""

    text: str
    code: int = 0
    is_busy: bool = False
    is_large: bool = False
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """`text` says why there is no HTTP answer; then `status` is 0."""

    status: int
    body: bytes
    wait_s: float = 0.0
    text: str = ""


class _Pace:
    """Spreads calls so that their rate stays at the pool's. Thread-safe."""

    def __init__(self, per_s: float | None) -> None:
        self._gap_s = 1 / per_s if per_s else 0.0
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, calls: int) -> float:
        """Take the next place in the queue; return the seconds until it comes."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + calls * self._gap_s
            return start - now

    def hold(self, wait_s: float) -> None:
        """Let nothing start before `wait_s` from now: the provider asked for a pause."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + wait_s)


class JsonRpc:
    """One provider. Thread-safe. Used as a context manager it keeps its connections, else each call opens its own."""

    def __init__(self, provider: Provider, *, timeout_s: float = TIMEOUT_S) -> None:
        self._provider = provider
        self._timeout_s = timeout_s
        self._client: httpx.Client | None = None
        self._pace = _Pace(provider.requests_per_s)
        # half a second's worth, so that a batch never asks for more than the provider gives at once
        self._batch_limit = max(1, int(provider.requests_per_s / 2)) if provider.requests_per_s else 1 << 30
        self._random = random.SystemRandom()

    def __enter__(self) -> Self:
        self._client = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # --- questions ------------------------------------------------------------------------------------------------

    def head(self) -> int:
        """Return the number of the provider's newest block."""
        return self._quantity("eth_blockNumber")

    def chain_id(self) -> int:
        return self._quantity("eth_chainId")

    def supports(self, method: str) -> bool:
        """Say whether the provider answers a method that takes a block number, with more than nothing.

        Raises:
            SourceUnavailable: it could not be found out.
        """
        block, is_empty = self._probe_block()
        try:
            result = self.call(method, [block, *PROBE_EXTRAS.get(method, [])])
        except MethodMissing:
            return False
        return result is not None and (result != [] or is_empty)

    def call(self, method: str, params: list[object], *, deadline: float | None = None) -> object:
        """Return the result of one call."""
        return self.batch([(method, params)], deadline=deadline)[0]

    def batch(self, calls: Sequence[Call], *, deadline: float | None = None) -> list[object]:
        """Return the results of the calls, in order; all or none.

        Batches that a provider refuses as too large are sent again in smaller ones, busy calls after a pause.

        Args:
            deadline: Instant of `time.monotonic()` at which to give up.

        Raises:
            MethodMissing: the provider does not know a method.
            SourceUnavailable: no answer, an error, or nonsense.
            DeadlineExceeded: the deadline has passed.
        """
        results: dict[int, object] = {}
        pending = list(range(len(calls)))
        failures = 0
        with self._connected() as client:
            while pending:
                part = pending[: self._batch_limit]
                outcomes = self._exchange(client, [calls[at] for at in part], deadline)
                faults = {at: one for at, one in zip(part, outcomes, strict=True) if isinstance(one, _Fault)}
                results |= {at: one for at, one in zip(part, outcomes, strict=True) if at not in faults}
                pending = [at for at in pending if at not in results]
                is_stuck = len(faults) == len(part) and all(fault.is_busy for fault in faults.values())
                failures = failures + 1 if is_stuck else 0
                if faults:
                    self._bear(calls, faults, len(part), failures)
        return [results[at] for at in range(len(calls))]

    # --- trouble --------------------------------------------------------------------------------------------------

    def _bear(self, calls: Sequence[Call], faults: Mapping[int, _Fault], sent: int, failures: int) -> None:
        """Prepare the next try of the calls that failed, or raise."""
        for at, fault in faults.items():
            if fault.is_large and sent > 1:
                self._batch_limit = max(1, min(self._batch_limit, sent // 2))
            elif not fault.is_busy or failures >= BACKOFF.max_attempts:
                raise self._failure(calls[at][0], fault)
        if any(fault.is_busy for fault in faults.values()):
            pause = retry.delay_s(max(1, failures), BACKOFF, jitter=self._random.uniform(*retry.JITTER))
            self._pace.hold(max(pause, *(fault.wait_s for fault in faults.values())))

    def _failure(self, method: str, fault: _Fault) -> SourceUnavailable:
        text = redact(fault.text, self._provider.url)[:MESSAGE_CHARS]
        message = f"provider {self._provider.name}: {method}: {text}"
        if fault.code == METHOD_MISSING_CODE or METHOD_MISSING.search(fault.text):
            return MethodMissing(message)
        return SourceUnavailable(message)

    def _nonsense(self, what: str) -> SourceUnavailable:
        return SourceUnavailable(f"provider {self._provider.name}: {what}")

    # --- one exchange ---------------------------------------------------------------------------------------------

    def _exchange(
        self, client: httpx.Client, calls: Sequence[Call], deadline: float | None
    ) -> Sequence[object | _Fault]:
        """Send the calls in one HTTP request; return a result or a fault for each."""
        asked = [
            {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
            for at, (method, params) in enumerate(calls)
        ]
        is_single = len(calls) == 1
        answer = self._post(client, orjson.dumps(asked[0] if is_single else asked), len(calls), deadline)
        if answer.status in BUSY_STATUS or not answer.status:
            text = answer.text or f"HTTP {answer.status}"
            return [_Fault(text, is_busy=True, wait_s=answer.wait_s)] * len(calls)
        if answer.status == TOO_LARGE_STATUS:
            return [_Fault("the request is too large (HTTP 413)", is_large=True)] * len(calls)
        try:
            parsed = cast(object, orjson.loads(answer.body))
        except orjson.JSONDecodeError:
            if answer.status == HTTP_OK:
                raise self._nonsense("it answered with something else than JSON") from None
            text = f"it answered with HTTP {answer.status}: check the URL and the key of the pool"
            raise self._nonsense(text) from None
        if isinstance(parsed, list):
            return self._sorted(cast(list[object], parsed), len(calls))
        if is_single:
            return self._sorted([parsed], 1)
        outcome = self._outcome(parsed)
        if not isinstance(outcome, _Fault):
            raise self._nonsense("it answered a batch with a single result")
        return [outcome if outcome.is_busy else _Fault(outcome.text, outcome.code, is_large=True)] * len(calls)

    def _sorted(self, answers: list[object], count: int) -> list[object | _Fault]:
        """Put the answers of a batch into the order of its calls, which a provider need not keep."""
        by_id: dict[object, object] = {}
        for one in answers:
            if isinstance(one, dict):
                by_id[cast(dict[str, object], one).get("id")] = cast(object, one)
        if len(answers) != count or any(at not in by_id for at in range(count)):
            if count == 1 and len(answers) == 1 and isinstance(outcome := self._outcome(answers[0]), _Fault):
                return [outcome]  # an error may come without the id of its call
            raise self._nonsense("its answer does not fit the calls that it was asked")
        return [self._outcome(by_id[at]) for at in range(count)]

    def _outcome(self, answer: object) -> object | _Fault:
        if isinstance(answer, dict):
            fields = cast(dict[str, object], answer)
            error = fields.get("error")
            if isinstance(error, dict):
                return _fault_of(cast(dict[str, object], error))
            if error is None and "result" in fields:
                return fields["result"]
        raise self._nonsense("its answer is no JSON-RPC")

    def _post(self, client: httpx.Client, body: bytes, calls: int, deadline: float | None) -> _Answer:
        end = self._wait(self._pace.reserve(calls), deadline)
        left = max(0.001, end - time.monotonic())
        timeout = httpx.Timeout(left, connect=min(CONNECT_S, left))
        headers = {"content-type": "application/json"}
        try:
            with client.stream("POST", self._provider.url, content=body, headers=headers, timeout=timeout) as response:
                wait_s = _seconds(response.headers.get("retry-after", ""))
                return _Answer(response.status_code, self._read(response, end), wait_s)
        except httpx.TimeoutException:
            raise self._late(deadline) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise self._nonsense("its URL is not valid: mend the pool's setting") from None
        except httpx.TransportError as error:
            kind = "it cannot be reached" if isinstance(error, httpx.ConnectError) else "the connection broke"
            return _Answer(0, b"", text=kind)
        except httpx.RequestError:  # without its cause, whose text and request hold the URL
            raise self._nonsense("its answer cannot be decoded") from None

    def _wait(self, pause_s: float, deadline: float | None) -> float:
        """Sleep, and return the instant at which the request has to be answered."""
        if deadline is not None and time.monotonic() + pause_s >= deadline:
            raise self._too_late()
        time.sleep(pause_s)
        end = time.monotonic() + self._timeout_s
        return end if deadline is None else min(end, deadline)

    def _read(self, response: httpx.Response, end: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise self._nonsense(f"its answer is larger than {MAX_ANSWER_BYTES >> 20} MiB: lower chunk_size")
            if time.monotonic() > end:  # the timeout of the transport starts anew with each byte
                raise httpx.ReadTimeout("slow answer")
            chunks.append(chunk)
        return b"".join(chunks)

    def _late(self, deadline: float | None) -> SourceUnavailable | DeadlineExceeded:
        if deadline is not None and time.monotonic() >= deadline:
            return self._too_late()
        return self._nonsense(f"no answer in {self._timeout_s:g} s")

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"provider {self._provider.name}: the range was not read by its deadline")

    # --- small things ---------------------------------------------------------------------------------------------

    def _quantity(self, method: str) -> int:
        result = self.call(method, [])
        try:
            number = int(cast(str, result), 16)
        except (TypeError, ValueError):
            raise self._nonsense(f"{method} did not answer with a number") from None
        if not 0 <= number < MAX_QUANTITY:
            raise self._nonsense(f"{method} answered with an impossible number")
        return number

    def _probe_block(self) -> tuple[str, bool]:
        """Return a young block with as few transactions as possible but some, and whether none was found."""
        head = self.head()
        numbers = [hex(number) for number in range(head, max(-1, head - PROBED_BLOCKS), -1)]
        blocks = self.batch([("eth_getBlockByNumber", [number, False]) for number in numbers])
        sizes = [
            (len(cast(dict[str, list[object]], block).get("transactions", [])), number)
            for number, block in zip(numbers, blocks, strict=True)
            if isinstance(block, dict)
        ]
        busy = [(size, number) for size, number in sizes if size]
        return (min(busy)[1], False) if busy else (numbers[0], True)

    @contextmanager
    def _connected(self) -> Generator[httpx.Client]:
        if self._client is not None:
            yield self._client
            return
        with self._open() as client:
            yield client

    def _open(self) -> httpx.Client:
        """Ignore the environment: proxies and .netrc are no settings of ours, and Cryo sees none either."""
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        return httpx.Client(verify=_trusted(), trust_env=False, limits=limits)


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)  # reads 140 certificates: 15 ms


def _fault_of(error: Mapping[str, object]) -> _Fault:
    code = error.get("code")
    text = str(error.get("message", "an error without a message"))
    number = code if isinstance(code, int) else 0
    is_busy = number in BUSY_CODES or "rate limit" in text.lower() or "too many requests" in text.lower()
    return _Fault(f"{text} ({number})", number, is_busy=is_busy, is_large=number == TOO_LARGE_CODE)


def _seconds(retry_after: str) -> float:
    """Read a Retry-After header in seconds; a date is not worth its code."""
    return min(RETRY_AFTER_MAX_S, float(retry_after)) if retry_after.isdigit() else 0.0
