"""Has the long questions of a pool make way for its short ones, as `query.lanes` decides.

A thread of its own, which sleeps while nothing runs that may become long. It shares the pool's lock: every method but
`close` is called with the lock held.
"""

import math
import threading
import time
from collections.abc import Collection

from query import lanes
from query.process import Child
from query.queue import Queue


class Warden:
    """Watches the questions of one pool."""

    def __init__(self, lock: threading.RLock, running: Collection[Child], waiting: Queue) -> None:
        """Begin to watch; `running` and `waiting` are the pool's own and change with it."""
        self.displaced = 0
        self._running = running
        self._waiting = waiting
        self._closed = False
        self._next_look = math.inf
        self._look_now = threading.Condition(lock)
        self._thread = threading.Thread(target=self._watch, name="query-warden", daemon=True)
        self._thread.start()

    def begin(self, child: Child) -> None:
        """Count the time of a question from now on."""
        child.begin()
        if child.leased_at + lanes.CPU_S * lanes.patience(child) / 2 < self._next_look:
            self._look_now.notify()

    def somebody_waits(self) -> None:
        """Look whether a long question has to make way."""
        if any(lanes.is_long(child, time.monotonic()) for child in self._running):
            self._look_now.notify()

    def close(self) -> None:
        with self._look_now:
            self._closed = True
            self._look_now.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._look_now:
            while not self._closed:
                now = time.monotonic()
                self._look(now)
                pause = lanes.next_look(self._running, now)
                self._next_look = math.inf if pause is None else now + pause
                self._look_now.wait(pause)

    def _look(self, now: float) -> None:
        if len(self._running) > 1:  # the only question of a pool may take what it needs
            for child in self._running:
                if lanes.is_long(child, now):
                    child.slow_down()
        for child in self._waiting.victims(now):
            child.displace()
            self.displaced += 1
