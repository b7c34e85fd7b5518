"""Invariants 1 to 6: what is planned tiles the chain exactly, whoever plans and dies, and is leased exactly once."""

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from state import jobs
from state.db import Connection
from tests.integration.state.doom import Deaths, at_each_exchange, end_backend
from tests.integration.state.ledger import CHAIN, POOL, Ledger, failure, job, publication, stream
from trace_ray.contracts import Job, Lease
from trace_ray.errors import LedgerConflict

PLANNED = b"""
SELECT (SELECT jsonb_agg(t ORDER BY task_id) FROM state.tasks t) AS tasks,
  (SELECT jsonb_agg(r ORDER BY task_id) FROM state.ranges r) AS ranges,
  (SELECT jsonb_agg(o ORDER BY id) FROM state.outbox o) AS outbox
"""
OPEN_RANGES = b"""
SELECT stream_id, count(*) AS open FROM state.ranges WHERE NOT done AND NOT dead GROUP BY stream_id
"""


def race(runners: list[Callable[[], object]]) -> None:
    """Run them in threads that start together; an error of one is raised here."""
    start = threading.Barrier(len(runners))
    errors: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        start.wait()
        try:
            one()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_01_claim_is_exclusive(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    ledger.sync(job(stream("blocks", chunk_size=1, max_inflight=1000)))
    taken: list[Lease] = []

    def claimer(number: int) -> Callable[[], None]:
        other = Ledger(connection(), ledger.epoch)

        def claim_all() -> None:
            while other.rows(b"SELECT FROM state.tasks WHERE state = 'queued' LIMIT 1"):
                groups = other.claim(slots=7, worker=f"w/{number}.0")
                taken.extend(lease for group in groups for lease in group.leases)

        return claim_all

    race([claimer(number) for number in range(8)])
    assert sorted(lease.task.blocks.start for lease in taken) == list(range(1000))
    assert {lease.attempt for lease in taken} == {1}
    held = {(row["task_id"], row["attempt"], row["lease_token"]) for row in ledger.rows(HELD)}
    assert held == {(lease.key.task_id, lease.key.attempt, lease.key.lease_token) for lease in taken}


HELD = b"""
SELECT t.task_id, t.attempt, t.lease_token
FROM state.tasks t JOIN state.attempts a USING (task_id, attempt, lease_token)
WHERE t.state = 'running' AND a.worker_id = t.worker_id AND a.ended_at IS NULL
"""


# --- the ranges of a stream ---------------------------------------------------------------------------------------


def assert_tiled(witness: Connection) -> int:
    """Ranges of each stream follow each other from its first block to its cursor; return how many there are."""
    cursors = witness.execute(
        b"SELECT s.stream_id, j.from_block, c.next_block FROM state.streams s"
        b" JOIN state.jobs j USING (job_id) JOIN state.cursors c USING (stream_id)"
    ).fetchall()
    count = 0
    for cursor in cursors:
        ranges = witness.execute(
            b"SELECT range_start, range_end FROM state.ranges WHERE stream_id = %s::uuid ORDER BY range_start",
            (cursor["stream_id"],),
        ).fetchall()
        end = cursor["from_block"]
        for one in ranges:
            assert one["range_start"] == end, "a gap or an overlap"
            end = one["range_end"]
        assert cursor["next_block"] == end
        count += len(ranges)
    return count


class Schedule:
    """Random plans and crashes of one seed; every change is followed by a look from another connection."""

    def __init__(self, ledger: Ledger, connection: Callable[[], Connection], seed: int) -> None:
        self.ledger = ledger
        self.connection = connection
        self.chance = random.Random(seed)
        self.head = 50
        self.crashes = 0

    def job(self) -> Job:
        sizes = [self.chance.choice([1, 7, 30]) for _ in range(2)]
        return job(
            stream("blocks", chunk_size=sizes[0], max_inflight=self.chance.choice([1, 4, 9])),
            stream("logs", chunk_size=sizes[1], max_inflight=self.chance.choice([2, 5])),
            to_block=10_000,
        )

    def step(self) -> None:
        moves = [self.plan, self.plan, self.crash, self.race, self.finish, self.lose, self.change, self.grow]
        self.chance.choice(moves)()

    def plan(self) -> None:
        self.ledger.plan()

    def change(self) -> None:
        with self.ledger.conn.transaction():
            jobs.apply(self.ledger.conn, self.job())

    def grow(self) -> None:
        self.head += self.chance.randrange(60)
        jobs.record_head(self.ledger.conn, self.ledger.epoch, POOL, CHAIN, self.head)

    def finish(self) -> None:
        for group in self.ledger.claim(slots=self.chance.randrange(6)):
            self.ledger.complete(*map(publication, group.leases))

    def lose(self) -> None:
        for group in self.ledger.claim():
            self.ledger.fail(*(failure(lease, retryable=False) for lease in group.leases))

    def race(self) -> None:
        race([Ledger(self.connection(), self.ledger.epoch).plan for _ in range(2)])

    def crash(self) -> None:
        """Plan on a backend that ends before a random exchange, which may be the COMMIT."""
        doomed, left = self.connection(), self.chance.randrange(6)

        def die_at_last() -> None:
            nonlocal left
            if left == 0:
                end_backend(self.ledger.conn, doomed)
                self.crashes += 1
            left -= 1

        with at_each_exchange(doomed, die_at_last):
            try:
                with doomed.transaction():
                    jobs.plan(doomed, self.ledger.epoch)
            except psycopg.OperationalError:
                assert doomed.closed
        doomed.close()


@pytest.mark.parametrize("seed", range(3))
def test_02_ranges_tile_exactly(ledger: Ledger, connection: Callable[[], Connection], seed: int) -> None:
    schedule, witness = Schedule(ledger, connection, seed), connection()
    ledger.sync(schedule.job(), head=schedule.head)
    planned = assert_tiled(witness)
    for _ in range(60):
        schedule.step()
        now = assert_tiled(witness)
        assert now >= planned
        planned = now
    assert schedule.crashes > 0
    assert planned > 20


def test_03_plan_is_idempotent(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=20), stream("logs", chunk_size=70, max_inflight=20)))
    before = ledger.rows(PLANNED)
    assert ledger.plan() == 0
    ledger.conn.execute(b"UPDATE state.cursors SET next_block = 0")
    assert ledger.plan() == 0  # half of the room is taken: what is planned once more is known
    ledger.conn.execute(b"UPDATE state.streams SET max_inflight = 1000")
    ledger.conn.execute(b"UPDATE state.cursors SET next_block = 0")
    assert ledger.plan() == 0
    assert ledger.rows(PLANNED) == before
    assert ledger.rows(b"SELECT DISTINCT next_block FROM state.cursors") == [{"next_block": 1000}]


