"""A real stack to be hurt: `trace-ray up` on real Ray and Postgres, a node and an object store that fail as told.

Commands are run as users run them, each a process of its own.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state import jobs
from state.db import Database
from tests.acceptance.conftest import Cli
from tests.benchmarks.rich_chain import recording
from tests.chaos.stack_clock import Clocks
from tests.chaos.stack_disk import Disk
from tests.chaos.stack_log import RESTART, Log
from tests.chaos.stack_processes import Processes
from tests.chaos.stack_proxy import FaultyS3
from tests.chaos.stack_s3 import S3, s3_server
from tests.conftest import Replay
from trace_ray import config
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.errors import DatabaseUnavailable, NotFound
from trace_ray.reports import JobState, JobStatus

CORE = ("blocks", "transactions", "logs")
ALL = (*CORE, "erc20_transfers", "erc721_transfers")  # Cryo alone makes the last two
BLOCKS = 200  # of a job
WORKERS = 3
LATENCY_MS = 5
STAGING_BYTES = 256 * 1024**2
OBJECTS_BYTES = 2 * 1024**3
COMMAND_S = 240.0
DEAD = b"""
SELECT t.error ->> 'kind' AS kind FROM state.tasks t JOIN state.jobs j USING (job_id)
WHERE j.name = %s::text AND t.state = 'dead'
"""

JOB = """\
kind: chain_sync
name: {name}
chain_id: 31337
chain_name: {name}
mode: {{kind: fixed_target, from_block: 0, to_block: {blocks}}}
streams:
"""
STREAM = """\
  {name}_{kind}:
    cryo_dataset_name: {kind}
    rpc_pool: standard
    chunk_size: {chunk}
    max_inflight: 16
    publish_as: {name}_{kind}
"""


@dataclass(frozen=True)
class Shape:
    """What is run: which engines by turns, where objects lie, which datasets, and how long a lease is."""

    engines: tuple[str, ...]
    store: str
    kinds: tuple[str, ...]
    chunk: int = 2
    lease_s: float = 6.0
    range_timeout_s: float = 8.0

    @classmethod
    def of_seed(cls, seed: int, *, engine: str | None = None, store: str | None = None) -> "Shape":
        """Choose by the seed what is not named: odd seeds write to a disk; every third one runs Cryo alone."""
        engines = (engine,) if engine else ("cryo",) if seed % 3 == 0 else ("cryo", "native")
        kinds = ALL if engines == ("cryo",) else CORE
        return cls(engines, store or ("file" if seed % 2 else "s3"), kinds)


@dataclass
class World:
    """The running stack with everything that can fail around it."""

    shape: Shape
    log: Log
    cli: Cli
    replay: Replay
    s3: FaultyS3 | None
    staging: Disk
    objects: Disk | None
    clocks: Clocks
    processes: Processes
    state_url: str = ""
    jobs: list[str] = field(default_factory=list[str])
    dead: Counter[str] = field(default_factory=Counter[str])
    incomplete: list[str] = field(default_factory=list[str])
    _alone: threading.Lock = field(default_factory=threading.Lock)
    _turn: int = 0

    # --- commands -------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end; its exit code and what it said."""
        one = Cli(self.cli.data_dir, environment) if environment else self.cli
        process = one.start(*arguments)
        try:
            out, err = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            err += f"\nkilled: `trace-ray {' '.join(arguments)}` took more than {COMMAND_S} s"
        return process.returncode, out + err

    def up(self) -> None:
        """`trace-ray up`, each time with the next engine; workers that start from now on use it."""
        with self._alone:
            self.cli.environment["TRACE_ENGINE"] = self.shape.engines[self._turn % len(self.shape.engines)]
            self._turn += 1
            code, said = self.command("up")
        if code not in (0, 3):  # 3: not reachable at this moment, for another fault is at work
            raise RuntimeError(f"`trace-ray up` ended with {code}: {said}")
        self.log.note(RESTART, said.strip().splitlines()[-1][:160] if code else "done")

    def apply_next(self) -> bool:
        """Apply one more job over the whole chain; False when the stack cannot take it now."""
        name = f"chaos{len(self.jobs) + 1}"
        code, _ = self.command("apply", "-f", str(self._job_file(name)))
        if code == 0:
            self.jobs.append(name)
        return code == 0

    def _job_file(self, name: str) -> Path:
        path = self.cli.data_dir / f"{name}.yaml"
        streams = "".join(STREAM.format(name=name, kind=kind, chunk=self.shape.chunk) for kind in self.shape.kinds)
        path.write_text(JOB.format(name=name, blocks=BLOCKS) + streams)
        return path

    def finish(self, name: str) -> None:
        """`trace-ray sync` until it says complete; dead ranges are put back as its last words advise, and counted."""
        said = ""
        for _ in range(6):
            code, said = self.command("sync", "-f", str(self._job_file(name)))
            if code == 0:
                return
            if code == 4:  # dead ranges
                self.dead.update(self._dead(name))
                self.command("retry", name)
        self.incomplete.append(f"{name}: {said.strip().splitlines()[-1] if said.strip() else 'no word'}")

    # --- the ledger -----------------------------------------------------------------------------------------------

    def database(self, who: str) -> Database:
        return Database(self.state_url, application_name=f"chaos-{who}")

    def status(self, name: str) -> JobStatus:
        database = self.database("status")
        try:
            with database.transaction() as conn:
                return jobs.status(conn, DEFAULT_ORG, name)[0]
        finally:
            database.close()

    def _dead(self, name: str) -> list[str]:
        """Return why each dead range of a job is dead."""
        database = self.database("dead")
        try:
            with database.transaction() as conn:
                return [str(row["kind"]) for row in conn.execute(DEAD, (name,))]
        finally:
            database.close()

    def has_room(self) -> bool:
        """Say whether the newest job is planned to its end and few of its ranges are open."""
        try:
            streams = self.status(self.jobs[-1]).streams
        except (DatabaseUnavailable, NotFound):
            return False
        return all(one.next_block >= BLOCKS and one.ranges.queued + one.ranges.running < 12 for one in streams)

    def is_complete(self, name: str) -> bool:
        return self.status(name).state is JobState.COMPLETE

    def settings(self) -> config.Settings:
        return config.load_stack(self.cli.data_dir)


