"""How fast a stack is whole again after a kill, and how fast `status` answers with 10,000 ranges in flight.

Run it alone: `python -m tests.benchmarks.bench_recovery [kills]`. Real Ray, Postgres and engine; times are those that
the ledger wrote, by the database's clock, which is this machine's.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from state import jobs, tasks
from state.db import Database
from tests import pg
from tests.acceptance.conftest import Cli
from tests.benchmarks.parts import until
from tests.benchmarks.rich_chain import recording
from tests.chaos.stack_processes import DISPATCHER, WORKER, Actor, Processes
from tests.conftest import REPOSITORY, Replay
from tests.integration.state.ledger import CHAIN, POOL, job, stream
from trace_ray import config
from trace_ray.contracts import DEFAULT_ORG, WorkerId

BLOCKS = 200  # of a job
JOBS = 50  # 10,000 ranges of one block
WORKERS = 2
LATENCY_MS = 20
CALLS = 400
SETTLE_S = 3.0
WAIT_S = 30.0
IN_FLIGHT = 10_000
ON_ITS_WAY_S = 0.25
TARGETS = {"completing": 1.0, "known": 0.1, "whole": 2.0, "status": 0.025}

JOB = """\
kind: chain_sync
name: {name}
chain_id: 31337
chain_name: {name}
mode: {{kind: fixed_target, from_block: 0, to_block: {blocks}}}
streams:
  {name}_blocks: {{cryo_dataset_name: blocks, rpc_pool: standard, chunk_size: 1, max_inflight: {blocks}}}
"""
DONE = b"""
SELECT extract(epoch FROM min(ended_at))::float8 AS at FROM state.attempts
WHERE outcome = 'succeeded' AND ended_at > to_timestamp(%s::float8)
"""
LOST = b"""
SELECT extract(epoch FROM min(ended_at))::float8 AS at FROM state.attempts
WHERE outcome = 'released' AND worker_id = %s::text AND ended_at > to_timestamp(%s::float8)
"""
LEASED = b"""
SELECT extract(epoch FROM min(started_at))::float8 AS at FROM state.attempts
WHERE worker_id = %s::text AND started_at > to_timestamp(%s::float8)
"""
RERUNS = b"""
SELECT count(*) AS at FROM state.attempts a WHERE outcome IN ('released', 'expired')
AND NOT EXISTS (SELECT FROM unnest(%s::float8[]) AS k(at)
                WHERE to_timestamp(k.at) - a.started_at BETWEEN interval '0' AND make_interval(secs => %s::float8))
"""


@dataclass(frozen=True, slots=True)
class Report:
    """Seconds of each sample. `reruns`: attempts that were run again after the Dispatcher's kills."""

    completing: tuple[float, ...]
    reruns: int
    known: tuple[float, ...]
    whole: tuple[float, ...]
    ledger_status: tuple[float, ...]
    dispatcher_status: tuple[float, ...]


@dataclass
class Bench:
    """A stack with more ranges than it can work off in this benchmark."""

    cli: Cli
    database: Database
    processes: Processes
    kills: list[float] = field(default_factory=list[float])

    def kill_dispatcher(self) -> float:
        """Return the seconds from the kill to the next completion."""
        (victim,) = self.processes.await_actors(DISPATCHER, 1)
        at = self._kill(victim)
        return self._instant(DONE, at) - at

    def kill_worker(self) -> tuple[float, float]:
        """Return the seconds from the kill to the end of the worker's leases, and to its successor's first lease."""
        victim = self.processes.await_actors(WORKER, WORKERS)[0]
        index, generation = victim.name.removeprefix("cryo/").split(".")
        successor = f"cryo/{index}.{int(generation) + 1}"
        at = self._kill(victim)
        known = self._instant(LOST, victim.name, at) - at
        return known, self._instant(LEASED, successor, at) - at

    def calls(self) -> tuple[float, ...]:
        """Return the seconds of calls to the Dispatcher's `status` while ranges run."""
        command = [sys.executable, "-m", "tests.benchmarks.status_calls", str(self.cli.data_dir), str(CALLS)]
        environment = self.cli.process_environment()
        told = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, check=True, text=True, timeout=120
        )
        return tuple(json.loads(told.stdout.splitlines()[-1]))

    def reruns(self) -> int:
        """Return how many attempts were taken back; a lease on its way to its worker at the kill had not run."""
        with self.database.transaction() as conn:
            (row,) = conn.execute(RERUNS, (self.kills, ON_ITS_WAY_S)).fetchall()
        return int(row["at"])

    def _kill(self, victim: Actor) -> float:
        time.sleep(SETTLE_S)
        at = time.time()
        assert victim.kill()
        self.kills.append(at)
        return at

    def _instant(self, question: bytes, *parameters: object) -> float:
        """Wait until the ledger knows an instant, and return it."""
        found: list[float] = []

        def known() -> bool:
            with self.database.transaction() as conn:
                (row,) = conn.execute(question, parameters).fetchall()
            found.extend([] if row["at"] is None else [row["at"]])
            return bool(found)

        until(known, what="what follows a kill", timeout_s=WAIT_S)
        return found[0]


