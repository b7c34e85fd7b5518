"""Batches of drafts: swept when nothing can need them again, and never while a message or an attempt may."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from actors.sweeper import Sweeper
from state import buffer, evaluations, rules, tasks
from state.db import Database
from tests.integration.state.ledger import NO_WAIT, Ledger, job
from tests.integration.state.watching import backfill, batch, claim, complete, drain, fail, rule, watch
from trace_ray.alerts import BATCHES, QUEUE, EvaluationLease, TaskId, batch_key, batch_name
from trace_ray.contracts import DEFAULT_ORG, Failure
from trace_ray.storage import ObjectStore, open_store

DAY_S = 24 * 3600.0
DRAFTS = b"{}\n"


class World:
    """A ledger with rule `watch`, an object store, and a sweeper of both. What is put there is two days old."""

    def __init__(self, ledger: Ledger, url: str, directory: Path, *, blocks: int) -> None:
        self.ledger = ledger
        self.root = directory / "objects"
        self.root.mkdir()
        self.source = directory / "source"
        self.source.write_bytes(DRAFTS)
        self.store: ObjectStore = open_store(self.root.as_uri(), data_dir=directory)
        database = Database(url, application_name="test-sweep")
        self.sweeper = Sweeper(
            database, self.store, directory / "staging",
            kept_s=DAY_S, staging_kept_s=DAY_S, answers=database, audit_kept_s=DAY_S,
        )  # fmt: skip
        self.sweeper.claim_store(self.root.as_uri())
        ledger.sync(job("blocks", to_block=blocks))
        watch(ledger, rule())
        ledger.drain()
        drain(ledger, limit=99)

    def put(self, key: str, *, age_s: float = 2 * DAY_S) -> str:
        self.store.put(self.source, key)
        then = time.time() - age_s
        os.utime(self.root / key, times=(then, then))
        return key

    def lease(self, *, ttl_s: float = 60.0) -> tuple[EvaluationLease, str]:
        """Begin an attempt that stores its drafts at once."""
        (lease,) = claim(self.ledger, ttl_s=ttl_s)
        return lease, self.put(batch_key(lease.evaluation.task_id, lease.attempt))

    def emit(self) -> str:
        """End an attempt that emitted something."""
        lease, key = self.lease()
        assert complete(self.ledger, lease, batch(lease, DRAFTS)).accepted
        return key

    def sunk(self, limit: int = 1) -> list[buffer.Delivery]:
        with self.ledger.conn.transaction():
            return buffer.receive(self.ledger.conn, QUEUE, limit, 0.0)

    def sweep(self) -> set[str]:
        """Sweep, and return what is left."""
        before = self.left()
        swept = self.sweeper.sweep()
        assert swept.batches == len(before) - len(self.left())
        return self.left()

    def left(self) -> set[str]:
        return {found.key for found in self.store.list(BATCHES)}


@pytest.fixture
def world(ledger: Ledger, state_url: str, tmp_path: Path) -> World:
    return World(ledger, state_url, tmp_path, blocks=100)


def test_a_batch_goes_when_the_sink_has_kept_it_and_stays_as_long_as_it_may_ask_for_it(world: World) -> None:
    conn, key = world.ledger.conn, world.emit()
    assert world.sweep() == {key}
    (received,) = world.sunk()
    assert world.sweep() == {key}
    assert buffer.reject(conn, received.message_id, received.receipt, error="line 1 is no JSON")
    assert world.sweep() == {key}  # an operator may mend the sink and put the letter back
    assert buffer.replay(conn, queue=QUEUE) == 1
    assert world.sweep() == {key}
    (received,) = world.sunk()
    assert buffer.ack(conn, received.message_id, received.receipt)
    assert world.sweeper.sweep(dry_run=True).batches == 1
    assert world.left() == {key}
    assert world.sweep() == set()


def test_what_an_attempt_left_goes_when_it_is_over_for_good(world: World) -> None:
    lease, first = world.lease()
    assert world.sweep() == {first}
    fail(world.ledger, lease)
    assert world.sweep() == {first}
    again, second = world.lease()
    assert again.evaluation == lease.evaluation
    assert world.sweep() == {second}
    fail(world.ledger, again, retryable=False)
    assert world.sweep() == set()


def test_a_lost_attempt_that_a_new_term_may_adopt_keeps_its_batch(world: World) -> None:
    lease, key = world.lease(ttl_s=-1)
    assert tasks.reap(world.ledger.conn, world.ledger.epoch, policy=NO_WAIT) == 1
    assert world.sweep() == {key}
    newer = Ledger.lead(world.ledger.conn, holder="cluster/space/2")
    assert tasks.adopt(newer.conn, newer.epoch, {lease.worker_id: [lease.key]}, ttl_s=60) == [lease.key]
    assert complete(newer, lease, batch(lease, DRAFTS)).accepted
    assert world.sweep() == {key}


def test_young_ones_and_those_that_this_ledger_does_not_know_stay(world: World) -> None:
    lease, key = world.lease()
    assert complete(world.ledger, lease, None).accepted
    ranged = world.ledger.one(b"SELECT task_id FROM state.tasks WHERE kind = 'sync' LIMIT 1")
    kept = {
        world.put(batch_key(TaskId(uuid4()), 1)),
        world.put(f"{BATCHES}{ranged}/1/udf.jsonl"),
        world.put(key.replace("/1/", "/01/")),
        world.put(f"{BATCHES}notes.txt"),
    }
    assert world.sweep() == kept
    young = world.put(key, age_s=DAY_S / 2)
    swept = world.sweeper.sweep()
    assert (swept.batches, swept.kept) == (0, 4)
    assert world.left() == kept | {young}


# --- whatever happens ---------------------------------------------------------------------------------------------


class Chaos:
    """Does one thing after another to evaluations and their messages, in an order that the seed decides."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.conn, self.chance = world, world.ledger.conn, chance
        self.held: list[EvaluationLease] = []

    def steps(self) -> list[Callable[[], object]]:
        return [
            self.begin, self.begin, self.end, self.end, self.crash, self.lose, self.adopt, self.retry, self.leave_out,
            self.bring_back, self.sink, self.sink, self.reject, self.bury, self.replay,
        ]  # fmt: skip

    def begin(self) -> None:
        for lease in claim(self.world.ledger, self.chance.randint(1, 2)):
            self.held.append(lease)
            self.world.put(batch_key(lease.evaluation.task_id, lease.attempt))

    def end(self) -> None:
        if self.held:
            lease = self.held[self.chance.randrange(len(self.held))]
            complete(self.world.ledger, lease, batch(lease, DRAFTS))

    def crash(self) -> None:
        if self.held:
            failure = Failure(self.chance.choice(self.held).key, "crash", "crash", self.chance.random() < 0.5)
            evaluations.fail_evaluations(self.conn, self.world.ledger.epoch, [failure], policy=NO_WAIT)

    def lose(self) -> None:
        self.conn.execute(b"UPDATE state.tasks SET lease_expires_at = '-infinity' WHERE state = 'running'")
        tasks.reap(self.conn, self.world.ledger.epoch, policy=NO_WAIT)

    def adopt(self) -> None:
        if self.held:
            lease = self.chance.choice(self.held)
            tasks.adopt(self.conn, self.world.ledger.epoch, {lease.worker_id: [lease.key]}, ttl_s=60)

    def retry(self) -> None:
        evaluations.retry_dead(self.conn, rule().rule_id)

    def leave_out(self) -> None:
        with self.conn.transaction():
            evaluations.leave_out(self.conn, rule().rule_id)

    def bring_back(self) -> None:
        rules.resume(self.conn, DEFAULT_ORG, "watch")
        backfill(self.world.ledger, rule())

    def sink(self) -> None:
        for one in self.world.sunk():
            buffer.ack(self.conn, one.message_id, one.receipt)

    def reject(self) -> None:
        for one in self.world.sunk():
            buffer.reject(self.conn, one.message_id, one.receipt, error="no")

    def bury(self) -> None:
        self.conn.execute(b"UPDATE state.buffer_queue SET deliveries = max_deliveries, available_at = '-infinity'")
        buffer.bury(self.conn)

    def replay(self) -> None:
        buffer.replay(self.conn)

    def needed(self) -> set[str]:
        """What somebody may ask for: of every message, and of each attempt that may still end well."""
        found = self.world.ledger.rows(
            b"SELECT payload ->> 'batch_uri' AS key FROM state.buffer_queue"
            b" UNION ALL SELECT payload ->> 'batch_uri' FROM state.buffer_dead_letters"
        )
        open_ = self.world.ledger.rows(
            b"SELECT task_id, attempt FROM state.tasks WHERE kind = 'evaluation' AND attempt > 0"
            b" AND state IN ('running', 'queued') AND lease_token IS NOT NULL"
        )
        return {str(row["key"]) for row in found} | {batch_key(row["task_id"], row["attempt"]) for row in open_}


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_nothing_that_is_needed_is_swept(
    ledger: Ledger, state_url: str, tmp_path: Path, seed: int
) -> None:
    """Every sweep finds everything old; the last one leaves nothing but what is needed."""
    world = World(ledger, state_url, tmp_path, blocks=600)
    chance = random.Random(seed)
    chaos = Chaos(world, chance)
    swept = 0
    for _ in range(120):
        chance.choice(chaos.steps())()
        before = world.left()
        assert chaos.needed() <= before
        after = world.sweep()
        assert chaos.needed() <= after
        swept += len(before - after)
    assert swept, "the steps made something that could be swept"
    chaos.bury()
    chaos.replay()
    for one in world.sunk(limit=99):
        assert buffer.ack(ledger.conn, one.message_id, one.receipt)
    open_ = ledger.rows(b"SELECT task_id FROM state.tasks WHERE kind = 'evaluation' AND state IN ('queued', 'running')")
    ids = {row["task_id"] for row in open_}
    names = [name for key in world.sweep() if (name := batch_name(key)) is not None]
    assert {name.task_id for name in names} <= ids
