"""Who has to make way for whom in a pool: short questions for nobody, long ones for those that wait. Pure.

How long a question will take is not known before it runs, so each one begins as a short one. It is long when it has
used the CPU for `CPU_S` or held its place for `PLACE_S`; after half of that, where its asker has asked a long one
within the last minute. Long questions leave the CPU to the others, and hold at most
half of the places while somebody waits: the one above that which has lost the least gives its place up, waits among the
long ones, and is run again from its beginning. That happens to a question once.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol, TypeVar

CPU_S: Final = 0.1  # ten times what a question about some blocks takes, four times what a new process takes
PLACE_S: Final = 0.25  # waiting for a store, or for a CPU that others use
EXPECTED: Final = 0.5  # of both, for a question that was expected to be long
MOST_KEPT: Final = 2  # with one, sixteen people who ask beside attackers waited for each other
LONG_WAIT_S: Final = 20.0  # that a question waits among the long ones; with its own 60 s less than clients wait
LONG_WAITING: Final = 16  # questions in that queue; each holds a thread of the service


class Running(Protocol):
    """A question that holds a process.

    `leased_at` is since when, `cpu_s` how much CPU it has used; `long`: it began among the long ones; `expected`: it
    was expected to be one; `displaced`: it is giving its place up.
    """

    @property
    def leased_at(self) -> float: ...
    @property
    def cpu_s(self) -> float: ...
    @property
    def long(self) -> bool: ...
    @property
    def expected(self) -> bool: ...
    @property
    def displaced(self) -> bool: ...


R = TypeVar("R", bound=Running)


def most_long(size: int) -> int:
    """Return how many of `size` places long questions may hold while somebody waits."""
    return max(1, size // 2)


def most_kept(size: int) -> int:
    """Return how many of `size` places may be kept for some: beside the long questions one is left for all."""
    return min(MOST_KEPT, max(0, size - most_long(size) - 1))


def is_long(one: Running, now: float) -> bool:
    """Say whether a question makes way for short ones."""
    return _is_long(one, now, patience(one))


def is_long_for_all(one: Running, now: float) -> bool:
    """Say whether a question is long whatever was expected of it."""
    return _is_long(one, now, 1.0)


def patience(one: Running) -> float:
    """Return the share of CPU_S and PLACE_S that a short question may use."""
    return EXPECTED if one.expected else 1.0


def _is_long(one: Running, now: float, share: float) -> bool:
    held = now - one.leased_at
    return one.long or held >= PLACE_S * share or (held >= CPU_S * share / 2 and one.cpu_s >= CPU_S * share)


def has_room(running: Collection[Running], *, size: int, kept: int, long: bool, now: float) -> bool:
    """Say whether one more question may run; a long one only beside few enough of its kind.

    `kept`: so many places stay free for others.
    """
    if len(running) >= size - kept:
        return False
    return not long or sum(is_long(one, now) for one in running) < most_long(size)


def victims(running: Collection[R], *, waiting: int, size: int, kept: int, now: float) -> Sequence[R]:
    """Return which questions give way to so many short ones that wait, the one that ran for the shortest time first.

    `kept`: so many places stay free for others than those that wait.
    """
    free = size - kept - len(running)
    leaving = sum(one.displaced for one in running)
    long = [one for one in running if is_long(one, now) and not one.displaced]
    above = len(long) - most_long(size)
    first_time = sorted((one for one in long if not one.long), key=lambda one: one.leased_at, reverse=True)
    return first_time[: max(0, min(above, waiting - free - leaving))]


def next_look(running: Collection[Running], now: float) -> float | None:
    """Return in how many seconds a question may have become long; None when none can."""
    short = [(one.leased_at - now, patience(one)) for one in running if not is_long(one, now)]
    looks = (min(max(0.0, began) + CPU_S * share / 2, began + PLACE_S * share) for began, share in short)
    return min(looks, default=None)
