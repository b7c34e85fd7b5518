"""The promise of first light: one command, a real chain, exact rows; and kills in the middle of it."""

import contextlib
import json
import signal
import time
from typing import Any

import psutil
import pytest

from tests import truth
from tests.acceptance.conftest import Cli
from tests.conftest import Chain, Replay

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def provider(stack: Cli, rich_chain: Chain) -> None:
    stack.environment["TRACE_RPC_POOL_STANDARD_URLS"] = rich_chain.url


def rows_of(stack: Cli, name: str) -> dict[str, list[list[object]]]:
    return {
        kind: stack.query(
            f"SELECT count(*), count(DISTINCT {key}), min(block_number), max(block_number) FROM {name}_{kind}"
        )
        for kind, key in (("blocks", "block_number"), ("transactions", "transaction_hash"))
    }


def test_one_command_syncs_from_genesis_to_tip_and_answers_sql(stack: Cli, rich_chain: Chain) -> None:
    done = stack.run("sync", "-f", str(stack.job("first", end=rich_chain.head + 1, chunk=50)))
    assert "first is complete" in done.stderr
    wanted = truth.rows(rich_chain.url, 0, rich_chain.head + 1)
    blocks = stack.query("SELECT block_number, block_hash FROM first_blocks ORDER BY 1 LIMIT 10000")
    assert blocks == [[row["block_number"], "0x" + row["block_hash"].hex()] for row in wanted["blocks"]]
    logs = stack.query(
        "SELECT block_number, log_index, address, topic0, data FROM first_logs ORDER BY 1, 2 LIMIT 10000"
    )
    assert logs == [
        [
            row["block_number"],
            row["log_index"],
            *("0x" + row[key].hex() if row[key] is not None else None for key in ("address", "topic0", "data")),
        ]
        for row in wanted["logs"]
    ]
    (count,) = stack.query("SELECT count(*) FROM first_transactions")
    assert count == [len(wanted["transactions"])]


def test_status_has_the_shape_that_scripts_rely_on(stack: Cli, rich_chain: Chain) -> None:
    (job,) = stack.json("status", "--job", "first", "--json")["jobs"]
    assert job["state"] == "complete"
    assert set(job) >= {"job_id", "name", "chain_id", "mode", "enabled", "state", "streams"}
    stream = job["streams"][0]
    assert set(stream) == {
        "dataset_key", "dataset", "from_block", "to_block", "next_block", "ranges", "blocks_per_second", "eta_seconds",
        "head", "lag_blocks", "last_error",
    }  # fmt: skip
    assert stream["next_block"] == rich_chain.head + 1
    assert stream["ranges"] == {"queued": 0, "running": 0, "succeeded": -(-(rich_chain.head + 1) // 50), "dead": 0}


def test_coverage_names_no_gap_and_a_certificate_per_range(stack: Cli, rich_chain: Chain) -> None:
    found = stack.json("coverage", "first_logs", "--json")
    assert found["gaps"] == []
    assert found["blocks"] == rich_chain.head + 1
    assert {version["certificate"]["level"] for version in found["versions"]} == {"receipts_root"}


def test_syncing_again_returns_at_once_and_doubles_nothing(stack: Cli, rich_chain: Chain) -> None:
    before = rows_of(stack, "first")
    stack.run("sync", "-f", str(stack.job("first", end=rich_chain.head + 1, chunk=50)))
    assert rows_of(stack, "first") == before


def test_up_twice_is_harmless(stack: Cli) -> None:
    stack.run("up")
    pids = worker_pids(stack)
    stack.run("up")
    assert worker_pids(stack) == pids


def test_killed_workers_lose_no_row_and_double_none(stack: Cli, slow_replay: Replay, rich_chain: Chain) -> None:
    stack.environment["TRACE_RPC_POOL_SLOW_URLS"] = slow_replay.url
    path = stack.job("kills", end=rich_chain.head + 1, chunk=8, pool="slow")
    stack.run("up")
    stack.run("apply", "-f", str(path))
    syncing = stack.start("sync", "-f", str(path))
    assert kill_while_running(stack, "kills", "ray::CryoWorker") >= 1
    assert syncing.wait(120) == 0, syncing.stderr.read() if syncing.stderr else ""
    assert_exact(stack, "kills", rich_chain)


def test_a_killed_dispatcher_goes_on_with_what_its_workers_hold(
    stack: Cli, slow_replay: Replay, rich_chain: Chain
) -> None:
    stack.environment["TRACE_RPC_POOL_SLOW_URLS"] = slow_replay.url
    path = stack.job("dispatch", end=rich_chain.head + 1, chunk=8, pool="slow")
    stack.run("up")
    stack.run("apply", "-f", str(path))
    assert kill_while_running(stack, "dispatch", "ray::Dispatcher") >= 1
    stack.until("dispatch", lambda job: job["state"] == "complete")
    assert_exact(stack, "dispatch", rich_chain)


def test_down_and_up_again_go_on_where_they_stopped(stack: Cli, slow_replay: Replay, rich_chain: Chain) -> None:
    stack.environment["TRACE_RPC_POOL_SLOW_URLS"] = slow_replay.url
    path = stack.job("again", end=rich_chain.head + 1, chunk=8, pool="slow")
    stack.run("up")
    stack.run("apply", "-f", str(path))
    stack.until("again", lambda job: job["streams"][0]["ranges"]["succeeded"] > 0)
    stack.run("down")
    stack.run("status", code=3)
    stack.run("up")
    stack.until("again", lambda job: job["state"] == "complete")
    assert_exact(stack, "again", rich_chain)


def kill_while_running(stack: Cli, name: str, title: str, *, times: int = 2) -> int:
    """Kill an actor while ranges of a job run; return how often, fewer than `times` when the job was faster."""

    def runs(job: dict[str, Any]) -> bool:
        return job["state"] == "complete" or any(stream["ranges"]["running"] for stream in job["streams"])

    for kills in range(times):
        if stack.until(name, runs)["state"] == "complete":
            return kills
        actor(stack, title)[0].send_signal(signal.SIGKILL)
        time.sleep(1)
    return times


def assert_exact(stack: Cli, name: str, chain: Chain) -> None:
    wanted = truth.rows(chain.url, 0, chain.head + 1)
    for kind, key in (("blocks", "block_hash"), ("transactions", "transaction_hash")):
        found = stack.query(f"SELECT {key} FROM {name}_{kind} ORDER BY 1 LIMIT 10000")
        assert [row[0] for row in found] == sorted("0x" + row[key].hex() for row in wanted[kind])
    logs = stack.query(f"SELECT block_number, log_index, data FROM {name}_logs ORDER BY 1, 2 LIMIT 10000")
    assert logs == [[row["block_number"], row["log_index"], "0x" + row["data"].hex()] for row in wanted["logs"]]
    assert stack.json("coverage", f"{name}_logs", "--json")["gaps"] == []


def actor(stack: Cli, title: str) -> list[psutil.Process]:
    """Return this stack's actor processes whose title begins so; they are descendants of the Ray that it started."""
    own = json.loads((stack.data_dir / "ray.json").read_text())
    found: list[psutil.Process] = []
    for process in psutil.Process(own["pid"]).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # killed before, and gone or a zombie now
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return found


def worker_pids(stack: Cli) -> list[int]:
    return sorted(process.pid for process in actor(stack, "ray::CryoWorker"))
