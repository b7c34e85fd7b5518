"""The built-in engine against a real node, its recording, a failing provider and mainnet blocks."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.conftest import Chain, Replay
from tests.one_replay import HTTP, OneReplay
from tests.scripted_node import Reply, ScriptedNode, without
from trace_ray import retry
from trace_ray.contracts import BlockRange, Level, Receipts
from trace_ray.errors import (
    DeadlineExceeded,
    SourceLied,
    SourceUnavailable,
    TransientError,
    UnsupportedExtraction,
)
from trace_ray.extract import native, rpc
from trace_ray.extract.engine import Extraction, Provider, Request
from trace_ray.extract.native import NativeEngine
from trace_ray.extract.verify import Problem, Proof, verify

CORE = ("blocks", "transactions", "logs")
RANGE = BlockRange(5, 45)
BAD_BLOCK = 17
MAINNET = BlockRange(22_431_080, 22_431_091)


def extract(
    url: str,
    blocks: BlockRange = RANGE,
    datasets: tuple[str, ...] = CORE,
    *,
    receipts: Receipts = Receipts.ETHEREUM,
    chain_id: int = 31337,
    seconds: float = 30.0,
    requests_per_s: float | None = None,
) -> Extraction:
    provider = Provider("standard", 0, url, requests_per_s)
    request = Request(chain_id, datasets, blocks, receipts)
    return NativeEngine().extract(request, provider, Path("unused"), deadline=time.monotonic() + seconds)


def judge(
    found: Extraction, blocks: BlockRange = RANGE, receipts: Receipts = Receipts.ETHEREUM
) -> dict[str, Proof | Problem]:
    return verify(
        found.tables, blocks=blocks, receipts=receipts, datasets=found.tables.keys(), neighbours={}, proofs=found.proofs
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between tries, so that a provider that stays bad costs a test no seconds."""
    monkeypatch.setattr(rpc, "BACKOFF", retry.RetryPolicy(0.01, 0.02, max_attempts=3, max_infra_failures=3))
    monkeypatch.setattr(rpc, "RETRY_AFTER_MAX_S", 0.02)


@pytest.fixture(scope="module")
def server(recording: Path) -> Iterator[Replay]:
    one = Replay([recording])
    yield one
    one.stop()


@pytest.fixture
def replay(server: Replay) -> OneReplay:
    return OneReplay(server)


@pytest.fixture(scope="module")
def truth(server: Replay) -> dict[str, pa.Table]:
    """Rows of a provider without faults."""
    server.faults()
    return dict(extract(server.url).tables)


# --- right rows ---------------------------------------------------------------------------------------------------


