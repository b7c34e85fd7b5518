"""The Cryo engine against real servers: right rows, or an error of the right kind; no secret and no child left."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from eth_hash.auto import keccak

from tests import truth
from tests.conftest import Chain, Replay, wait_until
from trace_ray.contracts import BlockRange, Receipts
from trace_ray.errors import DeadlineExceeded, EngineCrashed, SourceLied, SourceUnavailable
from trace_ray.extract import cryo_process
from trace_ray.extract.cryo import CryoEngine
from trace_ray.extract.engine import Extraction, Provider, Request
from trace_ray.extract.rewrite import write
from trace_ray.extract.schema import SCHEMAS

CORE = ("blocks", "transactions", "logs")
SECRETS = ("SECRETUSER", "SECRETPASSWORD", "SECRETKEY", "SECRETQUERY")
CHAIN_ID = 31337
ALL = BlockRange(0, 64)


def extract(
    url: str,
    directory: Path,
    datasets: tuple[str, ...] = CORE,
    blocks: BlockRange = ALL,
    *,
    receipts: Receipts = Receipts.ETHEREUM,
    chain_id: int = CHAIN_ID,
    rate: float | None = None,
    deadline_s: float = 30.0,
) -> Extraction:
    request = Request(chain_id, datasets, blocks, receipts)
    provider = Provider("standard", 0, url, rate)
    return CryoEngine().extract(request, provider, directory, deadline=time.monotonic() + deadline_s)


def secret(url: str) -> str:
    """The same address with something to hide in each part of the URL."""
    host = url.removeprefix("http://")
    return f"http://SECRETUSER:SECRETPASSWORD@{host}/v3/SECRETKEY?token=SECRETQUERY"


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "cryo_child.py" in " ".join(child.cmdline())]


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_equal_what_the_node_says(replay: Replay, tmp_path: Path) -> None:
    extraction = extract(replay.url, tmp_path)
    expected = truth.rows(replay.url, 0, 64)
    assert {name: table.to_pylist() for name, table in extraction.tables.items()} == expected
    assert [table.schema for table in extraction.tables.values()] == [SCHEMAS[name].columns for name in CORE]
    assert len(expected["transactions"]) > 500
    assert (extraction.build.name, extraction.build.version, extraction.proofs) == ("cryo", "0.3.2", ())


def test_blocks_and_transactions_come_from_one_answer(replay: Replay, tmp_path: Path) -> None:
    extract(replay.url, tmp_path, blocks=BlockRange(10, 30))
    calls = replay.stats()
    assert (calls["eth_getBlockByNumber"], calls["eth_getBlockReceipts"], calls["eth_getLogs"]) == (20, 20, 20)


def test_a_single_block_is_a_range(replay: Replay, tmp_path: Path) -> None:
    tables = extract(replay.url, tmp_path, blocks=BlockRange(0, 1)).tables
    assert [table.num_rows for table in tables.values()] == [1, 0, 0]


def test_no_logs_are_an_empty_typed_table_and_file(replay: Replay, tmp_path: Path) -> None:
    empty = next(row["block_number"] for row in truth.rows(replay.url, 1, 64)["blocks"] if not any(row["logs_bloom"]))
    blocks = BlockRange(empty, empty + 1)
    table = extract(replay.url, tmp_path, ("blocks", "logs", "erc20_transfers"), blocks).tables["logs"]
    assert (table.num_rows, table.schema) == (0, SCHEMAS["logs"].columns)
    (file,) = write(table, "logs", tmp_path, blocks=blocks)
    assert (file.rows, file.min_block, file.max_block) == (0, empty, empty)


def test_without_receipts_their_columns_are_null_and_none_is_asked_for(replay: Replay, tmp_path: Path) -> None:
    tables = extract(replay.url, tmp_path, receipts=Receipts.NONE).tables
    expected = truth.rows(replay.url, 0, 64)
    for row in expected["transactions"]:
        row |= {"gas_used": None, "success": None}
    asked = replay.stats()["eth_getBlockReceipts"]
    assert asked == 64  # by the truth; Cryo asked for none
    assert {name: table.to_pylist() for name, table in tables.items()} == expected


def test_other_receipts_bring_the_same_rows_and_nothing_else_behind(replay: Replay, tmp_path: Path) -> None:
    tables = extract(replay.url, tmp_path, receipts=Receipts.NONSTANDARD).tables
    assert replay.stats()["eth_getBlockByNumber"] == 2 * 64
    assert {name: table.to_pylist() for name, table in tables.items()} == truth.rows(replay.url, 0, 64)


@pytest.mark.parametrize("fault", ["short", "empty"])
def test_transactions_without_a_receipt_are_missed_though_no_root_can_tell(
    fault: str, replay: Replay, tmp_path: Path
) -> None:
    replay.faults(fail=fault, methods=["eth_getBlockReceipts"], blocks=[30])
    with pytest.raises(SourceLied, match="receipts: block 30 of standard/0 has other transactions than receipts"):
        extract(replay.url, tmp_path, receipts=Receipts.NONSTANDARD)


def test_the_share_of_the_pools_rate_is_kept(replay: Replay, tmp_path: Path) -> None:
    started = time.monotonic()
    extract(replay.url, tmp_path, blocks=BlockRange(0, 32), rate=80.5)  # 97 requests
    assert time.monotonic() - started > 97 / 80 - 0.3


# --- opt-in datasets ----------------------------------------------------------------------------------------------

OPT_IN = tuple(name for name in SCHEMAS if name not in CORE)


@pytest.fixture(scope="module")
def opted(anvil_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    directory = tmp_path_factory.mktemp("opt-in")
    return dict(extract(anvil_chain.url, directory, (*CORE, *OPT_IN), BlockRange(1, 64)).tables)


@pytest.mark.parametrize("name", OPT_IN)
def test_an_opt_in_dataset_has_rows_of_the_stable_schema(name: str, opted: dict[str, pa.Table], tmp_path: Path) -> None:
    table = opted[name]
    assert table.num_rows > 0
    assert table.schema.equals(SCHEMAS[name].columns)
    (file,) = write(table, name, tmp_path, blocks=BlockRange(1, 64))
    assert file.rows == table.num_rows


@pytest.mark.parametrize("receipts", [Receipts.ETHEREUM, Receipts.NONE])
@pytest.mark.parametrize(
    "pair", [("contracts", "traces"), ("native_transfers", "traces"), ("contracts", "native_transfers")]
)
def test_two_datasets_of_one_trace_answer_come_together(
    pair: tuple[str, ...], receipts: Receipts, anvil_chain: Chain, opted: dict[str, pa.Table], tmp_path: Path
) -> None:
    datasets = ("blocks", "transactions", *pair)
    tables = extract(anvil_chain.url, tmp_path, datasets, BlockRange(1, 64), receipts=receipts).tables
    assert tuple(tables) == datasets
    assert all(tables[name].equals(opted[name]) for name in pair)


def test_token_transfers_are_the_transfer_logs(opted: dict[str, pa.Table]) -> None:
    event = keccak(b"Transfer(address,address,uint256)")
    logs = [log for log in opted["logs"].to_pylist() if log["topic0"] == event]
    for name, is_nft, value in (("erc20_transfers", False, "value"), ("erc721_transfers", True, "token_id")):
        expected = [
            {
                **{key: log[key] for key in ("block_number", "block_hash", "transaction_index", "log_index")},
                "transaction_hash": log["transaction_hash"],
                "erc20": log["address"],
                "from_address": log["topic1"][12:],
                "to_address": log["topic2"][12:],
                f"{value}_binary": log["topic3"] if is_nft else log["data"],
                f"{value}_string": str(int.from_bytes(log["topic3"] if is_nft else log["data"], "big")),
                "chain_id": CHAIN_ID,
            }
            for log in logs
            if (log["topic3"] is not None) == is_nft
        ]
        assert opted[name].to_pylist() == expected


def test_traces_are_what_trace_block_says(anvil_chain: Chain, opted: dict[str, pa.Table]) -> None:
    blocks = truth.call(anvil_chain.url, *(("trace_block", [hex(number)]) for number in range(1, 64)))
    expected = [
        (
            trace["blockNumber"],
            trace["transactionPosition"],
            "_".join(map(str, trace["traceAddress"])),
            bytes.fromhex(trace["blockHash"][2:]),
            str(int(trace["action"]["value"], 16)),
            int(trace["action"]["gas"], 16),
            trace.get("error"),
        )
        for block in blocks
        for trace in block
    ]
    columns = ("block_number", "transaction_index", "trace_address", "block_hash", "action_value_string", "action_gas")
    found = [tuple(row[key] for key in (*columns, "error")) for row in opted["traces"].to_pylist()]
    assert found == expected
    transfers = opted["native_transfers"].to_pylist()
    assert [row["value_string"] for row in transfers] == [value for *_, value, _, _ in expected]


def test_geth_calls_are_what_debug_trace_says(anvil_chain: Chain, opted: dict[str, pa.Table]) -> None:
    tracer = {"tracer": "callTracer"}
    blocks = truth.call(anvil_chain.url, *(("debug_traceBlockByNumber", [hex(n), tracer]) for n in range(1, 64)))
    expected: list[tuple[object, ...]] = []

    def add(number: int, index: int, frame: dict[str, Any], path: str) -> None:
        expected.append((number, index, path, frame["type"], int(frame["gasUsed"], 16), frame.get("error")))
        for place, child in enumerate(frame.get("calls", [])):
            add(number, index, child, f"{path}_{place}".lstrip("_"))

    for number, block in enumerate(blocks, 1):
        for index, trace in enumerate(block):
            add(number, index, trace["result"], "")
    columns = ("block_number", "transaction_index", "trace_address", "typ", "gas_used", "error")
    assert [tuple(row[key] for key in columns) for row in opted["geth_calls"].to_pylist()] == expected


def test_code_hashes_of_contracts_are_those_of_their_code(opted: dict[str, pa.Table]) -> None:
    for row in opted["contracts"].to_pylist():
        assert row["code_hash"] == keccak(row["code"])
        assert row["init_code_hash"] == keccak(row["init_code"])


# --- trouble ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "503", "drop", "garbage", "truncated", "null"])
@pytest.mark.parametrize("method", ["eth_getBlockByNumber", "eth_getLogs"])
def test_a_failing_provider_is_tried_later(fault: str, method: str, replay: Replay, tmp_path: Path) -> None:
    replay.faults(fail=fault, methods=[method], fail_times=3)
    with pytest.raises(
        SourceUnavailable, match=r"Cryo could not read blocks \[0, 64\) from standard/0: (- \w+|it gives no reason)"
    ):
        extract(replay.url, tmp_path)


@pytest.mark.parametrize("fault", ["500", "drop", "garbage", "rpc"])
def test_a_provider_that_fails_the_first_request_is_tried_later(fault: str, replay: Replay, tmp_path: Path) -> None:
    replay.faults(fail=fault, methods=["eth_chainId"])
    with pytest.raises(SourceUnavailable, match="Cryo cannot reach standard/0"):
        extract(replay.url, tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/SECRETKEY", "http://no-such-host.invalid", "http://"])
def test_a_dead_provider_is_tried_later(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="Cryo cannot reach standard/0: check that the pool's URL"):
        extract(url, tmp_path)


def test_busy_answers_are_bridged(replay: Replay, tmp_path: Path) -> None:
    methods = ["eth_getBlockByNumber", "eth_getLogs", "eth_getBlockReceipts", "eth_getTransactionReceipt"]
    replay.faults(fail="429", fail_rate=0.2, fail_times=20, methods=methods)  # Cryo asks for the chain's id only once
    assert extract(replay.url, tmp_path).tables["transactions"].num_rows > 500


def test_blocks_beyond_the_head_are_named(replay: Replay, tmp_path: Path) -> None:
    replay.faults(head=40)
    with pytest.raises(SourceUnavailable, match="standard/0 has no block 63 yet, its head is 40"):
        extract(replay.url, tmp_path)


def test_another_chain_is_refused(replay: Replay, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="answered for chain 31337, the job wants 1"):
        extract(replay.url, tmp_path, chain_id=1)


def test_a_hanging_provider_is_left_at_the_deadline_and_the_next_attempt_succeeds(
    replay: Replay, tmp_path: Path
) -> None:
    replay.faults(fail="hang", methods=["eth_getLogs"], fail_times=1)
    (tmp_path / "one").mkdir()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        extract(replay.url, tmp_path / "one", deadline_s=1.0)
    assert 1.0 <= time.monotonic() - started < 1.5
    assert children() == []
    (tmp_path / "two").mkdir()
    assert extract(replay.url, tmp_path / "two").tables["blocks"].num_rows == 64


def test_a_child_that_dies_is_a_crash(replay: Replay, tmp_path: Path) -> None:
    replay.faults(fail="hang")

    def kill() -> None:
        wait_until(lambda: bool(children()), what="the child")
        os.kill(children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EngineCrashed, match=r"without a verdict \(signal SIGKILL\)"):
        extract(replay.url, tmp_path)
    killer.join()
    assert children() == []


def test_memory_beyond_the_limit_ends_the_child_only(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cryo_process, "MEMORY_BYTES", 150 * 1024**2)
    with pytest.raises(EngineCrashed):
        extract(replay.url, tmp_path)


def test_no_child_outlives_a_killed_worker(replay: Replay, tmp_path: Path) -> None:
    replay.faults(fail="hang", methods=["eth_getBlockByNumber"])
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from trace_ray.contracts import BlockRange, Receipts\n"
        "from trace_ray.extract.cryo import CryoEngine\nfrom trace_ray.extract.engine import Provider, Request\n"
        "request = Request(31337, ('blocks',), BlockRange(0, 64), Receipts.ETHEREUM)\n"
        "provider = Provider('standard', 0, sys.stdin.read())\n"
        "CryoEngine().extract(request, provider, Path(sys.argv[1]), deadline=time.monotonic() + 60)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.write(replay.url.encode())
    worker.stdin.close()
    wait_until(lambda: replay.stats().get("eth_chainId", 0) > 0, what="the child's first request")
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    worker.wait(10)
    assert psutil.wait_procs([child], timeout=3)[1] == []


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, "500", "drop", "garbage", "null", "hang"])
def test_nothing_of_the_url_is_seen(
    fault: str | None, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replay.faults(fail=fault, methods=["eth_getLogs"])
    seen = ""
    try:
        extraction = extract(secret(replay.url), tmp_path, deadline_s=1.0 if fault == "hang" else 30.0)
        seen += repr(extraction)
    except (SourceUnavailable, DeadlineExceeded):
        assert fault is not None
        seen += traceback.format_exc()
    seen += "".join(repr(vars(record)) for record in caplog.records)
    seen += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    assert [part for part in SECRETS if part in seen] == []


def test_the_process_list_shows_nothing_of_the_url(replay: Replay, tmp_path: Path) -> None:
    replay.faults(fail="hang", methods=["eth_getLogs"])
    seen: list[str] = []

    def look() -> None:
        wait_until(lambda: replay.stats().get("eth_chainId", 0) > 0, what="the first request")
        seen.extend(f"{child.cmdline()} {child.environ()}" for child in children())

    watcher = threading.Thread(target=look)
    watcher.start()
    with pytest.raises(DeadlineExceeded):
        extract(secret(replay.url), tmp_path, deadline_s=2.0)
    watcher.join()
    assert len(seen) == 1
    assert [part for part in SECRETS if part in seen[0]] == []


def test_the_environment_of_the_worker_does_not_reach_cryo(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESC_MODE", "ENV")
    monkeypatch.setenv("MESC_DEFAULT_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("ETH_RPC_URL", "http://127.0.0.1:1")
    assert extract(replay.url, tmp_path).tables["blocks"].num_rows == 64
