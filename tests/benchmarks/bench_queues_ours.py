"""trace_ray's side of the comparison of queues, run by `bench_queues` as a child process. Prints one JSON document.

A round trip is the product's own tick: `Dispatcher.tick` commits what came in (task, attempt, range, dataset
version, files, snapshot, outbox, all fenced), drains the outbox into its effect, and leases the next tasks. Tasks are
planned before.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest.mock import patch

from actors import dispatcher
from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from state import jobs, tasks
from state.db import Connection, Database
from state.outbox import Event
from tests.integration.state.ledger import CHAIN, POLICY, POOL, job, publication, stream
from trace_ray import manifest
from trace_ray.contracts import (
    BlockRange,
    DatasetUuid,
    Epoch,
    FixedTarget,
    Job,
    Lease,
    LeaseToken,
    Outcome,
    Publication,
    Receipts,
    Task,
    WorkerId,
    dataset_uuid,
    task_id,
)

CHUNK = 10  # blocks of a range
ORPHANS = 1000
PLANNED = 10_000


class Effect:
    """What follows from an event in this benchmark: its key is kept, once."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, _conn: Connection, events: Sequence[Event]) -> None:
        self.seen.update(event.idempotency_key for event in events)


@dataclass
class Ledger:
    """A Dispatcher over one stream that has so many ranges, all planned."""

    database: Database
    core: Dispatcher
    job: Job

    @classmethod
    def planned(cls, url: str, ranges: int) -> tuple["Ledger", float]:
        """Return it, and the seconds that planning took."""
        database = Database(url, application_name="trace-bench")
        wanted = job(stream("blocks", chunk_size=CHUNK, max_inflight=ranges), to_block=CHUNK * ranges)
        with database.transaction() as conn:
            jobs.apply(conn, wanted)
        core = Dispatcher(database, holder="bench/bench/1", timing=Timing(lease_s=120, leader_s=60, policy=POLICY))
        assert core.lead()
        core.settle(Inbox(heads=(HeadAnswer(POOL, CHAIN, 10**9),)))
        began = time.perf_counter()
        with database.transaction() as conn:
            tasks.fence(conn, core.epoch, 60.0)
            planned = jobs.plan(conn, core.epoch)
        seconds = time.perf_counter() - began
        assert planned == ranges
        with database.transaction() as conn:
            conn.execute(b"ANALYZE")
        return cls(database, core, wanted), seconds


def rate(url: str, ranges: int, batch: int) -> Mapping[str, object]:
    """Round trips a second at so many tasks a tick, up to the last event's effect, and the seconds of each tick."""
    ledger, _ = Ledger.planned(url, ranges)
    effect = Effect()
    work = prepared(ledger.job, ranges)
    gc.freeze()  # what was prepared is not part of the Dispatcher's memory
    slots = tuple(WorkerId(f"w/{slot}.0") for slot in range(batch))
    outcomes: tuple[Outcome, ...] = ()
    ticks: list[float] = []
    published = 0
    with patch.dict(dispatcher.HANDLERS, {"dataset.published": effect}):
        began = time.perf_counter()
        while published < ranges or len(effect.seen) < ranges:
            started = time.perf_counter()
            orders = ledger.core.tick(Inbox(outcomes=outcomes, slots=slots), now=time.monotonic())
            ticks.append(time.perf_counter() - started)
            assert not orders.refused
            published += len(orders.published)
            outcomes = tuple(work(lease) for group in orders.groups for lease in group.leases)
        seconds = time.perf_counter() - began
    return {"per_second": ranges / seconds, "ticks": ticks}


