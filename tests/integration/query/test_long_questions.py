"""Long questions make way: short ones are served beside any number of them, and nothing is lost by it."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from query import lanes
from query import pool as pools
from query.cancel import Cancel
from query.pool import Pool
from query.process import BACKGROUND, Reach
from query.refusals import QueryCancelled, QueueFull
from tests.integration.query.conftest import Store
from tests.integration.query.test_pool import POINT, SLOW, Desk, until

SUM = "select count(*) as n from range(14000) a, range(14000) b where (a.range + b.range) % 7 = 0"


@pytest.fixture
def desk(store: Store) -> Iterator[Desk]:
    with Pool(scratch=store.scratch, reach=Reach(read=(store.root,)), size=4) as pool:
        yield Desk(store, pool)


def priorities(desk: Desk) -> list[int]:
    """The priority of each thread of each worker; 0 is that of an ordinary process."""
    threads = [thread for pid in desk.workers() for thread in Path(f"/proc/{pid}/task").iterdir()]
    return [os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads]


def test_short_questions_are_answered_while_long_ones_fill_the_pool(desk: Desk) -> None:
    cancels = [Cancel() for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        endless = [threads.submit(desk.ask, SLOW, cancel=cancel) for cancel in cancels]
        assert until(lambda: desk.pool.stats().busy == 4)
        for number in range(8):
            assert desk.ask(POINT.format(number)).table.to_pylist() == [{"n": 1}]
        assert desk.pool.stats().displaced >= 2
        for cancel in cancels:
            cancel.set()
        for one in endless:
            with pytest.raises(QueryCancelled):
                one.result(20)
    assert until(lambda: desk.pool.stats().busy == 0)


def test_question_that_made_way_is_answered_in_the_end(desk: Desk) -> None:
    """It begins again: its rows are those of a question that was left alone."""
    alone = desk.ask(SUM).table.to_pylist()
    stop = threading.Event()

    def hurry() -> None:
        while not stop.is_set():
            desk.ask(POINT.format(1))

    with ThreadPoolExecutor(7) as threads:
        long = [threads.submit(desk.ask, SUM) for _ in range(4)]
        assert until(lambda: desk.pool.stats().busy == 4)
        hasty = [threads.submit(hurry) for _ in range(3)]
        assert [one.result(60).table.to_pylist() for one in long] == [alone] * 4
        stop.set()
        for one in hasty:
            one.result(20)
    assert desk.pool.stats().displaced >= 1


def test_long_questions_fill_the_pool_while_nobody_waits(desk: Desk) -> None:
    cancels = [Cancel() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        endless = [threads.submit(desk.ask, SLOW, cancel=cancel) for cancel in cancels]
        assert until(lambda: desk.pool.stats().busy == 4)
        assert not until(lambda: desk.pool.stats().busy < 4, seconds=2 * lanes.PLACE_S)
        assert desk.pool.stats().displaced == 0
        for cancel in cancels:
            cancel.set()
        for one in endless:
            with pytest.raises(QueryCancelled):
                one.result(20)


def test_only_a_long_question_beside_others_leaves_them_the_cpu(desk: Desk) -> None:
    cancels = [Cancel(), Cancel()]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(desk.ask, SLOW, cancel=cancels[0])
        assert until(lambda: desk.pool.stats().busy == 1)
        assert not until(lambda: BACKGROUND in priorities(desk), seconds=2 * lanes.PLACE_S)
        second = threads.submit(desk.ask, SLOW, cancel=cancels[1])
        assert until(lambda: priorities(desk).count(BACKGROUND) >= 4)  # two threads in each
        for cancel, one in zip(cancels, (first, second), strict=True):
            cancel.set()
            with pytest.raises(QueryCancelled):
                one.result(20)
    assert until(lambda: set(priorities(desk)) == {0})  # none is used again


def test_long_question_that_finds_no_place_is_told_to_come_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LONG_WAIT_S", 0.5)
    monkeypatch.setattr(pools, "WAIT_S", 20.0)
    cancels = [Cancel() for _ in range(4)]
    ends: list[Exception] = []

    def ask(cancel: Cancel) -> None:
        try:
            desk.ask(SLOW, cancel=cancel)
        except (QueryCancelled, QueueFull) as error:
            ends.append(error)

    with ThreadPoolExecutor(4) as threads:
        endless = [threads.submit(ask, cancel) for cancel in cancels]
        assert until(lambda: desk.pool.stats().busy == 4)
        desk.ask(POINT.format(1))
        assert until(lambda: len(ends) == 1)
        for cancel in cancels:
            cancel.set()
        for one in endless:
            one.result(20)
    assert [type(end) for end in ends] == [QueueFull] + [QueryCancelled] * 3
