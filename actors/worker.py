"""Runs leases and remembers what it holds. Never touches a ledger; the Dispatcher judges and commits.

An outcome stays here until the Dispatcher acknowledges it: a Dispatcher that restarts asks `held()` and so learns of
work that is still running and of results that its predecessor never received. Nothing is run twice for that reason.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actors.orders import Group, Result
from trace_ray.contracts import AttemptKey, WorkerId

G = TypeVar("G", bound=Group)

Operator = Callable[[G], Sequence[Result]]


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker holds: attempts that run, and outcomes that nobody has acknowledged."""

    worker_id: WorkerId
    running: tuple[AttemptKey, ...]
    finished: tuple[Result, ...]


class Worker(Generic[G]):
    """One process of the pool. `run` may be called from several threads, one per slot."""

    def __init__(self, worker_id: WorkerId, operator: Operator[G]) -> None:
        self._worker_id = worker_id
        self._operator = operator
        self._lock = threading.Lock()
        self._running: set[AttemptKey] = set()
        self._finished: dict[AttemptKey, Result] = {}

    def run(self, groups: Sequence[G]) -> list[Result]:
        """Run the groups one after another; one outcome per lease, in order. Ordinary failures are outcomes."""
        keys = [lease.key for group in groups for lease in group.leases]
        with self._lock:
            self._running.update(keys)
        outcomes: list[Result] = []
        try:
            for group in groups:
                done = self._operator(group)
                outcomes += done
                with self._lock:
                    self._running.difference_update(outcome.attempt for outcome in done)
                    self._finished.update((outcome.attempt, outcome) for outcome in done)
        finally:
            with self._lock:
                self._running.difference_update(keys)
        return outcomes

    def held(self, acknowledged: Collection[AttemptKey] = ()) -> Held:
        """Forget what the Dispatcher has committed, and say what is left."""
        with self._lock:
            for key in acknowledged:
                self._finished.pop(key, None)
            return Held(self._worker_id, tuple(self._running), tuple(self._finished.values()))
