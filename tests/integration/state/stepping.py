"""Runs transactions on several connections step by step, so that a test decides how they interleave."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

from state.db import Connection
from tests.integration.state.doom import at_each_exchange

LOOK_S: Final = 0.001
STEP_S: Final = 10.0  # no step takes this long: the test hangs instead of passing by luck
ALL: Final = 1000  # permits: run to the end


class Stepped(threading.Thread):
    """Does `work` on a connection; each `step` lets it speak to the server once more, BEGIN and COMMIT included."""

    def __init__(self, conn: Connection, work: Callable[[], object], witness: Connection) -> None:
        super().__init__()
        self._conn = conn
        self._work = work
        self._witness = witness
        self._permits = threading.Semaphore(0)
        self._waits = threading.Event()
        self.blocked = False  # it had to wait for a lock at least once
        self.exchanges = 0
        self.result: object = None
        self.error: BaseException | None = None
        self.start()
        self._settle()

    def run(self) -> None:
        try:
            with at_each_exchange(self._conn, self._gate):
                self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`, in the test's thread
            self.error = error
        self._waits.set()

    def _gate(self) -> None:
        self._waits.set()
        self._permits.acquire()
        self._waits.clear()
        self.exchanges += 1

    def step(self) -> None:
        """Let it speak once; return when it was answered, when it waits for a lock, or at its end."""
        self._waits.clear()
        self._permits.release()
        self._settle()

    def _settle(self) -> None:
        for _ in range(int(STEP_S / LOOK_S)):
            if self._waits.wait(LOOK_S) or not self.is_alive():
                return
            if self._waits_for_lock():
                self.blocked = True
                return
        raise TimeoutError("a step does not end")

    def _waits_for_lock(self) -> bool:
        row = self._witness.execute(
            b"SELECT wait_event_type = 'Lock' AS yes FROM pg_stat_activity WHERE pid = %s::int",
            (self._conn.info.backend_pid,),
        ).fetchone()
        return row is not None and bool(row["yes"])

    def let_go(self) -> None:
        """Let it run to its end."""
        self._permits.release(ALL)

    def finish(self) -> Any:
        """Return the result of the work, or raise its error."""
        self.join(STEP_S)
        if self.error is not None:
            raise self.error
        if self.is_alive():
            raise TimeoutError("a transaction does not end")
        return self.result


def interleavings(first: int, second: int, *, most: int = 120) -> Iterator[Sequence[int]]:
    """Return the orders of `first` steps of runner 0 and `second` steps of runner 1: all, or as many seeded ones."""
    steps = range(first + second)
    chosen = list(combinations(steps, second))
    if len(chosen) > most:
        chosen = random.Random(first).sample(chosen, most)
    for places in chosen:
        yield [1 if place in places else 0 for place in steps]
