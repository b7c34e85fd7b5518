"""The same job file by `ray start --head` and `ray job submit`, as on a cluster."""

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import Cli
from tests.conftest import REPOSITORY, Chain, Replay, free_port, wait_until

pytestmark = pytest.mark.slow

HEAD_S = 60.0


@pytest.fixture(scope="module")
def cluster(stack: Cli, rich_chain: Chain, slow_replay: Replay) -> Iterator[str]:
    """A head that somebody started by hand; yields the address of its dashboard."""
    stack.environment |= {
        "TRACE_RPC_POOL_STANDARD_URLS": rich_chain.url,
        "TRACE_RPC_POOL_SLOW_URLS": slow_replay.url,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    }
    token = stack.data_dir / "head.token"
    token.write_text(secrets.token_hex(32))
    # said aloud: without it Ray decides by whether this user's home happens to hold a token
    stack.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    port, dashboard = free_port(), free_port()
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}",
        f"--ray-client-server-port={free_port()}",
    ]  # fmt: skip
    environment = stack.process_environment()
    environment.pop("RAY_ADDRESS")
    log = (stack.data_dir / "head.log").open("wb")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{dashboard}"

    def answers() -> bool:
        if head.poll() is not None:
            raise RuntimeError(f"the Ray head ended at its start: {(stack.data_dir / 'head.log').read_text()[-2000:]}")
        try:
            asked = httpx.get(f"{url}/api/version", headers={"Authorization": f"Bearer {token.read_text()}"})
            return asked.status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="the Ray head", timeout_s=HEAD_S)
        stack.environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        yield url
        stack.run("down")
    finally:
        stack.environment["RAY_ADDRESS"] = "local"
        end(head)


def end(head: "subprocess.Popen[bytes]") -> None:
    """End a head and all that it started, also when it never answered."""
    if head.poll() is not None:
        return
    family = psutil.Process(head.pid).children(recursive=True)
    head.terminate()
    head.wait(30)
    for process in family:
        if process.is_running():
            process.kill()


def ray_job(stack: Cli, url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments],
        env={**stack.process_environment(), "RAY_API_SERVER_ADDRESS": url},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def submit(stack: Cli, url: str, path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    entrypoint = ("python", "-m", "trace_ray", "sync", "-f", str(path))
    return ray_job(stack, url, "submit", "--working-dir", ".", *options, "--", *entrypoint)


def test_a_submitted_sync_completes_and_a_second_one_attaches(stack: Cli, cluster: str) -> None:
    path = stack.job("submitted", end=60)
    for _ in range(2):
        done = submit(stack, cluster, path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "submitted is complete" in done.stdout
    assert stack.query("SELECT count(*), count(DISTINCT block_number) FROM submitted_blocks") == [[60, 60]]


def test_stopping_the_job_leaves_the_dispatcher_working(stack: Cli, cluster: str, rich_chain: Chain) -> None:
    path = stack.job("stopped", end=rich_chain.head + 1, chunk=8, pool="slow")
    done = submit(stack, cluster, path, "--no-wait", "--submission-id", "stop-me")
    assert done.returncode == 0, done.stdout + done.stderr
    give_up = time.monotonic() + 60
    while "stopped" not in stack.run("status").stdout and time.monotonic() < give_up:
        time.sleep(0.5)
    ray_job(stack, cluster, "stop", "stop-me")
    (job,) = stack.json("status", "--job", "stopped", "--json")["jobs"]
    assert job["state"] == "running"
    stack.until("stopped", lambda job: job["state"] == "complete")
    assert stack.query("SELECT count(*) FROM stopped_blocks") == [[rich_chain.head + 1]]
