"""What a predicate says about the blocks of columns. Pure. Ranges are end-exclusive.

Only what is certain is said: conjuncts that compare a column with integer constants, or two columns with each other.
A column here is one that certainly holds the `block_number` of a granted relation, so comparisons are exact.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from query.verdict import EVERYTHING, LAST, Json
from trace_ray.contracts import BlockRange, by_range

Ranges = tuple[BlockRange, ...]
Term = tuple[int, str]  # the number of a source of a FROM, and the name of one of its columns

MAX_RANGES: Final = 64  # an IN list with more points is taken as one range around them
INTEGERS: Final = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
                             "HUGEINT"})  # fmt: skip
WIDE: Final = frozenset({"BIGINT", "UBIGINT", "HUGEINT"})  # a cast of the column to these keeps every value
MIRRORED: Final = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for a row that matters: blocks of columns, and columns that are equal. None of these is NULL."""

    ranges: Mapping[Term, Ranges]
    equal: tuple[tuple[Term, Term], ...] = ()

    def and_also(self, other: "Facts") -> "Facts":
        ranges = dict(self.ranges)
        for term, blocks in other.ranges.items():
            ranges[term] = intersection(ranges.get(term, EVERYTHING), blocks)
        return Facts(ranges, tuple(dict.fromkeys(self.equal + other.equal)))

    def concern(self, sources: Collection[int]) -> bool:
        """Say whether a row must have a value, not NULL, in a column of one of the sources."""
        return any(number in sources for number, _ in (*self.ranges, *(term for pair in self.equal for term in pair)))

    def of(self, term: Term, known: Mapping[Term, Ranges]) -> Ranges | None:
        """Return the blocks that a column can hold, or None when nothing is said, so that it may also be NULL.

        Args:
            known: Blocks that columns can hold wherever they are not NULL.
        """
        same, waiting = {term}, [term]
        while waiting:
            one = waiting.pop()
            for pair in self.equal:
                fresh = {*pair} - same if one in pair else set[Term]()
                same |= fresh
                waiting.extend(fresh)
        if len(same) == 1 and term not in self.ranges:
            return None
        ranges = EVERYTHING
        for one in same:
            ranges = intersection(ranges, self.ranges.get(one, EVERYTHING))
            ranges = intersection(ranges, known.get(one, EVERYTHING))
        return ranges


NOTHING: Final = Facts({})


@dataclass(frozen=True, slots=True)
class Reading:
    """How names in a predicate are read: a column's parts -> its term; a subquery -> blocks of its only column."""

    term: Callable[[tuple[str, ...]], Term | None]
    members: Callable[[Json], Ranges]


def facts(predicate: Json, reading: Reading) -> Facts:
    """Return what is certain of the rows for which a predicate is true."""
    if not isinstance(predicate, dict):
        return NOTHING
    kind, children = predicate.get("type"), predicate.get("children")
    if kind in MIRRORED:
        return _compared(str(kind), predicate.get("left"), predicate.get("right"), reading)
    if kind == "COMPARE_BETWEEN":
        return _between(predicate, reading)
    if kind == "SUBQUERY":
        return _member(predicate, reading)
    if not isinstance(children, list) or not children:
        return NOTHING
    if kind == "CONJUNCTION_AND":
        found = NOTHING
        for child in children:
            found = found.and_also(facts(child, reading))
        return found
    if kind == "CONJUNCTION_OR":
        return _either([facts(child, reading) for child in children])
    if kind == "COMPARE_IN":
        return _listed(children[0], children[1:], reading)
    return NOTHING


def _either(branches: list[Facts]) -> Facts:
    """Each branch must say something of a column; what is equal in one of them only says nothing."""
    shared = [term for term in branches[0].ranges if all(term in branch.ranges for branch in branches)]
    return Facts({term: union(blocks for branch in branches for blocks in branch.ranges[term]) for term in shared})


