"""Which blocks a statement can need, and which files hold them. Pure. Ranges are end-exclusive.

A wrong answer here would cost rows, so only what is certain narrows: conjuncts on `block_number` in the WHERE of the
SELECT whose only FROM is the relation itself. All else means every block. The filter itself still runs in the engine.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from query.verdict import EVERYTHING, LAST, Json
from trace_ray.contracts import BlockRange, GrantedFile, by_range

Ranges = tuple[BlockRange, ...]

COLUMN: Final = "block_number"
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


def block_ranges(statement: Json, relations: Mapping[str, str]) -> dict[str, Ranges]:
    """Return, for each granted relation that a judged tree names, the blocks that any reference to it can need.

    Args:
        statement: The query node of a tree that the gate's walk has accepted.
        relations: Granted names by their lower case. A CTE of such a name only widens the answer.
    """
    found: dict[str, list[BlockRange]] = {}
    for name, ranges in _references(statement):
        if name.lower() in relations:
            found.setdefault(relations[name.lower()], []).extend(ranges)
    return {name: by_range(ranges) for name, ranges in found.items()}


def select_files(files: Sequence[GrantedFile], ranges: Ranges) -> list[GrantedFile]:
    """Return the files that can hold blocks of `ranges`; never none, so that a view over them has its columns."""
    starts = [blocks.start for blocks in ranges]

    def needed(file: GrantedFile) -> bool:
        before = bisect_right(starts, file.max_block)  # ranges that start at or before the last block of the file
        return before > 0 and ranges[before - 1].end > file.min_block

    return [file for file in files if needed(file)] or list(files[:1])


# --- references ---------------------------------------------------------------------------------------------------


def _references(value: Json) -> Iterator[tuple[str, Ranges]]:
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
        return
    if not isinstance(value, dict):
        return
    if value.get("type") == "BASE_TABLE" and "class" not in value:
        yield str(value.get("table_name")), EVERYTHING
        return
    source = value.get("from_table")
    alone = value.get("type") == "SELECT_NODE" and _is_plain(source) and "sample" not in value
    if alone and isinstance(source, dict):
        names = {str(source["table_name"]).lower(), str(source.get("alias", source["table_name"])).lower()}
        yield str(source["table_name"]), _ranges(value.get("where_clause"), names)
    for key, content in value.items():
        if not (alone and key == "from_table"):
            yield from _references(content)


def _is_plain(source: Json) -> bool:
    """Say whether a FROM is one relation under its own column names, unsampled: a sample draws before the filter."""
    return (
        isinstance(source, dict)
        and source.get("type") == "BASE_TABLE"
        and "sample" not in source
        and "column_name_alias" not in source
    )


# --- predicates ---------------------------------------------------------------------------------------------------


def _ranges(predicate: Json, names: set[str]) -> Ranges:
    """Return the blocks for which a predicate can be true; everything where that is not certain."""
    if not isinstance(predicate, dict):
        return EVERYTHING
    kind, children = predicate.get("type"), predicate.get("children")
    if kind in MIRRORED:
        return _compared(str(kind), predicate.get("left"), predicate.get("right"), names)
    if kind == "COMPARE_BETWEEN":
        return _between(predicate, names)
    if not isinstance(children, list) or not children:
        return EVERYTHING
    if kind == "CONJUNCTION_AND":
        ranges = EVERYTHING
        for child in children:
            ranges = _intersection(ranges, _ranges(child, names))
        return ranges
    if kind == "CONJUNCTION_OR":
        return _union(blocks for child in children for blocks in _ranges(child, names))
    if kind == "COMPARE_IN" and _is_column(children[0], names):
        points = [_integer(child) for child in children[1:]]
        if None not in points:
            return _union(blocks for point in points if point is not None for blocks in _span(point, point + 1))
    return EVERYTHING


def _compared(kind: str, left: Json, right: Json, names: set[str]) -> Ranges:
    if _is_column(right, names):
        kind, left, right = MIRRORED[kind], right, left
    value = _integer(right)
    if value is None or not _is_column(left, names):
        return EVERYTHING
    match kind:
        case "COMPARE_EQUAL":
            return _span(value, value + 1)
        case "COMPARE_LESSTHAN":
            return _span(0, value)
        case "COMPARE_LESSTHANOREQUALTO":
            return _span(0, value + 1)
        case "COMPARE_GREATERTHAN":
            return _span(value + 1, LAST)
        case _:
            return _span(value, LAST)


def _between(predicate: Mapping[str, Json], names: set[str]) -> Ranges:
    lower, upper = _integer(predicate.get("lower")), _integer(predicate.get("upper"))
    if not _is_column(predicate.get("input"), names):
        return EVERYTHING
    return _span(0 if lower is None else lower, LAST if upper is None else upper + 1)


def _is_column(value: Json, names: set[str]) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("class") == "CAST" and _casts_to(value, WIDE):
        return _is_column(value.get("child"), names)
    listed = value.get("column_names")
    if value.get("class") != "COLUMN_REF" or not isinstance(listed, list):
        return False
    parts = [str(part).lower() for part in listed]
    return parts == [COLUMN] or (len(parts) == len(("relation", COLUMN)) and parts[1] == COLUMN and parts[0] in names)


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


def _span(start: int, end: int) -> Ranges:
    start, end = max(0, start), min(LAST, end)
    return (BlockRange(start, end),) if start < end else ()


def _union(ranges: Iterable[BlockRange]) -> Ranges:
    joined = by_range(list(ranges))
    return joined if len(joined) <= MAX_RANGES else (BlockRange(joined[0].start, joined[-1].end),)


def _intersection(left: Ranges, right: Ranges) -> Ranges:
    return _union(BlockRange(max(a.start, b.start), min(a.end, b.end)) for a in left for b in right if a.overlaps(b))
