"""What a backtest found, and what two versions of a bundle make of the same blocks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trace_ray.alerts import Draft, OutcomeKind, Rule
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.contracts import BlockRange


@dataclass(frozen=True, slots=True)
class Seen:
    """An event without its content: `digest` tells whether two are equal."""

    dedupe_key: str
    block_number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """How one evaluation ended. `events` are all, in the order of their emission; `drafts` the first of them, whole."""

    blocks: BlockRange
    outcome: OutcomeKind
    detail: str
    log: str
    seconds: float
    events: tuple[Seen, ...] = ()
    drafts: tuple[Draft, ...] = ()

    @property
    def good(self) -> bool:
        return self.outcome is OutcomeKind.OK


@dataclass(frozen=True, slots=True)
class Tried:
    """One version of a bundle and the ends of its evaluations, in order of their blocks."""

    bundle: PushedBundle
    ended: tuple[Ended, ...]

    @property
    def failed(self) -> list[Ended]:
        return [one for one in self.ended if not one.good]


@dataclass(frozen=True, slots=True)
class Report:
    """A backtest: of the rule's own version first, then of the one it is compared with, if any."""

    rule: Rule
    snapshot: int
    planned: int
    tried: tuple[Tried, ...]
    shown: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What two versions make of the same blocks, by dedupe_key; `changed` has both contents, in that order."""

    only_here: tuple[Seen, ...]
    only_there: tuple[Seen, ...]
    changed: tuple[tuple[Seen, Seen], ...]


def difference(here: Sequence[Ended], there: Sequence[Ended]) -> Difference:
    """Compare the events of those evaluations that ended well in both."""
    both = {one.blocks for one in here if one.good} & {one.blocks for one in there if one.good}
    mine, others = distinct(here, both), distinct(there, both)
    return Difference(
        only_here=tuple(one for key, one in mine.items() if key not in others),
        only_there=tuple(one for key, one in others.items() if key not in mine),
        changed=tuple(
            (one, others[key]) for key, one in mine.items() if key in others and others[key].digest != one.digest
        ),
    )


def distinct(ended: Sequence[Ended], among: set[BlockRange] | None = None) -> dict[str, Seen]:
    """Return the events by dedupe_key in order of their blocks: of one key the first content counts, as in the sink."""
    found: dict[str, Seen] = {}
    for one in ended:
        if among is None or one.blocks in among:
            for event in one.events:
                found.setdefault(event.dedupe_key, event)
    return found