def ask(client: httpx.Client, method: str, *params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    return client.post("/", json=body).json()["result"]


def raw(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text.removeprefix("0x"))


def number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def test_rows_of_a_real_node_equal_its_json(anvil_chain: Chain) -> None:
    found = extract(anvil_chain.url)
    with httpx.Client(base_url=anvil_chain.url) as client:
        blocks = [ask(client, "eth_getBlockByNumber", hex(n), True) for n in range(RANGE.start, RANGE.end)]
        receipts = {
            one["transactionHash"]: one for b in blocks for one in ask(client, "eth_getBlockReceipts", b["number"])
        }
        logs = ask(client, "eth_getLogs", {"fromBlock": hex(RANGE.start), "toBlock": hex(RANGE.end - 1)})
    assert found.tables["blocks"].to_pylist() == [
        {
            "block_number": number(b["number"]), "block_hash": raw(b["hash"]), "parent_hash": raw(b["parentHash"]),
            "author": raw(b["miner"]), "transactions_root": raw(b["transactionsRoot"]),
            "receipts_root": raw(b["receiptsRoot"]), "gas_used": number(b["gasUsed"]),
            "extra_data": raw(b["extraData"]), "logs_bloom": raw(b["logsBloom"]), "timestamp": number(b["timestamp"]),
            "base_fee_per_gas": number(b["baseFeePerGas"]), "chain_id": 31337,
        }
        for b in blocks
    ]  # fmt: skip
    assert found.tables["transactions"].to_pylist() == [
        {
            "block_number": number(t["blockNumber"]), "block_hash": raw(t["blockHash"]),
            "transaction_index": number(t["transactionIndex"]), "transaction_hash": raw(t["hash"]),
            "nonce": number(t["nonce"]), "from_address": raw(t["from"]), "to_address": raw(t["to"]),
            "value_binary": int(t["value"], 16).to_bytes(32, "big"), "value_string": str(int(t["value"], 16)),
            "input": raw(t["input"]), "gas_limit": number(t["gas"]),
            "gas_used": number(receipts[t["hash"]]["gasUsed"]), "gas_price": number(t["gasPrice"]),
            "transaction_type": number(t["type"]),
            "max_priority_fee_per_gas": number(t.get("maxPriorityFeePerGas")),
            "max_fee_per_gas": number(t.get("maxFeePerGas")), "success": receipts[t["hash"]]["status"] == "0x1",
            "chain_id": 31337,
        }
        for b in blocks for t in b["transactions"]
    ]  # fmt: skip
    assert found.tables["logs"].to_pylist() == [
        {
            "block_number": number(one["blockNumber"]), "block_hash": raw(one["blockHash"]),
            "transaction_index": number(one["transactionIndex"]), "log_index": number(one["logIndex"]),
            "transaction_hash": raw(one["transactionHash"]), "address": raw(one["address"]),
            **{f"topic{n}": raw(one["topics"][n]) if n < len(one["topics"]) else None for n in range(4)},
            "data": raw(one["data"]), "chain_id": 31337,
        }
        for one in logs
    ]  # fmt: skip
    assert len(logs) > 100


def test_whole_devnet_is_proven_by_the_receipts_root_and_the_engine_s_own_checks(anvil_chain: Chain) -> None:
    whole = BlockRange(0, anvil_chain.head + 1)
    found = extract(anvil_chain.url, whole)
    assert found.proofs == ("header_hash", "transactions_root", "withdrawals_root")
    levels = {name: verdict.level for name, verdict in judge(found, whole).items() if isinstance(verdict, Proof)}
    assert levels == {
        "blocks": Level.HEADER_CHAIN,
        "transactions": Level.RECEIPTS_ROOT,
        "logs": Level.RECEIPTS_ROOT,
    }


def test_mainnet_blocks_over_the_start_of_prague_recompute(
    mainnet_recording: Path, serve_recording: Callable[..., Replay]
) -> None:
    server = serve_recording([mainnet_recording])
    found = extract(server.url, MAINNET, ("blocks", "transactions"), receipts=Receipts.NONE, chain_id=1)
    assert found.tables["transactions"].num_rows == 1_479
    assert found.proofs == ("header_hash", "transactions_root", "withdrawals_root")
    kinds = found.tables["transactions"].column("transaction_type").to_pylist()
    assert [kinds.count(kind) for kind in range(5)] == [76, 1, 1_390, 8, 4]
    verdicts = judge(found, MAINNET, Receipts.NONE)
    assert all(isinstance(one, Proof) and one.level is Level.HEADER_CHAIN for one in verdicts.values())
    assert "eth_getBlockReceipts" not in server.stats()


def test_node_that_hides_its_logs_is_found_by_the_blooms(
    mainnet_recording: Path, serve_recording: Callable[..., Replay]
) -> None:
    server = serve_recording([mainnet_recording], "--missing", "empty")
    found = extract(server.url, MAINNET, ("blocks", "logs"), receipts=Receipts.NONE, chain_id=1)
    assert found.tables["logs"].num_rows == 0
    verdicts = judge(found, MAINNET, Receipts.NONE)
    assert verdicts["logs"] == Problem("logs_bloom", "block 22431080 lacks logs that the header announces")
    assert isinstance(verdicts["blocks"], Proof)


def test_mainnet_blocks_without_receipts_are_refused_when_the_job_wants_them(
    mainnet_recording: Path, serve_recording: Callable[..., Replay], quick: None
) -> None:
    server = serve_recording([mainnet_recording])
    with pytest.raises(SourceUnavailable, match="receipts of block 22431"):
        extract(server.url, MAINNET, chain_id=1)


@pytest.mark.parametrize("datasets", [("blocks",), ("blocks", "logs"), ("blocks", "transactions")])
def test_part_of_the_datasets_has_the_same_rows(
    replay: OneReplay, truth: dict[str, pa.Table], datasets: tuple[str, ...]
) -> None:
    found = extract(replay.url, datasets=datasets)
    assert tuple(found.tables) == datasets
    assert all(found.tables[name].equals(truth[name]) for name in datasets)
    assert all(isinstance(one, Proof) for one in judge(found).values())
    assert ("transactions_root" in found.proofs) == ("transactions" in datasets)
    if datasets == ("blocks",):
        assert "eth_getBlockReceipts" not in replay.stats()


def test_logs_by_block_hash_equal_those_of_the_receipts(replay: OneReplay, truth: dict[str, pa.Table]) -> None:
    found = extract(replay.url, receipts=Receipts.NONE)
    assert found.tables["logs"].equals(truth["logs"])
    assert found.tables["transactions"].column("success").null_count == found.tables["transactions"].num_rows
    verdicts = judge(found, receipts=Receipts.NONE)
    assert [one.level for one in verdicts.values() if isinstance(one, Proof)] == [
        Level.HEADER_CHAIN, Level.HEADER_CHAIN, Level.LOGS_BLOOM,
    ]  # fmt: skip


def test_node_without_block_receipts_is_asked_for_each_receipt(replay: OneReplay, truth: dict[str, pa.Table]) -> None:
    with ScriptedNode(without("eth_getBlockReceipts", replay.url)) as node:
        found = extract(node.url)
    assert all(found.tables[name].equals(truth[name]) for name in CORE)
    stats = replay.stats()
    assert stats["eth_getTransactionReceipt"] == truth["transactions"].num_rows
    assert "eth_getBlockReceipts" not in stats


def test_batches_stay_small_and_are_few(replay: OneReplay) -> None:
    extract(replay.url)
    stats = replay.stats()
    assert stats["eth_getBlockByNumber"] == stats["eth_getBlockReceipts"] == len(RANGE)
    assert len(RANGE) / native.BATCH_BLOCKS <= stats["requests"] <= len(RANGE) / native.FIRST_BLOCKS


def test_full_blocks_are_read_in_smaller_batches(replay: OneReplay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "BATCH_ROWS", 1)
    monkeypatch.setattr(native, "IN_FLIGHT", 1)
    extract(replay.url)
    assert replay.stats()["requests"] == 1 + len(RANGE) - native.FIRST_BLOCKS


def test_rate_of_the_pool_is_kept(replay: OneReplay) -> None:
    replay.faults(rps=200)
    started = time.monotonic()
    extract(replay.url, requests_per_s=200.0)
    assert time.monotonic() - started > 2 * len(RANGE) / 200 - 0.5  # a burst of half a second is allowed
    assert replay.stats().get("fault_429", 0) == 0


# --- what cannot be had -------------------------------------------------------------------------------------------


def test_block_beyond_the_head_is_named(replay: OneReplay) -> None:
    replay.faults(head=30)
    with pytest.raises(SourceUnavailable, match="it has no block 31: it lags"):
        extract(replay.url, BlockRange(28, 34))


def test_foreign_dataset_is_refused_before_any_call(replay: OneReplay) -> None:
    with pytest.raises(UnsupportedExtraction, match="no traces: set TRACE_ENGINE=cryo"):
        extract(replay.url, datasets=("blocks", "traces"))
    assert "requests" not in replay.stats()


def test_silent_node_is_given_up_at_the_deadline(replay: OneReplay) -> None:
    replay.faults(fail="hang")
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="standard/0"):
        extract(replay.url, seconds=0.7)
    assert time.monotonic() - started < 2