@contextlib.contextmanager
def world(shape: Shape, log: Log, *, seed: int) -> Generator[World]:
    """Start everything and stop it in the end."""
    directory = Path(tempfile.mkdtemp(prefix="trace-ray-chaos-"))
    directory.chmod(0o755)  # as root, Postgres runs as a user of its own
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        one = _make(shape, log, directory, seed, stack)
        stack.callback(one.command, "down")
        one.up()
        one.state_url = config.state_url(one.settings())
        while not one.apply_next():
            time.sleep(0.5)
        yield one


def _make(shape: Shape, log: Log, directory: Path, seed: int, stack: contextlib.ExitStack) -> World:
    data_dir = directory / "data"
    data_dir.mkdir()
    replay = Replay([recording(BLOCKS)], "--latency-ms", str(LATENCY_MS), "--seed", str(seed))
    stack.callback(replay.stop)
    clocks = Clocks(directory)
    stack.callback(clocks.close)
    processes = Processes(data_dir)
    staging = Disk(data_dir / "staging", STAGING_BYTES, processes.worker_pids)
    stack.callback(staging.close)
    s3, objects = None, None
    if shape.store == "s3":
        server = stack.enter_context(s3_server(directory / "s3"))
        s3 = FaultyS3(server.endpoint, seed)
        stack.callback(s3.stop)
        place = _bucket(server, s3)
    else:
        objects = Disk(data_dir / "objects", OBJECTS_BYTES, processes.worker_pids)
        stack.callback(objects.close)
        place = {"TRACE_OBJECT_STORE": (data_dir / "objects").as_uri()}
    environment: dict[str, Any] = {
        "TRACE_WORKERS": str(WORKERS),
        "TRACE_HTTP_PORT": "0",
        "TRACE_LEASE_SECONDS": str(shape.lease_s),
        "TRACE_RANGE_TIMEOUT_SECONDS": str(shape.range_timeout_s),
        "TRACE_RPC_POOL_STANDARD_URLS": replay.url,
        **place,
        **clocks.environment,
    }
    return World(shape, log, Cli(data_dir, environment), replay, s3, staging, objects, clocks, processes)


def _bucket(server: S3, proxy: FaultyS3) -> dict[str, str]:
    return {
        "TRACE_OBJECT_STORE": f"s3://{server.bucket}/lake",
        "TRACE_S3_ENDPOINT": proxy.endpoint,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
