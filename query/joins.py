"""How far what is asked of a FROM narrows each source in it. Pure.

A range for a source means: rows of it outside the range can be taken away, whatever else there is, and the answer
stays. Outer joins decide which side a condition may narrow: an ON cannot drop rows of the side that the join preserves,
and what must hold after the join (so is not NULL) turns it into an inner join.
"""

from collections.abc import Callable
from typing import TypeAlias

from query.predicates import NOTHING, Facts, Ranges, Reading, Term, facts
from query.sources import Join, Names, Outer, Part, beside, names_of, term
from query.verdict import Json

Members: TypeAlias = Callable[[Json], Ranges]


def reading(names: Names, outer: Outer, members: Members) -> Reading:
    return Reading(lambda parts: term(parts, names, outer), members)


def narrow(part: Part, wanted: Facts, outer: Outer, members: Members) -> dict[Term, Ranges]:
    """Return the blocks that matter of each column that is certain to be narrowed.

    Args:
        wanted: What holds of every row of this part that matters.
        outer: What is seen around, with the blocks of all columns.
    """
    if not isinstance(part, Join):
        found = {name: wanted.of((part.number, name), outer.known) for name in part.columns.known}
        return {(part.number, name): ranges for name, ranges in found.items() if ranges is not None}
    matched = _condition(part, outer, members).and_also(_holds(part.left)).and_also(_holds(part.right))
    for_left, for_right = _split(part, wanted, matched)
    return {
        **narrow(part.left, for_left, outer, members),
        **narrow(part.right, for_right, outer.below(names_of(part.left)), members),
    }


def established(join: Join, members: Members) -> Facts:
    """Return what holds of every row of a join, whatever is asked of it."""
    left, right = _holds(join.left), _holds(join.right)
    match join.kind:
        case "INNER":
            both = left.and_also(right)
            return both if join.form == "ASOF" else both.and_also(_condition(join, Outer(), members))
        case "LEFT" | "SEMI" | "ANTI":
            return left
        case "RIGHT":
            return right
        case _:
            return NOTHING


def _holds(part: Part) -> Facts:
    return part.holds if isinstance(part, Join) else NOTHING


def _condition(join: Join, outer: Outer, members: Members) -> Facts:
    seen = beside(names_of(join.left), names_of(join.right))
    return facts(join.condition, reading(seen, outer, members)).and_also(Facts({}, join.equal))


def _split(join: Join, wanted: Facts, matched: Facts) -> tuple[Facts, Facts]:
    """Return what holds of the rows of either side that matter; `matched` holds of two rows put together."""
    kind, both = join.kind, wanted.and_also(matched)
    on_left = wanted.concern({source.number for source in names_of(join.left).sources})
    on_right = wanted.concern({source.number for source in names_of(join.right).sources})
    if join.form == "ASOF":  # the right row is the nearest one, which fewer rows would change
        return (wanted, NOTHING) if kind in {"INNER", "LEFT"} else (NOTHING, NOTHING)
    if kind == "FULL":
        kind = {(True, True): "INNER", (True, False): "LEFT", (False, True): "RIGHT"}.get((on_left, on_right), kind)
    match kind:
        case "INNER" | "SEMI":
            return both, both
        case "LEFT":
            return (both if on_right else wanted), both
        case "RIGHT":
            return both, (both if on_left else wanted)
        case "ANTI":
            return wanted, both
        case _:
            return NOTHING, NOTHING