def test_04_plan_is_atomic(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job("blocks", "logs"))
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 5000)
    deaths = Deaths(ledger.conn, connection)
    before = (ledger.rows(PLANNED), ledger.rows(b"SELECT * FROM state.cursors"))
    for place in deaths.all(lambda conn: jobs.plan(conn, ledger.epoch)):
        assert (ledger.rows(PLANNED), ledger.rows(b"SELECT * FROM state.cursors")) == before, place
    assert {"cursors", "ranges", "tasks"} <= set(deaths.written)
    assert deaths.exchanges >= 5  # BEGIN, three statements, COMMIT
    assert ledger.plan() == 8
    assert_tiled(ledger.conn)


def test_05_plan_respects_inflight(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    limits = {"blocks": 7, "logs": 3}
    known = job(*(stream(key, chunk_size=1, max_inflight=limit) for key, limit in limits.items()))
    ledger.sync(known, head=-1)  # nothing is planned yet
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 5000)
    most: list[int] = []

    def planner() -> Callable[[], None]:
        other = Ledger(connection(), ledger.epoch)

        def plan() -> None:
            for _ in range(15):
                other.plan()
                most.append(max(row["open"] for row in other.rows(OPEN_RANGES)))
                assert all(row["open"] <= row["max_inflight"] for row in other.rows(AGAINST_LIMIT))

        return plan

    def finish() -> None:
        other = Ledger(connection(), ledger.epoch)
        for _ in range(15):
            for group in other.claim(slots=2):
                other.complete(*map(publication, group.leases))

    race([*(planner() for _ in range(4)), finish])
    ledger.plan()
    assert {row["dataset_key"]: row["open"] for row in ledger.rows(AGAINST_LIMIT)} == limits
    assert max(most) == 7
    assert_tiled(ledger.conn)


AGAINST_LIMIT = b"""
SELECT dataset_key, max_inflight, (SELECT count(*) FROM state.ranges r
  WHERE r.stream_id = s.stream_id AND NOT done AND NOT dead) AS open FROM state.streams s
"""


def test_06_task_id_collision_aborts(ledger: Ledger) -> None:
    known = ledger.sync(job())
    ledger.conn.execute(b"UPDATE state.cursors SET next_block = 0")
    ledger.conn.execute(b"UPDATE state.ranges SET done = true")  # makes room, so that everything is planned once more
    ledger.conn.execute(b"""UPDATE state.tasks SET payload = payload || '{"chain_id": 5}' WHERE range_start = 100""")
    before = (ledger.rows(PLANNED), ledger.rows(b"SELECT * FROM state.cursors"))
    with pytest.raises(LedgerConflict, match=r"blocks \[100, 200\) of stream blocks"):
        ledger.plan()
    assert (ledger.rows(PLANNED), ledger.rows(b"SELECT * FROM state.cursors")) == before
    with ledger.conn.transaction():  # what the user may change is no collision
        jobs.apply(ledger.conn, replace(known, streams=(replace(stream("blocks"), rpc_pool="archive"),)))
    jobs.record_head(ledger.conn, ledger.epoch, "archive", CHAIN, 5000)
    ledger.conn.execute(b"""UPDATE state.tasks SET payload = payload || '{"chain_id": 31337}'""")
    assert ledger.plan() == 0
