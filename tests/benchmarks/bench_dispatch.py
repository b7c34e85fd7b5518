"""No-op ranges a second through Ray: the real Term, Crew, Dispatcher and ledger, and real actors that do nothing.

Run it alone: `python -m tests.benchmarks.bench_dispatch`; `bench_queues` publishes it. Four workers on a Ray cluster of
its own and an embedded Postgres with fsync on. Each range goes from its lease to a worker and back as a publication,
then into the ledger; ranges are planned before. One group a call is what the product does.
"""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

import ray

from actors import runtime, wire
from actors.crew import Crew
from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Orders, Timing
from actors.handles import WorkerHandle
from actors.term import Term
from actors.worker import Held, Worker
from state import jobs, tasks
from state.db import Database
from tests import pg
from tests.integration.state.ledger import CHAIN, POLICY, POOL, job, publication, stream
from trace_ray.contracts import (
    DEFAULT_ORG,
    AttemptKey,
    BlockRange,
    DatasetUuid,
    HeadRequest,
    JobId,
    Lease,
    LeaseGroup,
    LeaseToken,
    Outcome,
    Receipts,
    Task,
    TaskId,
    WorkerId,
)

WORKERS: Final = 4
SAMPLE: Final = Lease(
    Task(
        TaskId(uuid4()), JobId(uuid4()), CHAIN, "blocks", DatasetUuid(uuid4()), "blocks", POOL, BlockRange(0, 10),
        "c" * 64,
    ),
    1,
    LeaseToken(uuid4()),
    0,
    Receipts.ETHEREUM,
)  # fmt: skip
JOB: Final = "devnet"
SLOTS: Final = 16  # calls at a worker at once; a real range waits for its provider, these wait for their turn
ROUNDS: Final = 3
RANGES: Final = {1: 6_000, 32: 16_000}
TARGETS: Final = {1: 2_000.0, 32: 12_000.0}
BUILD: Final = "bench"
CHILD: Final = "--here"
CHILD_S: Final = 120.0
actor: Final[Any] = ray.remote


def noop(group: LeaseGroup) -> list[Outcome]:
    """The operator: publishes what fits, without having done anything for it."""
    return [publication(lease) for lease in group.leases]


@actor(concurrency_groups={"control": 2, "heads": 2})
class NoopWorker:
    """The side of `actors.remote.CryoWorker` that the crew sees, around the same `Worker`."""

    def __init__(self, worker_id: WorkerId, _data_dir: Path) -> None:
        self._worker = Worker(worker_id, noop)

    @ray.method
    def run(self, groups: bytes) -> bytes:
        return wire.pack(self._worker.run(wire.groups(groups, LeaseGroup)))

    @ray.method(concurrency_group="control")
    def held(self, acknowledged: bytes | Sequence[AttemptKey]) -> Held:
        return self._worker.held(wire.keys(acknowledged))

    @ray.method(concurrency_group="control")
    def version(self) -> str:
        return BUILD

    @ray.method(concurrency_group="heads")
    def head(self, request: HeadRequest) -> HeadAnswer:
        return HeadAnswer(request.rpc_pool, request.chain_id, 10**9)


@actor
class BareActor:
    """Ray and nothing else: takes a message and gives back another one of a size that fits."""

    @ray.method
    def call(self, _message: bytes, answer: int) -> bytes:
        return b"\0" * answer