def test_slow_node_is_given_up_at_the_deadline(replay: OneReplay) -> None:
    replay.faults(latency_ms=300)
    with pytest.raises(DeadlineExceeded):
        extract(replay.url, requests_per_s=20.0, seconds=1.0)


# --- a provider that fails or lies --------------------------------------------------------------------------------

METHODS = ("eth_getBlockByNumber", "eth_getBlockReceipts")
FAULTS = ("429", "500", "503", "drop", "garbage", "truncated", "rpc", "rpc429", "null", "empty", "short", "fork")
PASSING = ("429", "503", "drop", "rpc429")


def attempt(url: str, receipts: Receipts) -> Extraction | TransientError:
    try:
        return extract(url, receipts=receipts)
    except TransientError as error:
        return error


@pytest.mark.parametrize("receipts", [Receipts.NONSTANDARD, Receipts.NONE])
def test_header_of_another_chain_is_no_lie_but_no_proof_either(replay: OneReplay, receipts: Receipts) -> None:
    def script(request: Any) -> Reply:
        answers = HTTP.post(replay.url, json=request).json()
        for answer in answers:
            if isinstance(answer["result"], dict):
                answer["result"]["stateRoot"] = "0x" + "11" * 32
        return Reply(answers)

    with ScriptedNode(script) as node:
        found = extract(node.url, BlockRange(8, 10), receipts=receipts)
        assert "header_hash" not in found.proofs
        assert "transactions_root" in found.proofs
        with pytest.raises(SourceLied, match="header_hash: block 8"):
            extract(node.url, BlockRange(8, 10))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("receipts", [Receipts.ETHEREUM, Receipts.NONSTANDARD])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", FAULTS)
