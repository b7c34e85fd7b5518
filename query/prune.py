"""Which blocks a statement can need, and which files hold them. Pure. Ranges are end-exclusive.

A wrong answer here would cost rows, so only what is certain narrows. `queries` reads what each query shows, bottom-up;
the walk here goes top-down and passes on what is asked of it. The filters themselves still run in the engine.

Each step keeps the answer whatever else the relations hold, so that steps add up: rows of one reference outside its
range can be taken away; then a range of what is left may narrow a neighbour, a subquery or a CTE.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final

from query.predicates import Ranges, Term, union
from query.queries import Demand, Node, Query, Reader, Scope, definitions, is_query, nodes
from query.sources import COLUMN, Join, Outer, Part, beside, names_of
from query.verdict import EVERYTHING, Json
from trace_ray.contracts import BlockRange, GrantedFile, by_range

FIRST: Final = attrgetter("min_block")
LAST_BLOCK: Final = attrgetter("max_block")


def block_ranges(statement: Json, relations: Mapping[str, str]) -> dict[str, Ranges]:
    """Return, for each granted relation that a judged tree names, the blocks that any reference to it can need.

    Args:
        statement: The query node of a tree that the gate's walk has accepted.
        relations: Granted names by their lower case. Each has a column `block_number`.
    """
    tree = list(nodes(statement))
    tables = {str(node.get("table_name")).lower() for node in tree if _is_table(node)}
    everything = {relations[name]: EVERYTHING for name in tables if name in relations}
    if not isinstance(statement, dict) or any(_counts_rows(node) for node in tree):
        return everything
    defined = {name for node in tree for name, _ in definitions(node)}
    walk = _Walk(relations)
    walk.query(walk.reader.query(statement, {}), {}, Outer())
    found = {name: by_range(ranges) for name, ranges in walk.found.items() if name.lower() not in defined}
    return {**everything, **found}


def _is_table(node: Node) -> bool:
    return node.get("type") == "BASE_TABLE" and "class" not in node


def _counts_rows(node: Node) -> bool:
    """Say whether the place of a row among others decides: in a sample, or in a join by position."""
    return "sample" in node or node.get("ref_type") == "POSITIONAL"


class _Walk:
    """Visits each query once, its CTEs after all that refers to them."""

    def __init__(self, relations: Mapping[str, str]) -> None:
        self.reader = Reader(relations)
        self.found: dict[str, list[BlockRange]] = {}
        self._relations = relations
        self._demands: dict[Query, list[Demand]] = {}

    def query(self, query: Query, demand: Demand, outer: Outer) -> None:
        if query.source is not None:
            self._select(query, query.source, demand, outer)
        for place, side in enumerate(query.sides):
            asked = {names[place]: demand[name] for name, names in query.paired.items() if name in demand}
            self.query(side, asked, outer)
        if query.source is None:
            self._others(query.node.get("modifiers"), query.scope, outer)
        for cte in reversed(query.ctes):
            self.query(cte, _joined(self._demands.pop(cte, [])), outer)

    def _select(self, query: Query, source: Part, demand: Demand, outer: Outer) -> None:
        narrowed, around = self.reader.solve(query, source, demand, outer)
        self._part(source, query.scope, narrowed, around)
        inside = around.below(names_of(source))
        for key, content in query.node.items():
            if key not in {"from_table", "cte_map"}:
                self._others(content, query.scope, inside)

    def _part(self, part: Part, scope: Scope, narrowed: Mapping[Term, Ranges], around: Outer) -> None:
        """Visit what stands in a FROM; what is to the right sees what is to its left."""
        if isinstance(part, Join):
            left, right = names_of(part.left), names_of(part.right)
            self._part(part.left, scope, narrowed, around)
            self._part(part.right, scope, narrowed, around.below(left))
            self._others(part.condition, scope, around.below(beside(left, right)))
            return
        places = {name: (part.number, name) for name in part.columns.known}
        demand = {name: narrowed[place] for name, place in places.items() if place in narrowed}
        read = self.reader.reads.get(part.number)
        if part.relation:
            self.found.setdefault(part.relation, []).extend(demand.get(COLUMN, EVERYTHING))
        elif read is None:
            self._others(list(part.node.values()), scope, around)
        elif _is_table(part.node):
            self._demands.setdefault(read, []).append(demand)
        else:
            self.query(read, demand, around)

    def _others(self, value: Json, scope: Scope, outer: Outer) -> None:
        """Visit the queries inside anything else; of a relation or a CTE that is met there, all is needed."""
        if isinstance(value, list):
            for item in value:
                self._others(item, scope, outer)
        elif not isinstance(value, dict):
            return
        elif is_query(value):
            self.query(self.reader.query(value, scope), {}, outer)
        elif _is_table(value):
            self._refer(str(value.get("table_name")).lower(), scope)
        else:
            self._others(list(value.values()), scope, outer)

    def _refer(self, name: str, scope: Scope) -> None:
        cte = scope.get(name)
        if cte is None and name in self._relations:
            self.found.setdefault(self._relations[name], []).extend(EVERYTHING)
        elif cte is not None and cte.query is not None:
            self._demands.setdefault(cte.query, []).append({})


def _joined(demands: Sequence[Demand]) -> Demand:
    """Return what all references to a CTE together ask of it; everything when there is none."""
    first, *others = demands or [{}]
    return {
        name: union((*ranges, *(blocks for other in others for blocks in other[name])))
        for name, ranges in first.items()
        if all(name in other for other in others)
    }


def select_files(files: Sequence[GrantedFile], ranges: Ranges) -> list[GrantedFile]:
    """Return the files that can hold blocks of `ranges`; never none, so that a view over them has its columns.

    Files in order of both their first and their last blocks, as the registry gives them, are found by bisection.
    """
    firsts, lasts = list(map(FIRST, files)), list(map(LAST_BLOCK, files))
    if firsts != sorted(firsts) or lasts != sorted(lasts):
        return _overlapping(files, ranges) or list(files[:1])
    found: list[GrantedFile] = []
    reached = 0
    for blocks in ranges:
        reached = max(reached, bisect_left(lasts, blocks.start))
        end = max(reached, bisect_left(firsts, blocks.end))
        found.extend(files[reached:end])
        reached = end
    return found or list(files[:1])


def _overlapping(files: Sequence[GrantedFile], ranges: Ranges) -> list[GrantedFile]:
    starts = [blocks.start for blocks in ranges]

    def needed(file: GrantedFile) -> bool:
        before = bisect_right(starts, file.max_block)  # ranges that start at or before the last block of the file
        return before > 0 and ranges[before - 1].end > file.min_block

    return [file for file in files if needed(file)]
