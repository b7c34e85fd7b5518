"""The pool: which worker serves which question, who waits, and when a worker ends.

A worker is fresh (confined and connected), then of one organisation (it has seen a statement), then bound to exact
objects, for good; it never serves another organisation or other objects. `size` questions run at once, and one process
more stands by. A thread of its own (the keeper) starts and buries processes, so that no question waits for that; the
warden has long questions make way for short ones.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from query import confine, lanes
from query.cancel import Cancel
from query.nursery import Nursery
from query.process import Child, Reach
from query.protocol import OutOfTime, ProtocolBroken
from query.question import Limits
from query.queue import Queue
from query.refusals import Displaced, QueryCancelled, QueueFull, WorkerUnavailable
from query.scratch import Scratch
from query.shares import Asker
from query.spawn import START_S
from query.tickets import PoolStats, Ticket
from query.verdicts import Verdicts
from query.warden import Warden

SIZE: Final = 5
WAITING: Final = 64  # questions in the queue; more would only wait in vain
WHOLE: Final = 1000  # objects; about 20 ms to bind, once
WAIT_S: Final = 2.0
ATTEMPTS: Final = 3  # fresh workers that die before they are asked, by an out-of-memory kill for example
MAX_USES: Final = 200
MAX_AGE_S: Final = 300.0  # since it was bound; signed URLs must live as long and for one question more
DYING_S: Final = 0.01
CLOSE_S: Final = 5.0  # for those who lease a worker that is ended to notice
MIB: Final = 1024**2
UNABLE: Final = "a query process cannot be started here: free some memory or disk space, or run `trace-ray doctor`"


class Pool:
    """Workers of one service process. Safe to share between threads; use as a context manager or call `close`."""

    def __init__(
        self,
        *,
        scratch: Path,
        reach: Reach,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        size: int = SIZE,
        standby: bool = True,
        waiting: int = WAITING,
        whole: int = WHOLE,
    ) -> None:
        """Start the pool.

        Args:
            scratch: A directory for what workers spill and for exports; may be shared with other pools.
            reach: What holds the objects of every grant: a directory, or a store.
            standby: Whether processes are started ahead; without it one starts when a question needs it.
            whole: Up to so many objects a worker is bound to all of a grant, so that it can serve every question of
                that grant; above, to the question's datasets, and where these have more, to its objects.

        Raises:
            WorkerUnavailable: there is no room in `scratch`.
        """
        self.limits = limits
        self.size = size
        self.whole = whole
        self.verdicts = Verdicts()
        self._standby = standby
        self._capacity = size + 1 if standby else size
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._fresh: deque[Child] = deque()
        self._idle: list[Child] = []  # the one used last is at the end
        self._busy: set[Child] = set()
        self._waiting = Queue(self._busy, size=size, most=waiting)
        self._dying: deque[Child] = deque()
        self._unable = False
        self._closed = False
        self._started = self._recycled = self._killed = self._refused = 0
        try:
            self._scratch = Scratch(scratch)
        except OSError as error:
            raise WorkerUnavailable(UNABLE) from error
        self._nursery = Nursery(self._scratch, reach, limits)
        self._keeper = threading.Thread(target=self._keep, name="query-keeper", daemon=True)
        self._keeper.start()
        self._warden = Warden(lock, self._busy, self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and remove what they left. Questions that still run fail."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._waiting.fail_all()
            self._changed.notify_all()
        self._warden.close()
        self._keeper.join()
        self._scratch.close()

    def stats(self) -> PoolStats:
        with self._changed:
            return PoolStats(
                busy=len(self._busy),
                idle=len(self._idle),
                fresh=len(self._fresh),
                waiting=len(self._waiting),
                started=self._started,
                recycled=self._recycled,
                killed=self._killed,
                refused=self._refused,
                displaced=self._warden.displaced,
            )

    def fits(self, limits: Limits) -> bool:
        """Say whether these limits ask of a process what those of the pool do."""
        mine = self.limits
        own = replace(
            mine,
            timeout_s=limits.timeout_s,
            grace_s=limits.grace_s,
            rows=limits.rows,
            bytes=limits.bytes,
            export_bytes=limits.export_bytes,
        )
        return own == limits

    def path(self, name: str) -> Path:
        """Return where a file may be that ends with the pool at the latest."""
        return self._scratch.path / name

    # --- leasing --------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(
        self, asker: Asker, key: bytes | None, *, cancel: Cancel | None = None, long: bool = False
    ) -> Generator[Child]:
        """Have a worker for one question: one bound to `key`, or one that may still be bound to it.

        Args:
            asker: Whose organisation the worker is for, and who shares the places with others.
            long: Whether the question has given way before; then it waits among the long ones.

        Raises:
            QueueFull: too many wait, or this one waited too long.
            QueryCancelled
            WorkerUnavailable: no process could be started and confined.
            Displaced: the question has to make way for short ones; ask once more with `long`.
        """
        cancel = cancel or Cancel()
        child = self._living(Ticket(asker, key, long), cancel)
        try:
            with cancel.waking(child.kill):
                yield child
        except (ProtocolBroken, OutOfTime, OSError) as error:
            if child.displaced and not cancel.is_set():
                raise Displaced from error
            raise
        finally:
            self._release(child)

    def _living(self, wanted: Ticket, cancel: Cancel) -> Child:
        """Have a worker that has said HELLO. One that died before costs no question."""
        for _ in range(self._capacity + ATTEMPTS):  # all that stood by may have died at once
            child = self._wait(replace(wanted, granted=threading.Event()), cancel)
            try:
                self._greet(child)
            except (ProtocolBroken, OutOfTime):
                child.kill()
            except BaseException:
                self._release(child)
                raise
            if child.is_sound():
                with self._changed:
                    self._warden.begin(child)
                return child
            self._release(child)
        raise WorkerUnavailable("the query process cannot start: run `trace-ray doctor`")

    def _wait(self, ticket: Ticket, cancel: Cancel) -> Child:
        """Stand in the queue until a worker is granted."""
        with self._changed:
            if self._closed:
                raise WorkerUnavailable("the query service is stopping: ask again in a moment")
            try:
                self._waiting.enter(ticket)
            except QueueFull:
                self._refused += 1
                raise
            self._match()
        with cancel.waking(ticket.granted.set):
            if not ticket.granted.wait(lanes.LONG_WAIT_S if ticket.long else WAIT_S) and self._has_room(ticket):
                ticket.granted.wait(START_S)  # nobody else is in the way: a process is just starting
        with self._changed:
            self._waiting.leave(ticket)
            if ticket.child is not None and not cancel.is_set():
                return ticket.child
            if ticket.child is not None:
                self._give_back(ticket.child)
            self._refused += not cancel.is_set() and not ticket.failed
        if cancel.is_set():
            raise QueryCancelled("the question was cancelled")
        if ticket.failed:
            raise WorkerUnavailable(UNABLE)
        raise QueueFull("every query process is busy: ask again in a few seconds")

    def _has_room(self, ticket: Ticket) -> bool:
        with self._changed:
            return self._waiting.has_room(ticket, time.monotonic())

    def _match(self) -> None:
        """Grant what can be granted, in the order of the queue."""
        while self._waiting and len(self._busy) < self.size:
            for ticket in self._waiting.in_order(time.monotonic()):
                child = self._find(ticket) if self._has_room(ticket) else None
                if child is not None:
                    self._grant(ticket, child)
                    break
            else:
                break
        self._changed.notify_all()
        if self._waiting:
            self._warden.somebody_waits()

    def _grant(self, ticket: Ticket, child: Child) -> None:
        self._waiting.leave(ticket)
        self._busy.add(child)
        child.asker = ticket.asker
        child.leased_at, child.long = time.monotonic() + START_S, ticket.long  # its start may take a while
        child.expected = self._waiting.expects_long(ticket, time.monotonic())
        ticket.child = child
        ticket.granted.set()

    def _find(self, ticket: Ticket) -> Child | None:
        """Take a worker that may serve the ticket out of those that do nothing."""
        choices: tuple[Callable[[Child], bool], ...] = (
            lambda child: child.org_id == ticket.org_id and (ticket.key is None or _key(child) == ticket.key),
            lambda child: child.org_id == ticket.org_id and child.binding is None,
        )
        for fits in choices:
            for child in reversed([child for child in self._idle if fits(child)]):
                self._idle.remove(child)
                if self._is_worn(child) or not child.is_sound():
                    self._retire(child)
                else:
                    return child
        while self._fresh:
            child = self._fresh.popleft()
            if child.is_sound():
                return child
            self._retire(child)
        return None

    def _greet(self, child: Child) -> None:
        """Have a fresh worker say that it is confined. Its start does not count against the question's time."""
        if child.greeted:
            return
        child.deadline = time.monotonic() + START_S
        landlock = child.hello()
        if not confine.is_complete(landlock) and not self.limits.without_landlock:
            child.spent = True
            raise WorkerUnavailable(
                "this kernel cannot confine a query: use Linux 6.7 or newer, or allow it in lite mode"
            )

    def _release(self, child: Child) -> None:
        if child.spent or not child.is_sound():
            child.kill()  # at once: a deadline may have passed, and the keeper may be waiting for another's end
        with self._changed:
            self._give_back(child)

    def _give_back(self, child: Child) -> None:
        self._busy.discard(child)
        self._waiting.charge(child, time.monotonic())
        if child.spent or self._closed or self._is_worn(child):
            self._retire(child)
        else:
            self._idle.append(child)
        self._match()

    def _is_worn(self, child: Child) -> bool:
        aged = child.binding is not None and time.monotonic() > child.bound_at + MAX_AGE_S
        return aged or child.slowed or child.uses >= MAX_USES or child.rss_bytes() > self.limits.rss_mb * MIB

    def _retire(self, child: Child) -> None:
        """Leave a worker to the keeper."""
        self._killed += child.spent
        self._recycled += 1
        self._dying.append(child)
        self._changed.notify_all()

    # --- the keeper -----------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Start and bury until the pool closes. The zygote dies with this thread."""
        while True:
            with self._changed:
                while (task := self._next()) is None:
                    self._changed.wait(self._until_worn())
            if task == self._end:
                break
            task()
        self._end()

    def _next(self) -> Callable[[], None] | None:
        """Return what is to be done, the most urgent first; None while there is nothing."""
        if self._closed:
            return self._end
        for child in [child for child in self._idle if self._is_worn(child) or not child.is_sound()]:
            self._idle.remove(child)
            self._retire(child)
        for child in [child for child in self._fresh if not child.is_sound()]:
            self._fresh.remove(child)
            self._retire(child)
        dying = max(0, len(self._dying) - self.size)  # those that were killed and hold memory: few, but not in the way
        alive = len(self._fresh) + len(self._idle) + len(self._busy) + dying
        wanted = self._standby and not self._unable
        if not self._fresh and (wanted or self._waiting):
            if alive >= self._capacity and self._idle:
                self._retire(self._idle.pop(0))
            elif alive < self._capacity:
                return self._start
        elif wanted and alive < self._capacity:
            return self._start
        return self._bury if self._dying else None

    def _until_worn(self) -> float | None:
        """Return when the oldest idle worker has to end."""
        ages = [child.bound_at for child in self._idle if child.binding is not None]
        return max(0.01, min(ages) + MAX_AGE_S - time.monotonic()) if ages else None

    def _start(self) -> None:
        child = self._nursery.start()
        with self._changed:
            self._unable = child is None
            if child is not None:
                self._started += 1
                self._fresh.append(child)
                self._match()
                return
            self._waiting.fail_all()  # the next question tries again

    def _bury(self) -> None:
        """Bury the first of the dying that has ended; where none has, let a moment pass."""
        with self._changed:
            dying = list(self._dying)
        buried = next((child for child in dying if self._nursery.bury(child)), None)
        with self._changed:
            if buried is None:
                self._changed.wait(DYING_S)
            else:
                self._dying.remove(buried)

    def _end(self) -> None:
        with self._changed:
            for child in self._busy:
                child.kill()  # whoever leases it wakes up and gives it back
            self._changed.wait_for(lambda: not self._busy, CLOSE_S)
            self._dying.extend([*self._fresh, *self._idle, *self._busy])
            self._fresh.clear()
            self._idle.clear()
        give_up = time.monotonic() + CLOSE_S
        while self._dying and time.monotonic() < give_up:
            self._bury()
        self._nursery.close()  # with it ends whatever is left


def _key(child: Child) -> bytes | None:
    return None if child.binding is None else child.binding.key
