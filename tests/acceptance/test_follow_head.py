"""A job that follows the head of a living chain, through kills, a restart and a node that stands still."""

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import truth
from tests.acceptance.conftest import Cli
from tests.acceptance.test_sync_on_ray import actor, assert_exact
from tests.conftest import Chain
from trace_ray.lite.devnet import Devnet

pytestmark = pytest.mark.slow

TAIL_LAG = 2
FOLLOW_S = float(os.environ.get("TRACE_TEST_FOLLOW_SECONDS", "18"))  # of mining; minutes by hand
BLOCK_S = 0.4
JOB = """\
kind: chain_sync
name: follow
chain_id: 31337
chain_name: follow
mode:
  kind: follow_head
  from_block: 0
  tail_lag: {tail_lag}
  head_poll_interval_seconds: 0.5
  max_head_age_seconds: 4
streams:
  blocks: {{cryo_dataset_name: blocks, rpc_pool: live, chunk_size: 10, max_inflight: 4}}
  transactions: {{cryo_dataset_name: transactions, rpc_pool: live, chunk_size: 10, max_inflight: 4}}
  logs: {{cryo_dataset_name: logs, rpc_pool: live, chunk_size: 10, max_inflight: 4}}
"""


@pytest.fixture(scope="module")
def net(anvil_binary: Path, workspace: Path) -> Iterator[Devnet]:
    directory = workspace / "live-anvil"
    directory.mkdir()
    with Devnet(anvil_binary, port=None, log=directory / "log", state_dir=directory / "state") as net:
        net.fill(blocks=30, transactions=5)
        yield net


@contextmanager
def mining(net: Devnet) -> Generator[None]:
    """Mine a block now and then while the block of this function runs."""
    over = threading.Event()

    def mine() -> None:
        while not over.wait(BLOCK_S):
            net.fill(blocks=net.head() + 1, transactions=5)

    miner = threading.Thread(target=mine)
    miner.start()
    try:
        yield
    finally:
        over.set()
        miner.join()


def next_blocks(job: dict[str, Any]) -> int:
    return min(stream["next_block"] for stream in job["streams"])


def test_a_followed_head_has_every_block_once_through_kills_and_a_restart(stack: Cli, net: Devnet) -> None:
    stack.environment["TRACE_RPC_POOL_LIVE_URLS"] = net.url
    path = stack.data_dir / "follow.yaml"
    path.write_text(JOB.format(tail_lag=TAIL_LAG))
    stack.run("up")
    stack.run("apply", "-f", str(path))
    with mining(net):
        for turn in range(3):
            reached = next_blocks(stack.until("follow", lambda job: next_blocks(job) > 30))
            if turn == 0:
                actor(stack, "ray::CryoWorker")[0].send_signal(signal.SIGKILL)
            elif turn == 1:
                actor(stack, "ray::Dispatcher")[0].send_signal(signal.SIGKILL)
            else:
                stack.run("down")
                stack.run("up")
            stack.until("follow", lambda job, reached=reached: next_blocks(job) > reached + 5)
            time.sleep(FOLLOW_S / 6)
    caught_up(stack, net)


def test_planning_stops_visibly_while_the_node_stands_still_and_goes_on_by_itself(stack: Cli, net: Devnet) -> None:
    process = psutil.Process(net.node.pid)
    process.suspend()
    try:
        job = stack.until("follow", lambda job: job["state"] == "blocked")
        assert "live" in stack.run("status", "--job", "follow").stdout
        before = next_blocks(job)
        time.sleep(2)
        assert next_blocks(stack.until("follow", lambda _: True)) == before
    finally:
        process.resume()
    with mining(net):
        stack.until("follow", lambda job: job["state"] == "running" and next_blocks(job) > before)
    caught_up(stack, net)


def caught_up(stack: Cli, net: Devnet) -> None:
    """Wait until all but the tail is published; every row is there once, and none of the tail."""
    end = net.head() + 1 - TAIL_LAG

    def is_level(job: dict[str, Any]) -> bool:
        ranges = [stream["ranges"] for stream in job["streams"]]
        return next_blocks(job) == end and not any(one["queued"] or one["running"] for one in ranges)

    job = stack.until("follow", is_level)
    assert {stream["lag_blocks"] for stream in job["streams"]} == {TAIL_LAG}
    assert all(stream["ranges"]["dead"] == 0 for stream in job["streams"])
    assert_exact(stack, "follow", Chain(net.url, end - 1))
    spans = [
        one["range_end"] - one["range_start"] for one in stack.json("coverage", "follow_blocks", "--json")["versions"]
    ]
    assert max(spans) <= 10
    assert min(spans) < 10  # at the head ranges are as small as what is new
    assert len(truth.rows(net.url, 0, end)["blocks"]) == sum(spans)