def run(*, kills: int) -> Report:
    """Kill the Dispatcher so often, then workers, on a stack of its own; ask for the status before that."""
    with _stack() as bench:
        dispatcher_status = bench.calls()
        completing = tuple(bench.kill_dispatcher() for _ in range(kills))
        time.sleep(SETTLE_S)  # leases of a worker that was wrongly called dead come back by now
        reruns = bench.reruns()
        pairs = [bench.kill_worker() for _ in range(kills)]
    known, whole = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    return Report(completing, reruns, known, whole, ledger_status(), dispatcher_status)


@contextmanager
def _stack() -> Generator[Bench]:
    server = Replay([recording(BLOCKS)], "--latency-ms", str(LATENCY_MS))
    try:
        with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
            directory = Path(name)
            directory.chmod(0o755)  # as root, Postgres runs as a user of its own
            environment = {"TRACE_WORKERS": str(WORKERS), "TRACE_HTTP_PORT": "0", "TRACE_ENGINE": "native"}
            cli = Cli(directory, {**environment, "TRACE_RPC_POOL_STANDARD_URLS": server.url})
            try:
                cli.run("up")
                database = Database(config.state_url(config.load_stack(directory)), application_name="trace-bench")
                _fill(cli, database)
                yield Bench(cli, database, Processes(directory))
                database.close()
            finally:
                cli.run("down")
    finally:
        server.stop()


def _fill(cli: Cli, database: Database) -> None:
    """Apply more work than is needed, and wait until all of it is planned and both workers have worked."""
    for number in range(JOBS):
        path = cli.data_dir / f"many{number}.yaml"
        path.write_text(JOB.format(name=f"many{number}", blocks=BLOCKS))
        with database.transaction() as conn:
            jobs.apply(conn, config.read_job(path))

    def planned() -> bool:
        with database.transaction() as conn:
            (row,) = conn.execute(b"SELECT count(*) AS ranges FROM state.ranges").fetchall()
            (worked,) = conn.execute(b"SELECT count(DISTINCT worker_id) AS workers FROM state.attempts").fetchall()
        return int(row["ranges"]) == JOBS * BLOCKS and int(worked["workers"]) == WORKERS

    until(planned, what="the plan", timeout_s=WAIT_S)


def ledger_status() -> tuple[float, ...]:
    """Return the seconds of `status` on a ledger with 10,000 leased ranges in one stream."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        Path(name).chmod(0o755)
        server = pg.server(Path(name) / "postgres")
        try:
            return _asked(pg.fresh_database(server))
        finally:
            server.stop()


def _asked(url: str) -> tuple[float, ...]:
    database = Database(url, application_name="trace-bench")
    with database.transaction() as conn:
        jobs.apply(conn, job(stream("blocks", chunk_size=1, max_inflight=IN_FLIGHT), to_block=10 * IN_FLIGHT))
    with database.transaction() as conn:
        epoch = tasks.take_over(conn, holder="bench/bench/1", ttl_s=600)
        assert epoch is not None
        jobs.record_head(conn, epoch, POOL, CHAIN, 10 * IN_FLIGHT)
        jobs.plan(conn, epoch)
    with database.transaction() as conn:
        leased = tasks.claim(conn, epoch, [WorkerId("w/0.0")] * IN_FLIGHT, ttl_s=600)
    assert len(leased) == IN_FLIGHT
    with database.transaction() as conn:
        conn.execute(b"ANALYZE")  # the server does it by itself within ten seconds
    seconds: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        with database.transaction() as conn:
            (status,) = jobs.status(conn, DEFAULT_ORG, "devnet")
        seconds.append(time.perf_counter() - began)
        assert status.streams[0].ranges.running == IN_FLIGHT
    database.close()
    return tuple(seconds)


def table(report: Report) -> str:
    """Return the figures as Markdown, each with its target."""
    rows = [
        ("Dispatcher `kill -9` -> next completion", _spread(report.completing), TARGETS["completing"]),
        ("worker `kill -9` -> its leases are free", _spread(report.known), TARGETS["known"]),
        ("worker `kill -9` -> its successor works", _spread(report.whole), TARGETS["whole"]),
        ("`status` of the ledger, 10,000 ranges leased", _quantiles(report.ledger_status), TARGETS["status"]),
        ("status of the Dispatcher, 10,000 ranges planned", _quantiles(report.dispatcher_status), TARGETS["status"]),
    ]
    lines = [f"| {what} | {told} | {target * 1000:g} ms |" for what, told, target in rows]
    lines.append(f"| attempts run again after {len(report.completing)} kills of the Dispatcher | {report.reruns} | 0 |")
    return "\n".join(["| what | measured | target |", "|---|---|---|", *lines])


def _spread(seconds: Sequence[float]) -> str:
    ms = sorted(1000 * one for one in seconds)
    return f"median {statistics.median(ms):.0f} ms ({ms[0]:.0f} to {ms[-1]:.0f})"


def _quantiles(seconds: Sequence[float]) -> str:
    ranked = statistics.quantiles(seconds, n=100)
    return f"p50 {1000 * ranked[49]:.1f} ms, p99 {1000 * ranked[98]:.1f} ms"


if __name__ == "__main__":
    print(table(run(kills=int(sys.argv[1]) if sys.argv[1:] else 5)))
