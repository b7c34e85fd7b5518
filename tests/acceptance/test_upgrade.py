"""Another build of the code meets a running stack: what runs finishes, and the new code goes on."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import Cli, copied_code
from tests.conftest import Replay
from trace_ray import config
from trace_ray.build import build_id

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def older(stack: Cli, workspace: Path) -> Cli:
    """The same code but for a comment, which makes it another build."""
    code = copied_code(workspace / "older")
    with (code / "actors" / "ingest.py").open("a") as file:
        file.write("# an older build\n")
    return replace(stack, code=code)


def test_applying_with_a_new_build_drains_the_old_one_and_runs_nothing_twice(
    stack: Cli, older: Cli, slow_replay: Replay
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


def test_up_with_another_build_replaces_what_runs(stack: Cli, older: Cli) -> None:
    assert "its ranges finish" in older.run("up").stderr
    assert "its ranges finish" in stack.run("up").stderr
