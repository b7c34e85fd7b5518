"""Fair shares: who has held the places of a pool of late, and whose questions were long. Knows no clock and no lock.

What somebody held counts half after HALF_LIFE_S, a quarter after twice that, as in the decay-usage schedulers of time
sharing systems (Hellerstein, "Achieving Service Rate Objectives with Decay Usage Scheduling", 1993). Whoever asked a
long question is expected to ask another for EXPECTED_S; whoever got ESTABLISHED short ones answered in a row, a short
one.
"""

from collections import Counter
from typing import Final

from trace_ray.contracts import OrgId

HALF_LIFE_S: Final = 10.0
EXPECTED_S: Final = 60.0
ESTABLISHED: Final = 10  # a stranger's first question may be anything; refused ones cost nothing and prove nothing
FORGOTTEN_S: Final = 0.001  # below it nobody is counted any more: ten half-lives after one second

Asker = tuple[OrgId, str]


class Shares:
    """The decayed seconds of each asker."""

    def __init__(self) -> None:
        self._held: dict[Asker, tuple[float, float]] = {}  # seconds at a time; whoever was charged last is at the end
        self._long: dict[Asker, float] = {}  # until when; in this order
        self._short: Counter[Asker] = Counter()  # answered in a row, of those who are counted

    def __len__(self) -> int:
        return len(self._held)

    def charge(self, asker: Asker, seconds: float, now: float, *, long: bool, answered: bool) -> None:
        """Count what an asker has just held, with a question that was long or not, and got all its rows or not."""
        self._held[asker] = (_left(self._held.pop(asker, (0.0, now)), now) + seconds, now)
        while _left(oldest := next(iter(self._held.values())), now) < FORGOTTEN_S and oldest[1] < now:
            forgotten = next(iter(self._held))
            del self._held[forgotten], self._short[forgotten]
        self._short[asker] = 0 if long else self._short[asker] + answered
        if long:
            self._long.pop(asker, None)
            self._long[asker] = now + EXPECTED_S
        while self._long and next(iter(self._long.values())) < now:
            self._long.pop(next(iter(self._long)))

    def of(self, asker: Asker, now: float) -> float:
        """Return the seconds that still count against an asker; of one who is not known, what counts against others."""
        held = self._held.get(asker)
        return self._mean(now) if held is None else _left(held, now)

    def expects_long(self, asker: Asker, now: float) -> bool:
        """Say whether an asker has asked a long question of late."""
        return self._long.get(asker, now) > now

    def expects_short(self, asker: Asker, now: float) -> bool:
        """Say whether an asker got enough answers of late, and asked nothing long."""
        return self._short[asker] >= ESTABLISHED and not self.expects_long(asker, now)

    def has_short(self, now: float) -> bool:
        """Say whether there is anybody of whom a short question is expected."""
        return any(self.expects_short(asker, now) for asker in self._held)

    def _mean(self, now: float) -> float:
        return sum(_left(held, now) for held in self._held.values()) / max(1, len(self._held))


def _left(held: tuple[float, float], now: float) -> float:
    seconds, at = held
    return seconds * 0.5 ** (max(0.0, now - at) / HALF_LIFE_S)
