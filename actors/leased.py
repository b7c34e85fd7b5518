"""Whether an evaluation that runs here still holds its lease, as far as its process can know.

The ledger decides, and speaks through the Dispatcher, which names what was withdrawn. One that has not been heard of
for the time of a lease may have been followed by another one, which gave the evaluation to somebody else.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence

from actors.orders import Evaluated, EvaluationGroup
from trace_ray.contracts import AttemptKey

Operator = Callable[[EvaluationGroup, Callable[[], bool]], Sequence[Evaluated]]


class Leased:
    """Runs evaluations and has those stopped whose lease is lost. Thread-safe."""

    def __init__(self, operator: Operator, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: operator: polls what it is given, and stops its evaluation once that says True."""
        self._operator = operator
        self._clock = clock
        self._lock = threading.Lock()
        self._heard_at = clock()
        self._lost: dict[AttemptKey, bool] = {}

    def run(self, group: EvaluationGroup) -> Sequence[Evaluated]:
        """Run one evaluation until it ends or its lease is lost."""
        key = group.lease.key
        self.heard()
        with self._lock:
            self._lost[key] = False
        try:
            return self._operator(group, lambda: self._is_lost(key, group.lease.ttl_s))
        finally:
            with self._lock:
                del self._lost[key]

    def heard(self) -> None:
        """Note that the Dispatcher has called."""
        self._heard_at = self._clock()

    def withdraw(self, keys: Collection[AttemptKey]) -> None:
        """Stop what runs of these attempts."""
        with self._lock:
            self._lost |= dict.fromkeys(self._lost.keys() & set(keys), True)

    def _is_lost(self, key: AttemptKey, ttl_s: float) -> bool:
        return self._lost[key] or self._clock() - self._heard_at > ttl_s
