"""What a stranger runs first."""

from pathlib import Path

import pytest

from tests.acceptance.conftest import Cli
from tests.conftest import REPOSITORY
from trace_ray import config, demo
from trace_ray.lite.devnet import CHAIN_ID

pytestmark = pytest.mark.slow


def test_the_demo_syncs_answers_says_what_next_and_leaves_all_running(stack: Cli, anvil_binary: Path) -> None:
    stack.environment["PATH"] = f"{anvil_binary.parent}:/usr/local/bin:/usr/bin:/bin"
    done = stack.run("demo", "--blocks", "120", "--txs", "5")
    assert "devnet is complete" in done.stderr
    assert "It is yours to explore" in done.stderr
    assert "No rows" not in done.stdout
    assert stack.query("SELECT count(*) FROM devnet_blocks") == [[121]]
    assert done.stdout.count("\n") > len(demo.QUESTIONS)
    stopped = stack.run("demo", "--blocks", "120", "--txs", "5", "--exit")
    assert "The stack is down" in stopped.stderr
    assert "devnet stopped" in stopped.stderr
    stack.run("status", code=3)


def test_the_demos_job_is_the_example(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(demo.JOB.format(chain_id=CHAIN_ID, to_block=demo.BLOCKS + 1, last=demo.BLOCKS))
    example = config.read_job(REPOSITORY / "docs" / "examples" / "chain_sync.devnet.yaml")
    assert config.read_job(path) == example