def bare(per_call: int) -> float:
    """Return what Ray alone can carry: ranges a second, if every call were a message of the same sizes and no more."""
    groups = [LeaseGroup(WorkerId("cryo/0.0"), (SAMPLE,), 60.0)] * per_call
    sent = wire.pack(groups)
    back = len(wire.pack(outcome for group in groups for outcome in noop(group)))
    return asyncio.run(_bare(sent, back, RANGES[per_call] // per_call)) * per_call


async def _bare(sent: bytes, back: int, calls: int) -> float:
    options = {"num_cpus": 0, "max_concurrency": SLOTS}
    actors = [BareActor.options(**options).remote() for _ in range(WORKERS)]
    await asyncio.gather(*(one.call.remote(b"", 0) for one in actors))  # they are up
    left = iter(range(calls))

    async def slot(one: Any) -> None:
        for _ in left:
            await one.call.remote(sent, back)

    began = time.perf_counter()
    await asyncio.gather(*(slot(one) for one in actors for _ in range(SLOTS)))
    seconds = time.perf_counter() - began
    for one in actors:
        runtime.kill(one)
    return calls / seconds


@dataclass
class Clock:
    """Counts what the term publishes. `began` with the first leases, `ended` with the last commit."""

    ranges: int
    began: float = 0.0
    ended: float = 0.0
    published: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, orders: Orders) -> None:
        if orders.groups and not self.began:
            self.began = time.perf_counter()
        self.published += len(orders.published)
        if self.published == self.ranges and not self.ended:
            self.ended = time.perf_counter()
            self.done.set()


def rate(url: str, space: str, per_call: int) -> float:
    """Return the ranges a second at so many groups a call."""
    return asyncio.run(_rate(url, space, per_call))


async def _rate(url: str, space: str, per_call: int) -> float:
    ranges = RANGES[per_call]
    database = Database(url, application_name="trace-bench")
    core = Dispatcher(database, holder=f"bench/{space}/1", timing=Timing(lease_s=60, leader_s=60, policy=POLICY))
    plan(database, core, ranges)

    def spawn(worker_id: WorkerId) -> WorkerHandle:
        options = runtime.worker_options(worker_id, space, slots=SLOTS)
        return runtime.create_worker(NoopWorker, options, worker_id, Path())

    crew = Crew(
        spawn, runtime.kill, size=WORKERS, slots=SLOTS, silence_s=60, attempt_s=60, build=BUILD, per_call=per_call
    )
    clock = Clock(ranges)
    term = Term(core, crew, living=dict, record=clock.record)
    running = asyncio.create_task(term.run())
    await asyncio.wait_for(_all_ready(term), 60)  # a process that starts takes more than a thousand ranges do
    with database.transaction() as conn:
        jobs.resume(conn, DEFAULT_ORG, JOB)
    term.nudge()
    await asyncio.wait_for(clock.done.wait(), 120)
    await term.stop(drain_s=5)
    await running
    database.close()
    return ranges / (clock.ended - clock.began)


async def _all_ready(term: Term) -> None:
    while sum(bool(worker["ready"]) for worker in term.status.workers) < WORKERS:
        await asyncio.sleep(0.05)


def plan(database: Database, core: Dispatcher, ranges: int) -> None:
    """Plan every range of a job of one stream before the term begins, and let it pause until the workers are there."""
    with database.transaction() as conn:
        jobs.apply(conn, job(stream("blocks", chunk_size=10, max_inflight=ranges), to_block=10 * ranges))
    assert core.lead()
    core.settle(Inbox(heads=(HeadAnswer(POOL, CHAIN, 10**9),)))
    with database.transaction() as conn:
        tasks.fence(conn, core.epoch, 60.0)
        assert jobs.plan(conn, core.epoch) == ranges
        jobs.pause(conn, DEFAULT_ORG, JOB)
    core.resign()


@dataclass(frozen=True, slots=True)
class Rates:
    """Ranges a second at so many groups a call: ours, and what bare calls of the same sizes would allow."""

    per_call: int
    ours: float
    bare: float


def run(rounds: int) -> list[Rates]:
    """Return the medians by groups a call; bare calls are measured beside ours in each round."""
    found: dict[int, list[tuple[float, float]]] = {per_call: [] for per_call in RANGES}
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as directory:
        Path(directory).chmod(0o755)
        server = pg.server(Path(directory) / "postgres")
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
        try:
            for number in range(rounds):
                for per_call, rates in found.items():
                    ours = rate(pg.fresh_database(server), f"bench-{number}-{per_call}", per_call)
                    rates.append((ours, bare(per_call)))
        finally:
            cast(Any, ray).shutdown()
            server.stop()
    return [Rates(per_call, *map(statistics.median, zip(*rates, strict=True))) for per_call, rates in found.items()]


def measured(rounds: int) -> list[Rates]:
    """Return the medians, found in a process whose Ray has a token of its own."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # read when Ray is imported
    command = [sys.executable, "-m", "tests.benchmarks.bench_dispatch", CHILD, str(rounds)]
    done = subprocess.run(
        command, env=os.environ | token, capture_output=True, text=True, check=False, timeout=rounds * CHILD_S
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return [Rates(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps([asdict(one) for one in run(int(sys.argv[2]))]))
        return
    for one in measured(ROUNDS):
        verdict = "reached" if one.ours >= TARGETS[one.per_call] else "missed"
        print(
            f"{one.per_call} a call: {one.ours:,.0f} ranges/s (target {TARGETS[one.per_call]:,.0f} {verdict}),"
            f" bare calls {one.bare:,.0f}"
        )


if __name__ == "__main__":
    main()
