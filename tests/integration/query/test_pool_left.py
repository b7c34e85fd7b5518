"""What the end of questions, of workers and of a service leaves behind: nothing."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from query.cancel import Cancel
from query.question import Limits
from query.refusals import (
    QueryTimeout,
    WorkerCrashed,
    WorkerUnavailable,
)
from tests.integration.query.conftest import Store
from tests.integration.query.desk import (
    DEAF,
    POINT,
    SLOW,
    Desk,
    is_dead,
    until,
)
from trace_ray.errors import TraceError


def test_two_hundred_questions_with_faults_leave_nothing(opened: Callable[..., Desk], store: Store) -> None:
    """Good, refused, failing, slow, deaf and cancelled questions at once, while workers are killed under them."""
    desk = opened(size=3, limits=Limits(timeout_s=0.4, grace_s=0.2))
    desk.ask("select 1")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    stop, wrong = threading.Event(), []
    kinds = [
        POINT.format(7), POINT.format(42), "select nosuch from devnet_blocks", "drop table x", SLOW, DEAF,
        "select count(*) as n from devnet_logs where block_number = 3", "select repeat('x', 20000000)",
    ]  # fmt: skip

    def ask(number: int) -> None:
        sql, cancel = kinds[number % len(kinds)], Cancel()
        if number % 13 == 0:
            threading.Timer(0.05, cancel.set).start()
        try:
            rows = desk.ask(sql, cancel=cancel).table.to_pylist()
        except TraceError:
            return
        if sql.startswith("select count") and rows not in ([{"n": 1}], [{"n": 2}]):
            wrong.append((sql, rows))

    def kill() -> None:
        while not stop.wait(0.5):
            for pid in list(desk.workers())[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, range(200)))
    stop.set()
    killer.join()
    assert wrong == []
    assert desk.ask(POINT.format(1)).table.to_pylist() == [{"n": 1}]
    assert until(lambda: len(desk.workers()) <= 4 and desk.pool.stats().busy == 0)
    assert until(lambda: buried(desk))  # who died while it stood by is noticed by the next question
    alive = desk.workers()
    assert until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 4)
    desk.pool.close()
    assert list(store.scratch.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in alive)


def buried(desk: Desk) -> bool:
    """Ask once more, and say whether no worker is dead."""
    with contextlib.suppress(QueryTimeout):  # its limit is a fraction of a second
        desk.ask(POINT.format(1))
    return not any(is_dead(pid) for pid in desk.workers())


def test_worker_that_died_while_it_stood_by_is_buried_by_any_question(opened: Callable[..., Desk]) -> None:
    """It has said that it is confined before, which nobody has read."""
    desk = opened(size=1)
    desk.ask(POINT.format(1))
    (fresh,) = desk.pool._fresh
    assert select.select([fresh._socket], [], [], 10)[0], "its first word is there"
    os.kill(fresh.pid, signal.SIGKILL)
    assert until(lambda: is_dead(fresh.pid))
    desk.ask(POINT.format(2))  # by the worker that is bound
    assert until(lambda: fresh.pid not in desk.workers())


def test_directories_of_a_killed_service_are_swept(store: Store, opened: Callable[..., Desk]) -> None:
    left = store.scratch / "query-left"
    (left / "spill").mkdir(parents=True)
    live = opened()
    assert not left.exists()
    opened()
    assert live.ask("select 1").table.num_rows == 1


def test_pool_that_is_closed_says_so(opened: Callable[..., Desk]) -> None:
    desk = opened()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, SLOW)
        assert until(lambda: desk.pool.stats().busy == 1)
        desk.pool.close()
        with pytest.raises((WorkerCrashed, WorkerUnavailable)):
            asked.result(10)
    with pytest.raises(WorkerUnavailable):
        desk.ask("select 1")
    assert not desk.workers()