def test_lasting_fault_never_ends_in_wrong_accepted_rows(
    replay: OneReplay, truth: dict[str, pa.Table], fault: str, method: str, receipts: Receipts
) -> None:
    replay.faults(fail=fault, methods=[method], blocks=[BAD_BLOCK])
    found = attempt(replay.url, receipts)
    assert replay.stats()[f"fault_{fault}"] > 0
    if isinstance(found, TransientError):
        assert "\n" not in str(found)
        assert replay.url not in str(found)
        return
    assert (fault, method) in (("short", "eth_getBlockByNumber"), ("fork", "eth_getBlockByNumber"))
    verdicts = judge(found, receipts=receipts)
    accepted = {name for name, verdict in verdicts.items() if isinstance(verdict, Proof)}
    assert all(found.tables[name].equals(truth[name]) for name in accepted)
    harmed = {"transactions", "logs"} if receipts is Receipts.ETHEREUM else {"transactions"}
    assert accepted == set(CORE) - (harmed if fault == "fork" else set())  # a block is no list that can be short


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", PASSING)
def test_passing_fault_is_survived(replay: OneReplay, truth: dict[str, pa.Table], fault: str, method: str) -> None:
    replay.faults(fail=fault, methods=[method], fail_times=2)
    found = extract(replay.url)
    assert replay.stats()[f"fault_{fault}"] == 2
    assert all(found.tables[name].equals(truth[name]) for name in CORE)


@pytest.mark.parametrize("harm", [{"miner": "0x12"}, {"miner": None}, {"transactions": ["0x12"]}, {"number": "-0x1"}])
def test_malformed_block_is_one_sentence(replay: OneReplay, harm: dict[str, Any]) -> None:
    def script(request: Any) -> Reply:
        answers = HTTP.post(replay.url, json=request).json()
        for answer in answers:
            if isinstance(answer["result"], dict):
                answer["result"] |= harm
        return Reply(answers)

    with ScriptedNode(script) as node, pytest.raises(TransientError) as caught:
        extract(node.url, BlockRange(8, 10), receipts=Receipts.NONSTANDARD)
    assert re.search(r"blocks \[8, 10\) is malformed \(\w+\): use another provider|block 8 has", str(caught.value))


def test_short_receipts_are_a_lie(replay: OneReplay) -> None:
    replay.faults(fail="short", methods=["eth_getBlockReceipts"], blocks=[BAD_BLOCK])
    with pytest.raises(SourceLied, match=f"receipts: block {BAD_BLOCK} has"):
        extract(replay.url)


def test_error_never_holds_the_url(replay: OneReplay, quick: None) -> None:
    url = replay.url.replace("http://", "http://user:passw0rd@") + "/v3/SECRETKEY?token=TOKEN123"
    for fault in ("500", "garbage", "drop", "rpc"):
        replay.faults(fail=fault)
        with pytest.raises(SourceUnavailable) as caught:
            extract(url)
        text = f"{caught.value!r} {caught.value.__cause__!r}"
        assert not any(secret in text for secret in ("SECRETKEY", "TOKEN123", "passw0rd", "127.0.0.1"))
