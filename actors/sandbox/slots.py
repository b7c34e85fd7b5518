"""How many sandboxes a machine runs at once, and the uid of each: one slot, held by one sandbox of one process."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_UID: Final = 200_000
SELF_TEST: Final = 10_000  # its slots are others: it says how the walls stand, also while all sandboxes are busy
WAIT_STEP_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Slot:
    """`uid` is the sandbox's own uid on the host when we are root, else None: then it is ours."""

    number: int
    uid: int | None
    _lock: socket.socket

    def release(self) -> None:
        self._lock.close()


class Slots:
    """The slots of this machine. A bound abstract socket holds one: the kernel lets go of it when its holder dies."""

    def __init__(self, count: int, *, first: int = 0) -> None:
        """Args: first: number of the first; two installations with separate ranges do not take each other's slots."""
        self.count = count
        self._first = first
        self._next = 0
        self._guard = threading.Lock()

    def take(self) -> Slot | None:
        """Return a free slot, or None."""
        with self._guard:
            start, self._next = self._next, (self._next + 1) % self.count
        for step in range(self.count):
            number = self._first + (start + step) % self.count
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                lock.bind(f"\0trace-ray-sandbox/{os.geteuid()}/{number}")
            except OSError:
                lock.close()
                continue
            return Slot(number, FIRST_UID + number if os.geteuid() == 0 else None, lock)
        return None

    def take_but_one(self) -> Slot | None:
        """Return a free slot if another one stays free: what merely waits must not keep out what runs."""
        slot, spare = self.take(), self.take()
        if spare is None:
            if slot is not None:
                slot.release()
            return None
        spare.release()
        return slot

    def wait(self, seconds: float, cancelled: Callable[[], bool]) -> Slot | None:
        """Return a slot as soon as one is free; None after so long, or when nobody wants it any more."""
        deadline = time.monotonic() + seconds
        while (slot := self.take()) is None:
            if time.monotonic() > deadline or cancelled():
                return None
            time.sleep(WAIT_STEP_S)
        return slot


def possible(memory: int) -> int:
    """Return how many sandboxes with so many bytes of memory each this machine holds: at most two per processor."""
    with contextlib.suppress(ValueError, OSError):
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(1, min(2 * (os.cpu_count() or 1), machine // memory))
    return 1
