"""The queue of a pool: who may stand in it, and who comes next. Every method is called with the pool's lock held.

Next is the organisation with the fewest running questions; within it the asker who has held places for the shortest
time of late; then whoever came first. The last free places are for those who got some answers of late, and asked
nothing long, if there are any. Whoever is new comes in the middle of those who are known.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from query import lanes
from query.process import Child
from query.refusals import QueueFull
from query.shares import Shares
from query.tickets import Ticket

NEW_PROCESS_S: Final = 0.05  # charged to who leaves a process that serves nobody else


class Queue:
    """What waits for a place in one pool."""

    def __init__(self, running: Collection[Child], *, size: int, most: int) -> None:
        """Begin empty; `running` is the pool's own and changes with it."""
        self._running = running
        self._size = size
        self._most = most
        self._tickets: list[Ticket] = []
        self._shares = Shares()

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets))

    def enter(self, ticket: Ticket) -> None:
        """Stand in the queue. Raises QueueFull when it is, or half of it is the organisation's own."""
        alike = [other for other in self._tickets if other.long == ticket.long]
        theirs = sum(other.org_id == ticket.org_id for other in alike)
        most = lanes.LONG_WAITING if ticket.long else self._most
        if len(alike) >= most or theirs >= max(1, most // 2):
            raise QueueFull("too many questions are waiting: ask again in a few seconds")
        self._tickets.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def fail_all(self) -> None:
        """Tell everybody that there will be no place."""
        for ticket in self._tickets:
            ticket.failed = True
            ticket.granted.set()
        self._tickets.clear()

    def in_order(self, now: float) -> Sequence[Ticket]:
        """Return whom to serve, the next one first."""
        running = Counter(child.org_id for child in self._running)
        return sorted(self._tickets, key=lambda ticket: (running[ticket.org_id], self._held(ticket, now)))

    def expects_long(self, ticket: Ticket, now: float) -> bool:
        """Say whether an asker has asked a long question of late."""
        return self._shares.expects_long(ticket.asker, now)

    def has_room(self, ticket: Ticket, now: float) -> bool:
        """Say whether one more place may be taken, by this one."""
        kept = self._kept([ticket], now)
        return lanes.has_room(self._running, size=self._size, kept=kept, long=ticket.long, now=now)

    def victims(self, now: float) -> Sequence[Child]:
        """Return which running questions have to make way."""
        short = [ticket for ticket in self._tickets if not ticket.long]
        kept = self._kept(short, now)
        return lanes.victims(self._running, waiting=len(short), size=self._size, kept=kept, now=now)

    def charge(self, child: Child, now: float) -> None:
        """Count the place that a question has just given back."""
        seconds = max(0.0, now - child.leased_at) + (NEW_PROCESS_S if child.spent or child.slowed else 0.0)
        if child.asker is not None:
            long = lanes.is_long_for_all(child, now)
            self._shares.charge(child.asker, seconds, now, long=long, answered=child.answered)

    def _held(self, ticket: Ticket, now: float) -> float:
        mine = [child for child in self._running if child.asker == ticket.asker]
        return self._shares.of(ticket.asker, now) + sum(max(0.0, now - child.leased_at) for child in mine)

    def _kept(self, tickets: Sequence[Ticket], now: float) -> int:
        """Return how many free places are not for these."""
        if not tickets or any(self._shares.expects_short(ticket.asker, now) for ticket in tickets):
            return 0
        return lanes.most_kept(self._size) if self._shares.has_short(now) else 0
