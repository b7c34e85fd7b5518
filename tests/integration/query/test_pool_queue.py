"""Who waits for a worker, who is told to come back, and what a cancelled question leaves to the next."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest

from query import lanes
from query import pool as pools
from query.cancel import Cancel
from query.question import Answer
from query.refusals import (
    QueryCancelled,
    QueueFull,
    SqlRejected,
)
from query.shares import ESTABLISHED
from tests.integration.query.desk import (
    DEAF,
    LATE,
    OTHER_ORG,
    POINT,
    SLOW,
    Desk,
    busiest,
    until,
)
from trace_ray.contracts import Grant, OrgId

# --- who waits ----------------------------------------------------------------------------------------------------


def test_question_waits_for_a_worker_and_then_gets_it(opened: Callable[..., Desk]) -> None:
    desk = opened(size=1)
    desk.ask("select 1")
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(desk.ask, POINT.format(number)) for number in range(8)]
        assert [done.result(20).table.to_pylist() for done in asked] == [[{"n": 1}]] * 8


def test_question_that_waits_too_long_is_told_to_come_back(opened: Callable[..., Desk]) -> None:
    desk = opened(size=1)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, SLOW, cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        started = time.monotonic()
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(1))
        assert pools.WAIT_S <= time.monotonic() - started < pools.WAIT_S + LATE
        cancel.set()
        with pytest.raises(QueryCancelled):
            asked.result(10)
    assert desk.pool.stats().refused == 1


def test_queue_has_an_end_and_no_organisation_takes_it_all(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=1, waiting=4)
    cancel, foreign = Cancel(), Grant(OTHER_ORG, desk.store.grant.datasets)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(desk.ask, SLOW, cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        queued = [threads.submit(desk.ask, POINT.format(number)) for number in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 2)
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(5))
        queued += [threads.submit(desk.ask, POINT.format(number), grant=foreign) for number in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 4)
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(5), grant=Grant(OrgId(UUID(int=5)), desk.store.grant.datasets))
        cancel.set()
        with pytest.raises(QueryCancelled):
            first.result(10)
        assert all(done.result(20).table.num_rows == 1 for done in queued)


def test_organisation_with_nothing_running_is_served_before_a_busy_one(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One organisation keeps a worker and queues first; the other is served first when the second worker is free."""
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=2)
    foreign = Grant(OTHER_ORG, desk.store.grant.datasets)
    order: list[str] = []
    kept, freed = Cancel(), Cancel()

    def ask(name: str, grant: Grant) -> None:
        desk.ask("select sum(range) from range(3000000)", grant=grant)
        order.append(name)

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(desk.ask, SLOW, cancel=cancel) for cancel in (kept, freed)]
        assert until(lambda: desk.pool.stats().busy == 2)
        greedy = [threads.submit(ask, "greedy", desk.store.grant) for _ in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 2)
        modest = threads.submit(ask, "modest", foreign)
        assert until(lambda: desk.pool.stats().waiting == 3)
        freed.set()
        for done in (modest, *greedy):
            done.result(20)
        kept.set()
        for done in running:
            with pytest.raises(QueryCancelled):
                done.result(10)
    assert order[0] == "modest"


