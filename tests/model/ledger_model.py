"""The rules of the ledger in memory: what must be true of tasks, attempts, budgets and cursors, and nothing of SQL.

One stream; leases expire when they are told to; whatever waits is due at once. Numbers are those of the tests' policy.
"""

from dataclasses import dataclass, field

MAX_FAILURES = 3  # bad attempts before a range is dead
MAX_INFRA_FAILURES = 3  # lost workers before it is


@dataclass
class Task:
    """One range. `holder` is the attempt whose token still counts, or None; `due` orders what is queued."""

    start: int
    due: int
    state: str = "queued"
    attempt: int = 0
    holder: int | None = None
    worker: str | None = None
    expired: bool = False
    failures: int = 0
    infra_failures: int = 0
    outcomes: list[str | None] = field(default_factory=list[str | None])

    def end(self, outcome: str) -> None:
        """The newest attempt is over; it keeps its token unless the caller takes it."""
        self.outcomes[-1] = outcome
        self.worker, self.expired = None, False


@dataclass
class Ledger:
    """A job over blocks [0, target) in ranges of `chunk`; at most `max_inflight` are open."""

    target: int
    chunk: int
    max_inflight: int
    cursor: int = 0
    epoch: int = 1
    enabled: bool = True
    clock: int = 0
    tasks: dict[int, Task] = field(default_factory=dict[int, Task])

    def plan(self) -> int:
        self.clock += 1
        planned = 0
        while self.enabled and self.cursor < self.target and self._open() < self.max_inflight:
            self.tasks[self.cursor] = Task(self.cursor, self.clock)
            self.cursor = min(self.cursor + self.chunk, self.target)
            planned += 1
        return planned

    def claim(self, worker: str, slots: int) -> list[int]:
        """Return the starts of the ranges that were leased, in order."""
        queued = [task for task in self.tasks.values() if task.state == "queued" and self.enabled]
        taken = sorted(queued, key=lambda task: (task.due, task.start))[:slots]
        for task in taken:
            task.attempt += 1
            task.state, task.holder, task.worker, task.expired = "running", task.attempt, worker, False
            task.outcomes.append(None)
        return [task.start for task in taken]

    def refusal(self, start: int, attempt: int, *, forged: bool) -> str | None:
        """Why an attempt may not finish: the first rule that applies, or None when it holds its task."""
        task = self.tasks[start]
        if task.state == "succeeded" and task.attempt == attempt and not forged:
            return "already_done"
        if task.state == "cancelled":
            return "cancelled"
        if task.attempt != attempt:
            return "stale_attempt"
        if forged:
            return "wrong_token"
        if task.state == "dead":
            return "dead"
        return None if task.holder == attempt else "stale_attempt"

    def complete(self, start: int, attempt: int, *, forged: bool, fits: bool) -> str | None:
        """Publish; return the reason of a refusal. An offer that does not fit its task counts as a failed attempt."""
        if (reason := self.refusal(start, attempt, forged=forged)) is not None:
            return reason
        if not fits:
            self.fail(start, attempt, forged=forged, retryable=True, infra=False)
            return "mismatch"
        task = self.tasks[start]
        task.end("succeeded")
        task.state, task.holder = "succeeded", None
        return None

    def fail(self, start: int, attempt: int, *, forged: bool, retryable: bool, infra: bool) -> str | None:
        self.clock += 1
        if (reason := self.refusal(start, attempt, forged=forged)) is not None:
            return reason
        task = self.tasks[start]
        task.failures, task.infra_failures = task.failures + (not infra), task.infra_failures + infra
        task.end("failed")
        task.holder, task.due = None, self.clock
        spent = task.infra_failures >= MAX_INFRA_FAILURES if infra else task.failures >= MAX_FAILURES
        task.state = "dead" if spent or not retryable else "queued"
        return None

    def renew(self, start: int, attempt: int, *, forged: bool) -> bool:
        """A heartbeat: renews a running lease, also one that has expired and was not taken back yet."""
        task = self.tasks[start]
        held = task.state == "running" and task.attempt == attempt and not forged
        task.expired = task.expired and not held
        return held

    def expire(self, start: int) -> None:
        task = self.tasks[start]
        task.expired = task.state == "running"

    def reap(self) -> int:
        """Expired leases go back, and keep their token: a late reply is welcome until the next claim."""
        self.clock += 1
        late = [task for task in self.tasks.values() if task.state == "running" and task.expired]
        for task in late:
            self._lose(task, "expired")
        return len(late)

    def free(self, worker: str) -> int:
        """What a dead worker held goes back at once, and its tokens die with it."""
        self.clock += 1
        lost = [task for task in self.tasks.values() if task.state == "running" and task.worker == worker]
        for task in lost:
            self._lose(task, "released")
            task.holder = None
        return len(lost)

    def adopt(self, worker: str, start: int, attempt: int) -> bool:
        """A new term takes over what a living worker holds, also when it was taken back and not given away again."""
        task = self.tasks[start]
        if task.state not in ("running", "queued") or task.holder != attempt or task.attempt != attempt:
            return False
        task.state, task.worker, task.expired, task.outcomes[-1] = "running", worker, False, None
        return True

    def cancel(self, start: int) -> bool:
        task = self.tasks[start]
        if task.state not in ("queued", "running"):
            return False
        if task.outcomes and task.outcomes[-1] is None:
            task.outcomes[-1] = "cancelled"
        task.state, task.holder, task.worker, task.expired = "cancelled", None, None, False
        return True

    def replay(self) -> int:
        """Dead and cancelled ranges go back with fresh budgets; their old attempts stay refused."""
        self.clock += 1
        back = [task for task in self.tasks.values() if task.state in ("dead", "cancelled")]
        for task in back:
            task.state, task.failures, task.infra_failures, task.holder, task.due = "queued", 0, 0, None, self.clock
        return len(back)

    def _open(self) -> int:
        return sum(task.state in ("queued", "running") for task in self.tasks.values())

    def _lose(self, task: Task, outcome: str) -> None:
        task.infra_failures += 1
        task.end(outcome)
        task.due = self.clock
        task.state = "dead" if task.infra_failures >= MAX_INFRA_FAILURES else "queued"
