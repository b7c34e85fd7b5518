"""A whole sync on Ray against one bare call of Cryo: the same blocks, datasets and RPC server, by turns.

trace_ray does more than Cryo here: it proves every range, rewrites it, and keeps a ledger. Its time runs from the job's
row in the ledger to the end of the last range's task there, both by the database's clock: `apply` up to its commit is
inside, planning and the first question for the head too. Cryo's process is started and imported before its clock runs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from state import datasets, jobs
from state.db import Database
from tests.acceptance.conftest import Cli
from tests.benchmarks.parts import Cpu, Parts, until, watched
from tests.benchmarks.rich_chain import recording
from tests.benchmarks.stages import KINDS, Stages
from tests.conftest import Replay
from trace_ray import config
from trace_ray.contracts import DEFAULT_ORG, BlockRange
from trace_ray.reports import JobState

WORKERS = 2
TARGETS = {0: 0.85, 20: 1.3, 100: 2.5}  # latency in ms -> how many times as fast as Cryo
MEMORY_TARGET = 500 * 10**6  # bytes of a worker with its children
RANGES = 10  # of a stream: 200 blocks each, as in docs/examples/chain_sync.devnet.yaml
ROUND_S = 120.0

JOB = """\
kind: chain_sync
name: {name}
chain_id: 31337
chain_name: {name}
mode: {{kind: fixed_target, from_block: 0, to_block: {blocks}}}
streams:
"""
STREAM = """\
  {name}_{kind}: {{cryo_dataset_name: {kind}, rpc_pool: standard, chunk_size: {chunk}, max_inflight: 8}}
"""
TIMES = b"""
SELECT extract(epoch FROM max(t.finished_at) - j.created_at)::float8 AS seconds,
       extract(epoch FROM min(a.started_at) - j.created_at)::float8 AS first_lease_s,
       extract(epoch FROM sum(a.ended_at - a.started_at))::float8 / %s AS leased_s,
       max(a.attempt) AS attempts
FROM state.jobs j JOIN state.tasks t USING (job_id) JOIN state.attempts a USING (task_id)
WHERE j.name = %s
GROUP BY j.created_at
"""


@dataclass(frozen=True, slots=True)
class CryoCall:
    """One bare call. `server_cpu_s` is what the RPC server used for it, `idle_cpu_s` the stack that stood beside it."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    server_cpu_s: float
    idle_cpu_s: float


@dataclass(frozen=True, slots=True)
class Sync:
    """One sync. `leased_share` of the workers' slots had a range; `cpu` is in seconds, by part of the stack."""

    seconds: float
    first_lease_s: float
    leased_share: float
    cpu: Cpu


@dataclass(frozen=True, slots=True)
class Latency:
    """The rounds at one latency."""

    latency_ms: int
    calls: tuple[CryoCall, ...]
    syncs: tuple[Sync, ...]

    @property
    def cryo_s(self) -> float:
        return statistics.median(call.seconds for call in self.calls)

    @property
    def trace_s(self) -> float:
        return statistics.median(sync.seconds for sync in self.syncs)

    @property
    def ratio(self) -> float:
        """How many times as fast as Cryo."""
        return self.cryo_s / self.trace_s


@dataclass(frozen=True, slots=True)
class Report:
    """`worker_peaks`: bytes of each worker with its children; `rows` of each dataset; `stages` in seconds."""

    blocks: int
    rounds: int
    rows: dict[str, int]
    latencies: tuple[Latency, ...]
    worker_peaks: tuple[int, ...]
    stages: dict[str, float]