def test_asker_who_has_held_little_is_served_before_one_who_has_held_much(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both belong to one organisation, and the one who has held much queues first."""
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=1)
    order: list[str] = []
    hold = Cancel()

    def ask(asker: str, sql: str, cancel: Cancel | None = None) -> None:
        desk.ask(sql, asker=asker, cancel=cancel)
        order.append(asker)

    ask("modest", POINT.format(1))
    ask("greedy", "select sum(range) from range(30000000)")
    with ThreadPoolExecutor(4) as threads:
        running = threads.submit(ask, "somebody", SLOW, hold)
        assert until(lambda: desk.pool.stats().busy == 1)
        greedy = [threads.submit(ask, "greedy", POINT.format(number)) for number in (2, 3)]
        assert until(lambda: desk.pool.stats().waiting == 2)
        modest = threads.submit(ask, "modest", POINT.format(4))
        assert until(lambda: desk.pool.stats().waiting == 3)
        hold.set()
        for done in (modest, *greedy):
            done.result(20)
        with pytest.raises(QueryCancelled):
            running.result(10)
    assert order == ["modest", "greedy", "modest", "greedy", "greedy"]


def nobody(*_: object, **__: object) -> list[object]:
    """Have nobody make way."""
    return []


def test_last_place_is_kept_for_those_who_asked_nothing_long(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WAIT_S", 1.0)
    monkeypatch.setattr(lanes, "victims", nobody)
    desk = opened(size=3)
    for number in range(ESTABLISHED):
        desk.ask(POINT.format(1), asker="modest")
        with pytest.raises(SqlRejected):
            desk.ask(f"select [{'1, ' * 500} {number}] from nowhere", asker="probing")  # takes some milliseconds
    first, *cancels = Cancel(), Cancel(), Cancel()
    with ThreadPoolExecutor(2) as threads:
        long = threads.submit(desk.ask, SLOW, asker="greedy", cancel=first)
        assert until(lambda: busiest(desk.workers()) > 2 * lanes.PLACE_S)
        first.set()
        with pytest.raises(QueryCancelled):
            long.result(10)
        greedy = [threads.submit(desk.ask, SLOW, asker="greedy", cancel=cancel) for cancel in cancels]
        assert until(lambda: desk.pool.stats().busy == 2)
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(2), asker="greedy")
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(2), asker="probing")
        assert desk.ask(POINT.format(3), asker="modest").table.num_rows == 1
        for cancel, one in zip(cancels, greedy, strict=True):
            cancel.set()
            with pytest.raises(QueryCancelled):
                one.result(10)


# --- cancellation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [SLOW, DEAF])
def test_cancelled_question_ends_at_once(desk: Desk, sql: str) -> None:
    desk.ask("select 1")
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, sql, cancel=cancel)
        assert until(lambda: busiest(desk.workers()) > 0.1)
        ends_at_once(asked, cancel)
    assert until(lambda: desk.pool.stats().busy == 0)
    assert desk.ask(POINT.format(1)).table.num_rows == 1


def test_question_is_cancelled_while_it_is_judged(opened: Callable[..., Desk]) -> None:
    """A worker that stands still has not even begun to judge."""
    desk = opened(size=1)
    desk.ask("select 1")
    assert until(lambda: desk.pool.stats().fresh > 0)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        for pid in desk.workers():
            os.kill(pid, signal.SIGSTOP)
        asked = threads.submit(desk.ask, POINT.format(1), cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        ends_at_once(asked, cancel)
    assert until(lambda: desk.pool.stats().busy == 0)
    for pid in desk.workers():  # those that stood by
        os.kill(pid, signal.SIGCONT)
    assert desk.ask(POINT.format(1)).table.num_rows == 1


def ends_at_once(asked: "Future[Answer]", cancel: Cancel) -> None:
    at = time.monotonic()
    cancel.set()
    with pytest.raises(QueryCancelled):
        asked.result(10)
    assert time.monotonic() - at < 0.1 + LATE


def test_question_that_was_cancelled_before_does_not_run(desk: Desk) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(QueryCancelled):
        desk.ask(POINT.format(1), cancel=cancel)
    assert desk.pool.stats().busy == 0


def test_question_is_cancelled_while_it_waits(opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=1)
    running, waiting = Cancel(), Cancel()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(desk.ask, SLOW, cancel=running)
        assert until(lambda: desk.pool.stats().busy == 1)
        second = threads.submit(desk.ask, POINT.format(1), cancel=waiting)
        assert until(lambda: desk.pool.stats().waiting == 1)
        waiting.set()
        with pytest.raises(QueryCancelled):
            second.result(5)
        running.set()
        with pytest.raises(QueryCancelled):
            first.result(5)
    assert desk.ask(POINT.format(1)).table.num_rows == 1
