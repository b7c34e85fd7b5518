"""The JSON-RPC client against a replayed node and against providers that behave as some do."""

import gzip
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.conftest import Chain, Replay, free_port
from tests.one_replay import OneReplay
from tests.scripted_node import Reply, Script, ScriptedNode, answered, calls_of, echo, failed, without
from trace_ray import retry
from trace_ray.errors import DeadlineExceeded, MethodMissing, SourceUnavailable
from trace_ray.extract import rpc
from trace_ray.extract.engine import Provider
from trace_ray.extract.rpc import Call, JsonRpc

HEADERS: list[Call] = [("eth_getBlockByNumber", [hex(number), False]) for number in range(9)]
ECHOES: list[Call] = [("echo", [number]) for number in range(8)]


def client(url: str, *, timeout_s: float = 5.0, requests_per_s: float | None = None) -> JsonRpc:
    return JsonRpc(Provider("standard", 0, url, requests_per_s), timeout_s=timeout_s)


def numbers(results: list[object]) -> list[int]:
    return [int(cast(dict[str, str], block)["number"], 16) for block in results]


@pytest.fixture(scope="module")
def server(recording: Path) -> Iterator[Replay]:
    one = Replay([recording])
    yield one
    one.stop()


@pytest.fixture
def replay(server: Replay) -> OneReplay:
    return OneReplay(server)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between tries."""
    monkeypatch.setattr(rpc, "BACKOFF", retry.RetryPolicy(0.01, 0.02, max_attempts=3, max_infra_failures=3))
    monkeypatch.setattr(rpc, "RETRY_AFTER_MAX_S", 0.02)


def results_of(script: Script, calls: list[Call] | None = None) -> tuple[list[object], list[Any]]:
    """The results of a batch, and the requests that it took."""
    with ScriptedNode(script) as node:
        return client(node.url).batch(calls or ECHOES), node.requests


def error_of(script: Script, calls: list[Call] | None = None) -> SourceUnavailable:
    with ScriptedNode(script) as node, pytest.raises(SourceUnavailable) as caught:
        client(node.url, timeout_s=0.5).batch(calls or ECHOES)
    assert str(caught.value).startswith("provider standard/0: ")
    assert node.url not in str(caught.value)
    return caught.value


# --- answers ------------------------------------------------------------------------------------------------------


def test_head_and_chain_id_are_those_of_the_node(anvil_chain: Chain) -> None:
    assert client(anvil_chain.url).head() == anvil_chain.head
    assert client(anvil_chain.url).chain_id() == anvil_chain.chain_id


def test_batch_is_one_request_in_the_order_of_its_calls(replay: OneReplay) -> None:
    with client(replay.url) as one:
        assert numbers(one.batch(HEADERS)) == list(range(9))
        assert numbers(one.batch(HEADERS[::-1])) == list(range(8, -1, -1))
    assert replay.stats()["requests"] == 2


def test_answers_out_of_order_are_put_in_order() -> None:
    results, _ = results_of(lambda request: Reply([echo(call) for call in reversed(request)]))
    assert results == list(range(8))


def test_null_is_a_result() -> None:
    results, _ = results_of(lambda request: answered(request, lambda call: {**echo(call), "result": None}))
    assert results == [None] * 8


def test_no_calls_need_no_request() -> None:
    with ScriptedNode(answered) as node:
        assert client(node.url).batch([]) == []
    assert node.requests == []


def test_compressed_answers_are_read() -> None:
    def script(request: Any) -> Reply:
        body = gzip.compress(json.dumps([echo(call) for call in request]).encode())
        return Reply(body, headers={"content-encoding": "gzip"})

    assert results_of(script)[0] == list(range(8))


# --- providers that cannot take large batches ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        Reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch of more than 3"}}),
        Reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch of more than 3"}}, status=400),
        Reply(b"request entity too large", status=413),
    ],
)
def test_refused_batch_is_halved_until_it_fits_and_stays_small(refusal: Reply) -> None:
    def script(request: Any) -> Reply:
        return refusal if len(calls_of(request)) > 3 else answered(request)

    with ScriptedNode(script) as node, client(node.url) as one:
        assert one.batch(ECHOES) == list(range(8))
        assert one.batch(ECHOES) == list(range(8))
    assert [len(calls_of(request)) for request in node.requests] == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_provider_without_batches_gets_single_calls() -> None:
    def script(request: Any) -> Reply:
        return failed_batch() if isinstance(request, list) else answered(request)

    def failed_batch() -> Reply:
        return Reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}})

    results, requests = results_of(script)
    assert results == list(range(8))
    assert sum(isinstance(request, dict) for request in requests) == 8


def test_calls_beyond_the_size_of_an_answer_are_asked_again() -> None:
    def script(request: Any) -> Reply:
        calls = calls_of(request)
        return answered(request, lambda call: echo(call) if call in calls[:3] else failed(call, -32003, "too large"))

    results, requests = results_of(script)
    assert results == list(range(8))
    assert [len(calls_of(request)) for request in requests] == [8, 4, 2]


# --- busy providers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429", "503", "drop", "rpc429"])
def test_busy_provider_is_asked_again(replay: OneReplay, fault: str, quick: None) -> None:
    replay.faults(fail=fault, fail_times=2)
    assert numbers(client(replay.url).batch(HEADERS)) == list(range(9))
    assert replay.stats()[f"fault_{fault}"] == 2


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("429", "HTTP 429"),
        ("503", "HTTP 503"),
        ("drop", "the connection broke"),
        ("rpc429", "Too Many Requests"),
    ],
)
def test_tries_are_counted(replay: OneReplay, fault: str, text: str, quick: None) -> None:
    replay.faults(fail=fault)
    with pytest.raises(SourceUnavailable, match=text):
        client(replay.url).call("eth_chainId", [])
    assert replay.stats()[f"fault_{fault}"] == 3


def test_only_the_calls_that_failed_are_asked_again(replay: OneReplay, quick: None) -> None:
    replay.faults(fail="rpc429", blocks=[4], fail_times=1)
    assert numbers(client(replay.url).batch(HEADERS)) == list(range(9))
    assert replay.stats()["eth_getBlockByNumber"] == len(HEADERS) + 1


def test_pause_that_the_provider_asks_for_is_kept() -> None:
    answers: Iterator[Reply] = iter([Reply(b"", status=429, headers={"retry-after": "1"})])
    started = time.monotonic()
    results, _ = results_of(lambda request: next(answers, None) or answered(request))
    assert results == list(range(8))
    assert 1.0 <= time.monotonic() - started < 4.0


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("9999", 10.0), ("", 0.0), ("Wed, 21 Oct", 0.0)])
def test_pause_is_bounded(header: str, seconds: float) -> None:
    assert rpc._seconds(header) == seconds


def test_rate_is_spread_over_all_calls_of_a_client(replay: OneReplay) -> None:
    replay.faults(rps=40)
    started = time.monotonic()
    with client(replay.url, requests_per_s=40.0) as one:
        for _ in range(4):
            one.batch(HEADERS)
    assert time.monotonic() - started > 36 / 40 - 0.5
    assert replay.stats().get("fault_429", 0) == 0


# --- what is not tried again --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(b"<html>"), "something else than JSON"),
        (Reply(b"[{"), "something else than JSON"),
        (Reply(b"no such key", status=401), "HTTP 401: check the URL and the key"),
        (Reply(b"oops", status=500), "HTTP 500"),
        (Reply(b"", status=301, headers={"location": "http://127.0.0.1/"}), "HTTP 301"),
        (Reply({"jsonrpc": "2.0", "id": 0, "result": 1}), "a batch with a single result"),
        (Reply([]), "does not fit the calls"),
        (Reply([1, 2, 3, 4, 5, 6, 7, 8]), "does not fit the calls"),
        (Reply([{"id": 0, "result": 1}] * 8), "does not fit the calls"),
        (Reply([{"id": at, "result": 1} for at in range(1, 9)]), "does not fit the calls"),
        (Reply([{"id": at} for at in range(8)]), "no JSON-RPC"),
        (Reply([{"id": at, "error": "text"} for at in range(8)]), "no JSON-RPC"),
        (Reply([{"id": at, "error": {}} for at in range(8)]), "an error without a message"),
        (Reply("text"), "no JSON-RPC"),
        (Reply(b"not gzip", headers={"content-encoding": "gzip"}), "cannot be decoded"),
    ],
)
def test_nonsense_is_an_error_at_once(reply: Reply, text: str) -> None:
    with ScriptedNode(lambda _: reply) as node, pytest.raises(SourceUnavailable, match=text):
        client(node.url).batch(ECHOES)
    assert len(node.requests) == 1


def test_error_of_one_call_fails_the_batch() -> None:
    error = error_of(lambda request: answered(request, lambda call: failed(call, -32000, "header not found")))
    assert str(error) == "provider standard/0: echo: header not found (-32000)"


def test_error_without_the_id_of_its_call_is_understood() -> None:
    reply = Reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "no access"}}, status=403)
    assert str(error_of(lambda _: reply, ECHOES[:1])) == "provider standard/0: echo: no access (-32000)"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32601, "whatever"),
        (-32600, "Unsupported method: trace_block on ETH_MAINNET"),
        (-32000, "the method trace_block does not exist/is not available"),
        (-32004, "Method trace_block not supported"),
    ],
)
def test_missing_method_is_told_from_other_errors(code: int, message: str) -> None:
    error = error_of(lambda request: answered(request, lambda call: failed(call, code, message)))
    assert isinstance(error, MethodMissing)


def test_other_errors_are_no_missing_method() -> None:
    error = error_of(lambda request: answered(request, lambda call: failed(call, -32000, "header not found")))
    assert not isinstance(error, MethodMissing)


@pytest.mark.parametrize("result", ["0x10000000000000000", "-0x1"])
def test_quantity_that_no_chain_can_have_is_an_error(result: str) -> None:
    with (
        ScriptedNode(lambda _: Reply({"id": 0, "result": result})) as node,
        pytest.raises(SourceUnavailable, match="eth_blockNumber answered with an impossible number"),
    ):
        JsonRpc(Provider("pool", 0, node.url)).head()


@pytest.mark.parametrize("result", [None, "x", {}, 5])
def test_quantity_that_is_none_is_an_error(result: Any) -> None:
    with (
        ScriptedNode(lambda _: Reply({"id": 0, "result": result})) as node,
        pytest.raises(SourceUnavailable, match="eth_blockNumber did not answer with a number"),
    ):
        client(node.url).head()


# --- time and size ------------------------------------------------------------------------------------------------


def test_silence_ends_with_the_timeout(replay: OneReplay) -> None:
    replay.faults(fail="hang")
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"no answer in 0\.3 s"):
        client(replay.url, timeout_s=0.3).head()
    assert time.monotonic() - started < 1.5


def test_deadline_comes_before_the_timeout(replay: OneReplay) -> None:
    replay.faults(fail="hang")
    with pytest.raises(DeadlineExceeded):
        client(replay.url).batch(HEADERS, deadline=time.monotonic() + 0.3)
    with pytest.raises(DeadlineExceeded):
        client(replay.url).batch(HEADERS, deadline=time.monotonic() - 1)


def test_answer_that_trickles_ends_with_the_timeout() -> None:
    def trickle(_: Any) -> Reply:
        return Reply(_slow(), headers={"content-type": "application/json"})

    def _slow() -> Iterator[bytes]:
        for _ in range(20):
            time.sleep(0.1)
            yield b" "

    assert "no answer in 0.5 s" in str(error_of(trickle))


def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_ANSWER_BYTES", 1 << 20)
    error = error_of(lambda _: Reply(b" " * (3 << 20)))
    assert "larger than 1 MiB: lower chunk_size" in str(error)


def test_dead_host_is_unreachable(quick: None) -> None:
    with pytest.raises(SourceUnavailable, match="it cannot be reached"):
        client(f"http://127.0.0.1:{free_port()}/key").head()


@pytest.mark.parametrize("url", ["", "not a url", "ftp://127.0.0.1/SECRETKEY", "http://[::1/SECRETKEY"])
def test_bad_url_is_named_as_a_setting(url: str, quick: None) -> None:
    with pytest.raises(SourceUnavailable, match="mend the pool's setting") as caught:
        client(url).head()
    assert "SECRETKEY" not in f"{caught.value!r}"


# --- secrets ------------------------------------------------------------------------------------------------------


def test_url_that_a_provider_repeats_is_taken_out() -> None:
    def script(request: Any) -> Reply:
        text = "key SECRETKEY of user1234 is unknown at http://other.example/path"
        return answered(request, lambda call: failed(call, -32000, text + "x" * 500))

    with ScriptedNode(script) as node:
        url = node.url.replace("http://", "http://user1234:passw0rd@") + "/v2/SECRETKEY?apikey=TOKEN123"
        with pytest.raises(SourceUnavailable) as caught:
            client(url).head()
    text = str(caught.value)
    assert not any(secret in text for secret in ("SECRETKEY", "TOKEN123", "user1234", "passw0rd", "other.example"))
    assert len(text) < 300


def test_http_library_logs_no_url(replay: OneReplay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client(replay.url + "/SECRETKEY").head()
    assert "SECRETKEY" not in caplog.text


# --- capabilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trace_block", "debug_traceBlockByNumber", "eth_getBlockReceipts"])
def test_node_supports_what_it_answers(anvil_chain: Chain, method: str) -> None:
    assert client(anvil_chain.url).supports(method)


def test_node_does_not_support_what_it_does_not_know(replay: OneReplay) -> None:
    assert client(replay.url).supports("eth_getBlockReceipts")
    assert not client(replay.url).supports("trace_block")


@pytest.mark.parametrize("fault", ["null", "empty"])
def test_answering_nothing_is_no_support(replay: OneReplay, fault: str) -> None:
    replay.faults(fail=fault, methods=["eth_getBlockReceipts"])
    assert not client(replay.url).supports("eth_getBlockReceipts")


def test_nothing_is_right_where_there_are_no_transactions() -> None:
    def answer(call: dict[str, Any]) -> dict[str, Any]:
        results = {"eth_blockNumber": "0x2", "eth_getBlockByNumber": {"transactions": []}, "trace_block": []}
        return {"id": call["id"], "result": results[call["method"]]}

    with ScriptedNode(lambda request: answered(request, answer)) as node:
        assert client(node.url).supports("trace_block")


def test_silence_is_not_taken_for_a_missing_method(replay: OneReplay) -> None:
    replay.faults(fail="hang", methods=["eth_getBlockReceipts"])
    with pytest.raises(SourceUnavailable, match="no answer"):
        client(replay.url, timeout_s=0.3).supports("eth_getBlockReceipts")


def test_missing_method_behind_other_calls_is_told(replay: OneReplay) -> None:
    with ScriptedNode(without("eth_chainId", replay.url)) as node, pytest.raises(MethodMissing):
        client(node.url).batch([*HEADERS, ("eth_chainId", [])])