@dataclass
class Bench:
    """A running stack and the RPC server it reads from."""

    cli: Cli
    server: Replay
    database: Database
    parts: Parts
    blocks: int
    rows: dict[str, int] = field(default_factory=dict[str, int])

    # --- the two sides --------------------------------------------------------------------------------------------

    def sync(self, name: str, *, blocks: int, chunk: int) -> Sync:
        """Apply a job of datasets of its own and wait for its end."""
        path = self.cli.data_dir / f"{name}.yaml"
        streams = "".join(STREAM.format(name=name, kind=kind, chunk=chunk) for kind in KINDS)
        path.write_text(JOB.format(name=name, blocks=blocks) + streams)
        job = config.read_job(path)
        before = self.parts.cpu()
        with self.database.transaction() as conn:
            jobs.apply(conn, job)
        until(lambda: self._is_complete(name), what=f"the end of {name}", timeout_s=ROUND_S)
        after = self.parts.cpu()
        with self.database.transaction() as conn:
            (times,) = conn.execute(TIMES, (len(KINDS), name)).fetchall()
        if times["attempts"] != 1:
            raise RuntimeError("a range was tried more than once: the machine is too busy for a benchmark")
        share = times["leased_s"] / (times["seconds"] * WORKERS * config.WORKER_SLOTS)
        return Sync(times["seconds"], times["first_lease_s"], share, _spent(before, after))

    def call_cryo(self, *, blocks: int) -> CryoCall:
        """Call Cryo once and check that it wrote every row."""
        with tempfile.TemporaryDirectory(dir=self.cli.data_dir, prefix="cryo-") as output:
            child = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("cryo_call.py")), self.server.url, output, str(blocks)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                text=True,
            )
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            before = self.parts.cpu()
            told, _ = child.communicate("go\n", timeout=ROUND_S)
            spent = _spent(before, self.parts.cpu())
            rows = {kind: _rows(Path(output), kind) for kind in KINDS}
        if self.rows and rows != self.rows:
            raise RuntimeError(f"Cryo wrote {rows}, trace_ray published {self.rows}")
        answer = json.loads(told)
        server = spent.pop("RPC server")
        return CryoCall(answer["seconds"], answer["cpu_s"], answer["peak_bytes"], server, sum(spent.values()))

    # --- rounds ---------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Sync small jobs until every worker has worked; all has been imported then."""
        began = time.monotonic()
        number = 0
        while self._busy_workers() < WORKERS:
            if time.monotonic() - began > ROUND_S:
                raise TimeoutError("not every worker has worked")
            self.sync(f"warm{number}", blocks=80, chunk=10)
            number += 1

    def latency(self, latency_ms: int, rounds: int) -> Latency:
        """Measure both sides by turns, each of them first in every second round."""
        self.server.faults(latency_ms=latency_ms)
        calls: list[CryoCall] = []
        syncs: list[Sync] = []
        for number in range(rounds):
            name = f"at{latency_ms}_{number}"
            if number % 2 == 0:
                calls.append(self.call_cryo(blocks=self.blocks))
            syncs.append(self._checked_sync(name))
            if number % 2 == 1:
                calls.append(self.call_cryo(blocks=self.blocks))
            print(f"{latency_ms} ms: cryo {calls[-1].seconds:.2f} s, trace_ray {syncs[-1].seconds:.2f} s", flush=True)
        return Latency(latency_ms, tuple(calls), tuple(syncs))

    def peaks(self) -> tuple[int, ...]:
        """Sync once more, at full speed, and return the workers' peaks of memory."""
        self.server.faults()
        with watched(self.parts.workers()) as peaks:
            self._checked_sync("memory")
        return tuple(peaks.of_worker.values())

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage over all blocks, one range after another beside the idle stack."""
        self.server.faults()
        stages = Stages(self.server.url, self.cli.data_dir)
        chunk = self.blocks // RANGES
        for start in range(0, self.blocks, chunk):
            stages.run(BlockRange(start, start + chunk))
        return dict(stages.seconds)

    def _checked_sync(self, name: str) -> Sync:
        done = self.sync(name, blocks=self.blocks, chunk=self.blocks // RANGES)
        with self.database.transaction() as conn:
            found = {kind: datasets.coverage(conn, DEFAULT_ORG, f"{name}_{name}_{kind}") for kind in KINDS}
        rows = {kind: coverage.rows for kind, coverage in found.items()}
        if any(coverage.gaps or coverage.blocks != self.blocks for coverage in found.values()):
            raise RuntimeError(f"{name} does not cover [0, {self.blocks})")
        if self.rows and rows != self.rows:
            raise RuntimeError(f"{name} published {rows}, the rounds before {self.rows}")
        self.rows = rows
        return done

    def _is_complete(self, name: str) -> bool:
        with self.database.transaction() as conn:
            (status,) = jobs.status(conn, DEFAULT_ORG, name)
        if any(stream.ranges.dead for stream in status.streams):
            raise RuntimeError(f"{name} has dead ranges: {[stream.last_error for stream in status.streams]}")
        return status.state is JobState.COMPLETE

    def _busy_workers(self) -> int:
        with self.database.transaction() as conn:
            (row,) = conn.execute(b"SELECT count(DISTINCT worker_id) AS busy FROM state.attempts").fetchall()
        return int(row["busy"])


def run(*, blocks: int, rounds: int, latencies: tuple[int, ...]) -> Report:
    """Measure everything on a stack of its own, which is gone afterwards."""
    with _stack(recording(blocks)) as bench:
        bench.blocks = blocks
        bench.warm_up()
        measured = tuple(bench.latency(latency_ms, rounds) for latency_ms in latencies)
        return Report(blocks, rounds, bench.rows, measured, bench.peaks(), bench.stages())


@contextmanager
def _stack(chain: Path) -> Generator[Bench]:
    server = Replay([chain])
    try:
        with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
            directory = Path(name)
            directory.chmod(0o755)  # as root, Postgres runs as a user of its own
            cli = Cli(
                directory,
                {"TRACE_WORKERS": str(WORKERS), "TRACE_HTTP_PORT": "0", "TRACE_RPC_POOL_STANDARD_URLS": server.url},
            )
            try:
                cli.run("up")
                database = Database(config.state_url(config.load_stack(directory)), application_name="trace-bench")
                yield Bench(cli, server, database, Parts(directory, _postmaster(database), server.process.pid), 0)
                database.close()
            finally:
                cli.run("down")
    finally:
        server.stop()


def _postmaster(database: Database) -> int:
    with database.transaction() as conn:
        (row,) = conn.execute(b"SELECT pg_backend_pid() AS pid").fetchall()
    return psutil.Process(row["pid"]).ppid()


def _rows(directory: Path, kind: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in directory.glob(f"*__{kind}__*.parquet"))


def _spent(before: Cpu, after: Cpu) -> dict[str, float]:
    return {name: after[name] - before.get(name, 0.0) for name in after}
