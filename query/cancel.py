"""Ends a question from another thread. Pure of sockets: whoever waits says how to be woken."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Cancel(threading.Event):
    """An event that also wakes, at once, whoever works for the question."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._wakes: list[Callable[[], None]] = []

    def set(self) -> None:
        """End the question. May be called from any thread, at any time, and more than once."""
        with self._lock:
            super().set()
            for wake in self._wakes:
                wake()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Generator[None]:
        """Have `wake` called when set inside the block, or at once when it is set already.

        `wake` must be quick and take no lock that a caller of `set` may hold. After the block it is never called.
        """
        with self._lock:
            self._wakes.append(wake)
            if self.is_set():
                wake()
        try:
            yield
        finally:
            with self._lock:
                self._wakes.remove(wake)
