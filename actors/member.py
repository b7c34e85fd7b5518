"""One worker as the Dispatcher remembers it."""

from dataclasses import dataclass, field

from actors.handles import WorkerHandle
from trace_ray.contracts import AttemptKey, WorkerId


@dataclass(slots=True)
class Member:
    """One worker. `ready` once it has answered; `heard_at` is monotonic. `retiring`: it runs the code of another build,
    or its place is gone, so it gets no more leases and is replaced, or goes, once it holds nothing. `same_build`: it is
    known to run ours.

    `sent` waits for an awaited call, by its number; `adopted` is asked for, both since an instant; `delivered` outcomes
    are here but still kept by the worker, `committed` ones it may forget.
    """

    worker_id: WorkerId
    handle: WorkerHandle
    ready: bool = False
    retiring: bool = False
    same_build: bool = False
    heard_at: float = 0.0
    sent: dict[int, frozenset[AttemptKey]] = field(default_factory=dict[int, frozenset[AttemptKey]])
    sent_at: dict[int, float] = field(default_factory=dict[int, float])
    adopted: dict[AttemptKey, float] = field(default_factory=dict[AttemptKey, float])
    delivered: set[AttemptKey] = field(default_factory=set[AttemptKey])
    committed: set[AttemptKey] = field(default_factory=set[AttemptKey])

    def attempts(self, *, since: float) -> list[AttemptKey]:
        """Return what runs and was sent after an instant: an attempt that never ends loses its lease."""
        sent = [key for number, keys in self.sent.items() if self.sent_at[number] >= since for key in keys]
        return sent + [key for key, at in self.adopted.items() if at >= since]

    def busy_slots(self) -> int:
        return len(self.sent) + len(self.adopted)

    def expects(self, key: AttemptKey) -> bool:
        """Say whether an awaited call will bring this attempt's outcome."""
        return any(key in keys for keys in self.sent.values())

    def is_done(self) -> bool:
        return not (self.busy_slots() or self.delivered or self.committed)
