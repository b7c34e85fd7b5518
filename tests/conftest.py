"""Real parts for the tests: a node, a replaying RPC server with faults, an S3 server, Postgres.

Each is started once per run (and per xdist worker) when the first test asks for it; what a test changes is fresh.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import s3fs
from hypothesis import HealthCheck, settings

from tests import pg
from trace_ray.lite import anvil
from trace_ray.lite.devnet import Devnet
from trace_ray.lite.postgres import LocalPostgres

TOOLS = Path(__file__).parent / "tools"
REPOSITORY = Path(__file__).parents[1]
START_S = 30.0

# a machine that others use may pause for longer than any limit on a single example
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A directory of this run that a server running as another user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="trace-ray-tests-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def anvil_binary() -> Path:
    """The node. Installed once into the cache that CI and developers keep between runs."""
    cache = Path(os.environ.get("TRACE_TEST_CACHE", REPOSITORY / ".venv" / "cache"))
    return anvil.find(cache) or anvil.install(cache, lambda _: None)


@dataclass(frozen=True)
class Chain:
    """A node with a deterministic chain of blocks 0..head."""

    url: str
    head: int
    chain_id: int = 31337


@pytest.fixture(scope="session")
def anvil_chain(anvil_binary: Path, workspace: Path) -> Iterator[Chain]:
    """64 blocks: enough for one test, quick to make."""
    with _filled(anvil_binary, workspace / "anvil", blocks=63) as chain:
        yield chain


@pytest.fixture(scope="session")
def rich_chain(anvil_binary: Path, workspace: Path) -> Iterator[Chain]:
    """More than 300 blocks of 10 transactions."""
    with _filled(anvil_binary, workspace / "rich-anvil", blocks=320) as chain:
        yield chain


@contextlib.contextmanager
def _filled(binary: Path, directory: Path, *, blocks: int) -> Generator[Chain]:
    directory.mkdir()
    with Devnet(binary, port=None, log=directory / "log", state_dir=directory / "state") as net:
        yield Chain(net.url, net.fill(blocks=blocks, transactions=10))


@pytest.fixture(scope="session")
def recording(anvil_chain: Chain, workspace: Path) -> Path:
    """Every block and receipt of `anvil_chain`, for `replay`."""
    return record(anvil_chain, workspace / "chain.json.gz")


def record(chain: Chain, path: Path) -> Path:
    command = [sys.executable, str(TOOLS / "replay_rpc.py"), "record", "--rpc", chain.url]
    subprocess.run([*command, "--end", str(chain.head + 1), "--out", str(path)], check=True, timeout=120)
    return path


class Replay:
    """A node that answers from a recording, and fails as told. Secrets in its URL test that none leaks."""

    def __init__(self, recordings: list[Path], *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, str(TOOLS / "replay_rpc.py"), "serve", *map(str, recordings)]
        self.process = subprocess.Popen([*command, "--port", str(self.port), *arguments], stdout=subprocess.PIPE)
        wait_until(self._answers, what="the replay server")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("the replay server ended at its start")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/stats").status_code == 200
        return False

    def faults(self, **faults: object) -> None:
        """Fail from now on as told; without arguments all is well again."""
        answer = httpx.post(f"{self.url}/faults", content=json.dumps(faults))
        assert answer.status_code == 200, answer.text

    def stats(self) -> dict[str, int]:
        """How often each method was called."""
        return dict(httpx.get(f"{self.url}/stats").json()["counts"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def replay(recording: Path) -> Iterator[Replay]:
    server = Replay([recording])
    yield server
    server.stop()


@pytest.fixture(scope="session")
def slow_replay(rich_chain: Chain, workspace: Path) -> Iterator[Replay]:
    """`rich_chain` from a node that takes its time, so that a kill hits work in progress."""
    server = Replay([record(rich_chain, workspace / "rich.json.gz")], "--latency-ms", "200")
    yield server
    server.stop()


@pytest.fixture
def serve_recording() -> Iterator[Callable[..., Replay]]:
    """Start replay servers from recordings of the test's choice."""
    servers: list[Replay] = []

    def serve(recordings: list[Path], *arguments: str) -> Replay:
        servers.append(Replay(recordings, *arguments))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def mainnet_recording() -> Path:
    """Eleven linked mainnet blocks over the start of Prague. Not part of the repository."""
    folder = Path(os.environ.get("TRACE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    found = sorted(folder.glob("mainnet_22431080_*.json.gz"))
    if not found:
        pytest.skip("no mainnet blocks here: set TRACE_TEST_DATA to a folder that holds mainnet_22431080_*.json.gz")
    return found[0]


@dataclass(frozen=True)
class S3Server:
    """An S3-compatible server with one empty bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


@pytest.fixture(scope="session")
def s3_process(workspace: Path) -> Iterator[tuple[str, str, str]]:
    key, secret, root = "trace" + secrets.token_hex(4), secrets.token_hex(16), workspace / "s3"
    root.mkdir()
    endpoint = f"http://127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", str(root), "--auth-key", f"{key},{secret}"]
    log = (workspace / "s3.log").open("wb")
    process = subprocess.Popen([*command, "--addr", endpoint.removeprefix("http://")], stdout=log, stderr=log)

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(endpoint).status_code < 500
        return False

    wait_until(answers, what="the S3 server")
    yield endpoint, key, secret
    process.terminate()
    process.wait(10)


@pytest.fixture
def s3_server(s3_process: tuple[str, str, str]) -> S3Server:
    return new_bucket(*s3_process)


def new_bucket(endpoint: str, key: str, secret: str) -> S3Server:
    bucket = "bucket-" + secrets.token_hex(4)
    s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=endpoint, skip_instance_cache=True).mkdir(bucket)
    return S3Server(endpoint, key, secret, bucket)


@pytest.fixture(scope="session")
def postgres(workspace: Path) -> Iterator[LocalPostgres]:
    server = pg.server(workspace / "postgres", durable=False)
    yield server
    pg.end(server, workspace / "postgres")


@pytest.fixture
def state_url(postgres: LocalPostgres) -> str:
    """A fresh migrated database of its own."""
    return pg.fresh_database(postgres)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, what: str, timeout_s: float = START_S) -> None:
    """Poll a condition; a timeout names what was waited for."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} was not ready within {timeout_s} s")
        time.sleep(0.02)
