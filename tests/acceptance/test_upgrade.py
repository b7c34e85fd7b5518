"""Another build of the code meets a running stack: what runs finishes, and the new code goes on."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import COMMAND_S, Cli
from tests.conftest import REPOSITORY, Replay
from trace_ray import config
from trace_ray.build import build_id

pytestmark = pytest.mark.slow

PACKAGES = ("trace_ray", "actors", "query", "state")


@dataclass
class Older:
    """The same code but for a comment, which makes it another build."""

    cli: Cli
    root: Path

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", *arguments],
            cwd=self.root,
            env=self.cli.process_environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def older(stack: Cli, workspace: Path) -> Older:
    root = workspace / "older"
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "actors" / "ingest.py").open("a") as file:
        file.write("# an older build\n")
    return Older(stack, root)


def test_applying_with_a_new_build_drains_the_old_one_and_runs_nothing_twice(
    stack: Cli, older: Older, slow_replay: Replay
) -> None:
    stack.environment["TRACE_RPC_POOL_STANDARD_URLS"] = slow_replay.url
    older.run("up")
    job = stack.job("upgrade", end=120, chunk=5)
    older.run("apply", "-f", str(job))
    stack.until("upgrade", lambda found: any(stream["ranges"]["running"] for stream in found["streams"]))
    told = stack.run("apply", "-f", str(job)).stderr
    assert "its ranges finish" in told
    stack.until("upgrade", lambda found: found["state"] == "complete")
    with psycopg.connect(config.state_url(config.load_stack(stack.data_dir))) as conn:
        attempts = conn.execute("SELECT DISTINCT attempt, outcome FROM state.attempts").fetchall()
        epochs = conn.execute("SELECT count(DISTINCT epoch) FROM state.attempts").fetchone()
        build = conn.execute("SELECT build FROM state.dispatcher").fetchone()
    assert attempts == [(1, "succeeded")]  # no lease was lost
    assert epochs == (2,)  # both builds had a part in it
    assert build == (build_id(),)


def test_the_same_build_is_left_alone(stack: Cli) -> None:
    assert "its ranges finish" not in stack.run("up").stderr


def test_up_with_another_build_replaces_what_runs(stack: Cli, older: Older) -> None:
    assert "its ranges finish" in older.run("up")
    assert "its ranges finish" in stack.run("up").stderr
