"""Invariants 7 to 11, 14 and 15: an attempt ends once, whole, and only by who holds its lease."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast
from uuid import uuid4

import pytest

from state import tasks
from state.db import Connection
from tests.integration.state.doom import Deaths
from tests.integration.state.effects import EVERYTHING, ONE, STORED_TASKS, effects, times
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, failure, job, publication, stream
from tests.integration.state.stepping import Stepped, interleavings
from trace_ray.contracts import Lease, LeaseGroup, LeaseToken, WorkerId


def test_07_stale_complete_rejected(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    old = ledger.lease(ttl_s=-1)
    tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
    new = ledger.lease()
    before = ledger.rows(EVERYTHING)
    (refused,) = ledger.complete(publication(old))
    assert (refused.accepted, refused.reason) == (False, "stale_attempt")
    assert ledger.fail(failure(old))[0].reason == "stale_attempt"
    assert ledger.rows(EVERYTHING) == before
    assert ledger.complete(publication(new))[0].accepted
    assert effects(ledger) == ONE
    assert ledger.complete(publication(old))[0].reason == "stale_attempt"  # also after the owner has finished
    assert effects(ledger) == ONE


def test_08_wrong_token_rejected(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    forged = replace(lease.key, lease_token=LeaseToken(uuid4()))
    before, stored = ledger.rows(EVERYTHING), ledger.rows(STORED_TASKS)
    assert ledger.complete(replace(publication(lease), attempt=forged))[0].reason == "wrong_token"
    assert ledger.fail(replace(failure(lease), attempt=forged))[0].reason == "wrong_token"
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [forged], ttl_s=500) == []
    assert tasks.adopt(ledger.conn, ledger.epoch, {WorkerId("thief/0.0"): [forged]}, ttl_s=500) == []
    assert (ledger.rows(EVERYTHING), ledger.rows(STORED_TASKS)) == (before, stored)
    assert ledger.complete(publication(lease))[0].accepted


def test_09_late_reply_accepted_until_reclaim(ledger: Ledger) -> None:
    ledger.sync(job(to_block=200))
    in_time, too_late = ledger.lease(ttl_s=-1), ledger.lease(ttl_s=-1)
    assert tasks.reap(ledger.conn, ledger.epoch, policy=POLICY) == 2
    assert ledger.complete(publication(in_time))[0].accepted
    assert ledger.complete(publication(in_time))[0].reason == "already_done"
    assert effects(ledger) == ONE
    ledger.conn.execute(b"UPDATE state.tasks SET run_at = now()")
    again = ledger.lease()
    assert again.task == too_late.task
    assert ledger.complete(publication(too_late))[0].reason == "stale_attempt"
    assert effects(ledger) == ONE
    assert ledger.complete(publication(again))[0].accepted


def test_09_a_late_reply_is_accepted_before_the_reaper_saw_it(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    late = ledger.lease(ttl_s=-1)
    assert ledger.complete(publication(late))[0].accepted
    assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 0
    assert effects(ledger) == ONE


def test_10_duplicate_complete_is_noop(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    ledger.sync(job())
    offer = publication(ledger.lease())
    start = threading.Barrier(3)
    answers: list[tasks.Settlement] = []

    def race(other: Ledger) -> None:
        start.wait()
        answers.extend(other.complete(offer))

    threads = [threading.Thread(target=race, args=(Ledger(connection(), ledger.epoch),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(answer.reason) for answer in answers) == ["None", "already_done", "already_done"]
    assert effects(ledger) == ONE
    assert ledger.one(b"SELECT count(*) FROM state.events") == 1


def test_11_complete_is_atomic(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    ledger.sync(job("blocks", "logs"))
    offers = [publication(lease) for lease in ledger.claim()[0].leases]
    deaths = Deaths(ledger.conn, connection)
    before = ledger.rows(EVERYTHING)
    for place in deaths.all(lambda conn: tasks.complete(conn, ledger.epoch, offers, policy=POLICY)):
        assert ledger.rows(EVERYTHING) == before, place
    assert deaths.exchanges >= 4  # BEGIN, at least two statements, COMMIT
    assert {*deaths.written} == {
        *("tasks", "attempts", "ranges", "dataset_versions", "dataset_files", "datasets", "snapshots", "outbox")
    }
    assert [one.accepted for one in ledger.complete(*offers)] == [True, True]
    assert effects(ledger) == times(2)
    repeated = ledger.complete(*offers)  # the answer to COMMIT was lost
    assert {one.reason for one in repeated} == {"already_done"}
    assert effects(ledger) == times(2)


@pytest.mark.parametrize("kind", ["reap", "fail", "free"])
def test_11_each_other_end_of_an_attempt_is_atomic(
    ledger: Ledger, connection: Callable[[], Connection], kind: str
) -> None:
    """The last failure of a budget writes the most: task, attempt, range and outbox."""
    once = replace(NO_WAIT, max_attempts=1, max_infra_failures=1)
    ledger.sync(job(to_block=100))
    lease = ledger.lease(ttl_s=-1)
    ends: dict[str, Callable[[Connection], object]] = {
        "reap": lambda conn: tasks.reap(conn, ledger.epoch, policy=once),
        "fail": lambda conn: tasks.fail(conn, ledger.epoch, [failure(lease)], policy=once),
        "free": lambda conn: tasks.free(conn, ledger.epoch, [WorkerId("w/0.0")], policy=once),
    }
    deaths = Deaths(ledger.conn, connection)
    before = ledger.rows(EVERYTHING)
    for place in deaths.all(ends[kind]):
        assert ledger.rows(EVERYTHING) == before, place
    assert deaths.written == ["attempts", "outbox", "ranges", "tasks"]
    ends[kind](ledger.conn)
    assert ledger.one(b"SELECT count(*) FROM state.tasks JOIN state.ranges USING (task_id) WHERE dead") == 1
    assert ledger.one(b"SELECT idempotency_key FROM state.outbox") == f"dead/{lease.task.task_id}/1"


def test_14_heartbeat_cannot_resurrect(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    old = ledger.lease(ttl_s=-1)
    tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [old.key], ttl_s=500) == []
    new = ledger.lease(worker="w/1.0")
    stored = ledger.rows(STORED_TASKS)
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [old.key], ttl_s=500) == []
    assert tasks.adopt(ledger.conn, ledger.epoch, {WorkerId("w/0.0"): [old.key]}, ttl_s=500) == []
    assert ledger.rows(STORED_TASKS) == stored
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [new.key], ttl_s=500) == [new.key]


# --- who comes between an attempt and its end ---------------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """How the completion of an expired attempt and its rival ended; `waited`: one had to wait for the other."""

    lease: Lease
    done: tasks.Settlement
    rival: object
    waited: bool


def duels(
    ledger: Ledger, connection: Callable[[], Connection], rival: Callable[[Ledger], object]
) -> Iterator[tuple[Sequence[int], Duel]]:
    """Complete an expired attempt while a rival works, once for every order of their exchanges with the server.

    Each of both has begun its transaction before the other goes on.
    """
    finisher, other = Ledger(connection(), ledger.epoch), Ledger(connection(), ledger.epoch)
    exchanges = [0, 0]

    def fight(order: Sequence[int]) -> Duel:
        ledger.plan()
        lease = ledger.lease(ttl_s=-1)
        both = (
            Stepped(finisher.conn, lambda: finisher.complete(publication(lease)), ledger.conn),
            Stepped(other.conn, lambda: rival(other), ledger.conn),
        )
        for which in (0, 1, *order):
            both[which].step()
        for one in both:
            one.let_go()
        ((done,), rescued) = (one.finish() for one in both)
        exchanges[:] = [max(count, one.exchanges - 1) for count, one in zip(exchanges, both, strict=True)]
        return Duel(lease, done, rescued, any(one.blocked for one in both))

    for first in (0, 1):  # one after the other: this measures how many exchanges each needs
        order = [first] * 20 + [1 - first] * 20
        yield order, fight(order)
    for order in interleavings(*exchanges):
        yield order, fight(order)


def fate(ledger: Ledger, lease: Lease) -> tuple[object, ...]:
    """State, lost attempts, end of attempt 1, versions and events of a task."""
    (row,) = ledger.rows(
        b"SELECT t.state, t.infra_failures, a.outcome,"
        b" (SELECT count(*) FROM state.dataset_versions v WHERE v.task_id = t.task_id) AS versions,"
        b" (SELECT count(*) FROM state.events o WHERE o.payload ->> 'range_start' = t.range_start::text) AS events"
        b" FROM state.tasks t JOIN state.attempts a USING (task_id) WHERE t.task_id = %s::uuid AND a.attempt = 1",
        lease.task.task_id,
    )
    return tuple(row.values())


def reap(rival: Ledger) -> int:
    with rival.conn.transaction():
        return tasks.reap(rival.conn, rival.epoch, policy=NO_WAIT)


def free(rival: Ledger) -> int:
    with rival.conn.transaction():
        return tasks.free(rival.conn, rival.epoch, [WorkerId("w/0.0")], policy=NO_WAIT)


def reap_and_claim(rival: Ledger) -> list[LeaseGroup]:
    reap(rival)
    return rival.claim(worker="w/1.0")


ENDLESS = job(stream("blocks", chunk_size=1, max_inflight=1), to_block=1000)


def test_15_reaper_vs_complete_race(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    """The attempt is still the current one, so its reply wins in every order; what was reaped never hides it."""
    ledger.sync(ENDLESS)
    seen: set[tuple[object, bool]] = set()
    for order, duel in duels(ledger, connection, reap):
        assert duel.done.accepted, order
        assert fate(ledger, duel.lease) == ("succeeded", duel.rival, "succeeded", 1, 1), order
        seen.add((duel.rival, duel.waited))
    assert {rival for rival, _ in seen} == {0, 1}
    assert any(waited for _, waited in seen)


def test_15_freeing_vs_complete_race(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    """A freed lease is dead at once, so exactly one of both wins."""
    ledger.sync(ENDLESS)
    winners: set[object] = set()
    for order, duel in duels(ledger, connection, free):
        assert duel.done.accepted == (duel.rival == 0), order
        if duel.done.accepted:
            assert fate(ledger, duel.lease) == ("succeeded", 0, "succeeded", 1, 1), order
        else:
            assert duel.done.reason == "stale_attempt"
            assert fate(ledger, duel.lease) == ("queued", 1, "released", 0, 0), order
        ledger.drain_once()
        winners.add(duel.rival)
    assert winners == {0, 1}


def test_15_next_claim_vs_complete_race(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    """The reply of an expired attempt is welcome exactly until the next one starts."""
    ledger.sync(ENDLESS)
    winners: set[bool] = set()
    for order, duel in duels(ledger, connection, reap_and_claim):
        claimed = isinstance(duel.rival, list) and bool(duel.rival)
        assert duel.done.accepted != claimed, order
        if claimed:
            assert duel.done.reason == "stale_attempt"
            assert fate(ledger, duel.lease) == ("running", 1, "expired", 0, 0), order
            (group,) = cast(list[LeaseGroup], duel.rival)
            assert ledger.complete(publication(group.leases[0]))[0].accepted, order
        else:
            state, _, outcome, *made = fate(ledger, duel.lease)
            assert (state, outcome, made) == ("succeeded", "succeeded", [1, 1]), order
        winners.add(claimed)
    assert winners == {True, False}