def prepared(wanted: Job, ranges: int) -> Callable[[Lease], Publication]:
    """Return the no-op job: a plain call that hands over what was made before the clock ran, under its own attempt."""
    (only,) = wanted.streams
    assert isinstance(wanted.mode, FixedTarget)
    dataset = dataset_uuid(wanted.org_id, CHAIN, only.dataset_key)
    offers: dict[int, tuple[Any, ...]] = {}
    for start in range(0, CHUNK * ranges, CHUNK):
        blocks = BlockRange(start, start + CHUNK)
        offer = publication(_lease(wanted, dataset, blocks))
        offers[blocks.start] = tuple(getattr(offer, one.name) for one in fields(offer))[1:]
    return lambda lease: Publication(lease.key, *offers[lease.task.blocks.start])


def _lease(wanted: Job, dataset: DatasetUuid, blocks: BlockRange) -> Lease:
    (only,) = wanted.streams
    key, cryo_name = only.dataset_key, only.cryo_dataset_name
    task = Task(
        task_id(wanted.job_id, key, blocks), wanted.job_id, CHAIN, key, dataset, cryo_name, POOL, blocks,
        manifest.config_hash(dataset, cryo_name),
    )  # fmt: skip
    return Lease(task, 1, LeaseToken(wanted.job_id), 0, Receipts.ETHEREUM)


def recovery(url: str) -> Mapping[str, float]:
    """Seconds until many ranges are planned, and until the leases of a dead and of a silent worker are back."""
    ledger, planning = Ledger.planned(url, PLANNED)
    freed = _taken_back(ledger, ttl_s=60.0, take=lambda conn, epoch: tasks.free(conn, epoch, [DEAD], policy=POLICY))
    reaped = _taken_back(ledger, ttl_s=0.0, take=lambda conn, epoch: tasks.reap(conn, epoch, policy=POLICY))
    return {"planned": planning, "freed": freed, "reaped": reaped}


DEAD = WorkerId("w/0.0")


def _taken_back(ledger: Ledger, *, ttl_s: float, take: Callable[[Connection, Epoch], int]) -> float:
    epoch = ledger.core.epoch
    with ledger.database.transaction() as conn:
        tasks.fence(conn, epoch, 60.0)
        groups = tasks.claim(conn, epoch, [DEAD] * ORPHANS, ttl_s=ttl_s)
    assert sum(len(group.leases) for group in groups) == ORPHANS
    began = time.perf_counter()
    with ledger.database.transaction() as conn:
        tasks.fence(conn, epoch, 60.0)
        back = take(conn, epoch)
    seconds = time.perf_counter() - began
    assert back == ORPHANS
    return seconds


def stale(url: str) -> Mapping[str, str]:
    """Worker A goes silent, its lease is taken back and B leases the task; then A completes, and B twice."""
    ledger, _ = Ledger.planned(url, 1)
    epoch = ledger.core.epoch

    def lease(worker: str, ttl_s: float) -> Lease:
        with ledger.database.transaction() as conn:
            tasks.fence(conn, epoch, 60.0)
            (group,) = tasks.claim(conn, epoch, [WorkerId(worker)], ttl_s=ttl_s)
        return group.leases[0]

    def finish(held: Lease) -> str:
        with ledger.database.transaction() as conn:
            tasks.fence(conn, epoch, 60.0)
            (done,) = tasks.complete(conn, epoch, [publication(held)], policy=POLICY)
        return "accepted" if done.accepted else f"refused: {done.reason}"

    by_a = lease("w/0.0", ttl_s=0.0)
    with ledger.database.transaction() as conn:
        tasks.fence(conn, epoch, 60.0)
        assert tasks.reap(conn, epoch, policy=replace(POLICY, base_s=0.0, cap_s=0.0)) == 1
    by_b = lease("w/1.0", ttl_s=60.0)
    assert by_a.task == by_b.task
    return {"A, stale": finish(by_a), "B, the owner": finish(by_b), "B again": finish(by_b)}


def main() -> None:
    what, url, *numbers = sys.argv[1:]
    match what:
        case "rate":
            ranges, batch = map(int, numbers)
            answer: object = rate(url, ranges, batch)
        case "recovery":
            answer = recovery(url)
        case "stale":
            answer = stale(url)
        case _:
            raise SystemExit(f"{what} is not part of the comparison")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
