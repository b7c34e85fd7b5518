"""What was done to the stack and when: every fault with its wall-clock span, which is also the database's clock."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
RESTART = "up"  # noted, but no fault


@dataclass
class Fault:
    """One fault. `target` names a worker, a provider's answer, a place; `ended` is None while it lasts."""

    kind: str
    began: float
    target: str = ""
    ended: float | None = None

    def touches(self, start: float, end: float) -> bool:
        return self.began <= end and (self.ended is None or self.ended >= start)


@dataclass
class Log:
    """The faults of a run in order; a loud one prints them as they end. Safe to write from several threads."""

    loud: bool = False
    faults: list[Fault] = field(default_factory=list[Fault])
    began: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def fault(self, kind: str, target: str = "") -> Generator[Fault]:
        """Note a fault that lasts as long as the block."""
        fault = self._add(kind, target, None)
        try:
            yield fault
        finally:
            fault.ended = time.time()
            self._tell(fault)

    def note(self, kind: str, target: str = "") -> Fault:
        """Note a fault of an instant."""
        fault = self._add(kind, target, time.time())
        self._tell(fault)
        return fault

    def _add(self, kind: str, target: str, ended: float | None) -> Fault:
        fault = Fault(kind, ended or time.time(), target, ended)
        with self._lock:
            self.faults.append(fault)
        return fault

    def _tell(self, fault: Fault) -> None:
        if self.loud:
            lasted = (fault.ended or fault.began) - fault.began
            print(f"{fault.began - self.began:7.2f} s +{lasted:5.2f}  {fault.kind}  {fault.target}", file=sys.stderr)

    def of(self, *kinds: str) -> list[Fault]:
        with self._lock:
            return [fault for fault in self.faults if fault.kind in kinds]

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(Counter(fault.kind for fault in self.faults if fault.kind != RESTART).items()))

    def lines(self) -> list[dict[str, object]]:
        """Every fault, in seconds since the beginning."""
        with self._lock:
            return [
                {
                    **asdict(fault),
                    "began": round(fault.began - self.began, 3),
                    "ended": None if fault.ended is None else round(fault.ended - self.began, 3),
                }
                for fault in self.faults
            ]


class Deck(Generic[T]):
    """Deals its cards in random order, all of them before any comes again: short runs meet every kind too."""

    def __init__(self, cards: Sequence[T], rng: random.Random) -> None:
        self._cards = list(cards)
        self._rng = rng
        self._left: list[T] = []

    def deal(self) -> T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()