def _compared(kind: str, left: Json, right: Json, reading: Reading) -> Facts:
    one, other = column(left, reading), column(right, reading)
    if one is not None and other is not None:
        return Facts({}, ((one, other),)) if kind == "COMPARE_EQUAL" else NOTHING
    if one is None:
        kind, one, right = MIRRORED[kind], other, left
    value = _integer(right)
    return NOTHING if value is None or one is None else Facts({one: _beside(kind, value)})


def _beside(kind: str, value: int) -> Ranges:
    match kind:
        case "COMPARE_EQUAL":
            return span(value, value + 1)
        case "COMPARE_LESSTHAN":
            return span(0, value)
        case "COMPARE_LESSTHANOREQUALTO":
            return span(0, value + 1)
        case "COMPARE_GREATERTHAN":
            return span(value + 1, LAST)
        case _:
            return span(value, LAST)


def _between(predicate: Mapping[str, Json], reading: Reading) -> Facts:
    term = column(predicate.get("input"), reading)
    if term is None:
        return NOTHING
    lower, upper = _integer(predicate.get("lower")), _integer(predicate.get("upper"))
    return Facts({term: span(0 if lower is None else lower, LAST if upper is None else upper + 1)})


def _listed(value: Json, items: list[Json], reading: Reading) -> Facts:
    term, points = column(value, reading), [_integer(item) for item in items]
    if term is None or None in points:
        return NOTHING
    return Facts({term: union(blocks for point in points if point is not None for blocks in span(point, point + 1))})


def _member(predicate: Mapping[str, Json], reading: Reading) -> Facts:
    """`column in (select ...)`, which the engine writes as `column = any(...)`."""
    if predicate.get("subquery_type") != "ANY" or predicate.get("comparison_type") != "COMPARE_EQUAL":
        return NOTHING
    term = column(predicate.get("child"), reading)
    return NOTHING if term is None else Facts({term: reading.members(predicate.get("subquery"))})


def column(value: Json, reading: Reading) -> Term | None:
    """Return the column that an expression is, through casts that cannot change it."""
    if not isinstance(value, dict):
        return None
    if value.get("class") == "CAST" and _casts_to(value, WIDE):
        return column(value.get("child"), reading)
    listed = value.get("column_names")
    if value.get("class") != "COLUMN_REF" or not isinstance(listed, list):
        return None
    return reading.term(tuple(str(part).lower() for part in listed))


def _integer(value: Json) -> int | None:
    """Return the value of an integer constant, through casts that cannot change it."""
    if not isinstance(value, dict):
        return None
    if value.get("class") == "CAST" and _casts_to(value, INTEGERS):
        return _integer(value.get("child"))
    constant = value.get("value")
    if value.get("class") != "CONSTANT" or not isinstance(constant, dict):
        return None
    kind, number = constant.get("type"), constant.get("value")
    if not isinstance(kind, dict) or kind.get("id") not in INTEGERS:
        return None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _casts_to(value: Mapping[str, Json], types: frozenset[str]) -> bool:
    cast_type = value.get("cast_type")
    return isinstance(cast_type, dict) and cast_type.get("id") in types and value.get("try_cast") is False


# --- arithmetic of ranges -----------------------------------------------------------------------------------------


def span(start: int, end: int) -> Ranges:
    """Return the blocks from `start` up to `end` that can exist; maybe none."""
    start, end = max(0, start), min(LAST, end)
    return (BlockRange(start, end),) if start < end else ()


def union(ranges: Iterable[BlockRange]) -> Ranges:
    joined = by_range(list(ranges))
    return joined if len(joined) <= MAX_RANGES else (BlockRange(joined[0].start, joined[-1].end),)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    if left is EVERYTHING or right is EVERYTHING:
        return right if left is EVERYTHING else left
    return union(BlockRange(max(a.start, b.start), min(a.end, b.end)) for a in left for b in right if a.overlaps(b))
