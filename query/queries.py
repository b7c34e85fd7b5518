"""The queries of one statement, bottom-up: what stands in the FROM of each, and what its columns are. Pure.

`Query.pushable` names the output columns through which a filter from outside may reach the FROM: rows that it would
drop can be taken away before, since no LIMIT, DISTINCT ON or window looks at them. A plain column of a grouped query is
a key of its groups, else the engine refuses the query; in grouping sets without it, it is NULL, which no range holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from query.joins import Members, established, narrow, reading
from query.predicates import Facts, Ranges, Term, column, facts, intersection, union
from query.sources import (
    COLUMN,
    RELATION,
    UNKNOWN,
    Columns,
    Names,
    Outer,
    Part,
    Source,
    all_sources,
    join,
    names_of,
    term,
)
from query.verdict import EVERYTHING, Json

Node: TypeAlias = Mapping[str, Json]
Layout: TypeAlias = tuple[tuple[str, str], ...]  # per place: a column as ("", name), or a relation's star
Demand: TypeAlias = Mapping[str, Ranges]  # rows with another value, or NULL, in these output columns do not matter

NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"})
TEXTUAL: Final = frozenset({"BETWEEN", "CASE", "CAST", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "OPERATOR",
                            "SUBQUERY", "WINDOW"})  # fmt: skip  # without an alias named by their text: no plain name
SPREAD: Final = frozenset({"unnest", "unlist"})  # fields of a struct become columns
UNCERTAIN_STAR: Final = frozenset({"rename_list", "qualified_exclude_list", "expr"})
HARMLESS: Final = frozenset({"ORDER_MODIFIER", "DISTINCT_MODIFIER"})


@dataclass(eq=False, slots=True)
class Query:
    """One query node. `scope` are the CTEs that its parts see, `ctes` those that it defines, in order.

    A SELECT has a `source`; a set operation has `sides`, and `paired` says which column of each side is which of its
    own.
    """

    node: Node
    scope: "Scope"
    ctes: tuple["Query", ...]
    columns: Columns = UNKNOWN
    layout: Layout | None = None
    source: Part | None = None
    pushable: Mapping[str, Term] = field(default_factory=dict[str, Term])
    sides: tuple["Query", ...] = ()
    paired: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


@dataclass(frozen=True, slots=True)
class Cte:
    """What a name stands for; no query when it is a recursive CTE inside itself."""

    query: Query | None
    columns: Columns


Scope: TypeAlias = Mapping[str, Cte]


@dataclass(frozen=True, slots=True)
class _Item:
    """What one entry of a SELECT list shows; `terms` are the columns that it passes on."""

    columns: Columns
    terms: Mapping[str, Term] = field(default_factory=dict[str, Term])
    layout: Layout | None = None


class Reader:
    """Reads each query of a statement once. `relations` maps granted names in lower case to themselves."""

    def __init__(self, relations: Mapping[str, str]) -> None:
        self.reads: dict[int, Query] = {}  # number of a source -> the query or CTE in its place
        self._relations = relations
        self._queries: dict[int, Query] = {}
        self._sources = 0

    def query(self, node: Node, scope: Scope) -> Query:
        if id(node) not in self._queries:
            self._queries[id(node)] = self._read(node, scope)
        return self._queries[id(node)]

    def solve(self, query: Query, source: Part, demand: Demand, outer: Outer) -> tuple[dict[Term, Ranges], Outer]:
        """Return how far a SELECT narrows the columns of its FROM, and `outer` with all values of these columns."""

        members = self._members(query.scope)
        own = {(one.number, name): one.columns.known[name] for one in all_sources(source) for name in one.columns.known}
        around = replace(outer, known={**outer.known, **own})
        wanted = facts(query.node.get("where_clause"), reading(names_of(source), around, members))
        pushed = {query.pushable[name]: ranges for name, ranges in demand.items() if name in query.pushable}
        narrowed = narrow(source, wanted.and_also(Facts(pushed)), around, members)
        values = {place: intersection(ranges, narrowed.get(place, EVERYTHING)) for place, ranges in own.items()}
        return narrowed, replace(outer, known={**outer.known, **values})

    def _members(self, scope: Scope) -> Members:
        """Return what tells the blocks that a nested query of one column can have."""
        return lambda value: _only_column(self.query(body(value), scope))

    def _read(self, node: Node, scope: Scope) -> Query:
        ctes: list[Query] = []
        for name, definition in definitions(node):
            defined = self.query(body(definition.get("query")), scope)
            ctes.append(defined)
            scope = {**scope, name: Cte(defined, UNKNOWN if "aliases" in definition else defined.columns)}
        query = Query(node, scope, tuple(ctes))
        left, right = _node(node.get("left")), _node(node.get("right"))
        match node.get("type"):
            case "SELECT_NODE":
                self._select(query)
            case "SET_OPERATION_NODE":
                query.sides = self.query(left, scope), self.query(right, scope)
                _pair(query, *query.sides)
            case "RECURSIVE_CTE_NODE":
                inner = {**scope, str(node.get("cte_name")).lower(): Cte(None, UNKNOWN)}
                query.sides = self.query(left, scope), self.query(right, inner)
            case _:
                pass  # the gate's walk knows no other
        return query

    def _select(self, query: Query) -> None:
        source = query.source = self._part(_node(query.node.get("from_table")), query.scope)
        names = names_of(source)
        values = self.solve(query, source, {}, Outer())[1].known
        items = [self._item(_node(item), names, source) for item in _list(query.node.get("select_list"))]
        origin = {
            name: place
            for index, item in enumerate(items)
            for name, place in item.terms.items()
            if not any(other.columns.may_have(name) for other in items[:index] + items[index + 1 :])
        }
        query.columns = Columns(
            {name: values[place] for name, place in origin.items()},
            frozenset[str]().union(*(item.columns.named for item in items)),
            wide=any(item.columns.wide for item in items),
            open=any(item.columns.open for item in items),
        )
        layouts = [item.layout for item in items if item.layout is not None]
        query.layout = sum(layouts, ()) if len(layouts) == len(items) else None
        query.pushable = {name: place for name, place in origin.items() if _lets_through(query.node, place, names)}

    def _part(self, node: Node, scope: Scope) -> Part:
        kind, alias = node.get("type"), str(node.get("alias", node.get("table_name", ""))).lower()
        if kind == "JOIN":
            made = join(node, self._part(_node(node.get("left")), scope), self._part(_node(node.get("right")), scope))
            return replace(made, holds=established(made, self._members(scope)))
        self._sources += 1
        source = Source(self._sources, alias, UNKNOWN, node)
        name = str(node.get("table_name")).lower()
        if kind == "SUBQUERY":
            read = self.reads[source.number] = self.query(body(node.get("subquery")), scope)
            source = replace(source, columns=read.columns)
        elif kind == "BASE_TABLE" and name in scope:
            cte = scope[name]
            if cte.query is not None:
                self.reads[source.number] = cte.query
            source = replace(source, columns=cte.columns)
        elif kind == "BASE_TABLE":
            source = replace(source, columns=RELATION, relation=self._relations.get(name, ""))
        return replace(source, columns=UNKNOWN) if "column_name_alias" in node else source

    # --- the SELECT list ------------------------------------------------------------------------------------------

    def _item(self, item: Node, names: Names, source: Part) -> _Item:
        kind = item.get("class")
        if kind == "STAR":
            return self._star(item, names, source)
        if any(part.get("class") == "STAR" or part.get("function_name") in SPREAD for part in nodes(dict(item))):
            return _Item(UNKNOWN)
        parts = tuple(str(part).lower() for part in _list(item.get("column_names")))
        name = str(item.get("alias", parts[-1] if parts else "")).lower()
        if not name and kind not in TEXTUAL:
            return _Item(UNKNOWN)
        place = term(parts, names, Outer())
        return _Item(
            Columns(named=frozenset({name} - {""})), {} if place is None else {name: place}, layout=(("", name),)
        )

    def _star(self, star: Node, names: Names, source: Part) -> _Item:
        if star.get("columns") is True or not UNCERTAIN_STAR.isdisjoint(star):
            return _Item(UNKNOWN)
        alias = str(star.get("relation_name", "")).lower()
        if alias:
            named = names.aliases.get(alias)
            if named is None:
                return _Item(UNKNOWN)
            names, source = names_of(named), named
        columns = names.all_shown()
        gone = {str(name).lower() for name in _list(star.get("exclude_list"))}
        gone |= {str(_node(entry).get("key")).lower() for entry in _list(star.get("replace_list"))}
        passed = {name: names.plain[name] for name in columns.known if name not in gone}
        terms = {name: place for name, place in passed.items() if place is not None}
        return _Item(columns, terms, None if gone else self._star_layout(source))

    def _star_layout(self, source: Part) -> Layout | None:
        if not isinstance(source, Source) or source.columns.open:
            return None
        if source.relation:
            return ((source.relation, COLUMN),)
        read = self.reads.get(source.number)
        return None if read is None else read.layout


def _pair(query: Query, left: Query, right: Query) -> None:
    """Match the columns of a UNION's sides by their places; its names are those of its left side."""
    kind, sides = query.node.get("setop_type"), (left.layout or (), right.layout or ())
    if kind == "UNION_BY_NAME":
        return
    alike = len(sides[0]) == len(sides[1]) and all(one[0] == other[0] for one, other in zip(*sides, strict=True))
    places = {one[1]: other[1] for one, other in zip(*sides, strict=True)} if alike and kind == "UNION" else {}
    paired = {name: (name, places[name]) for name in left.columns.known if places.get(name) in right.columns.known}
    known = {
        name: union((*left.columns.known[name], *right.columns.known[other])) for name, (_, other) in paired.items()
    }
    query.columns, query.layout = replace(left.columns, known=known), left.layout
    query.paired = paired if _is_harmless(query.node) else {}


def _only_column(query: Query) -> Ranges:
    """Return the blocks that a query of one column can have."""
    if query.layout is None or len(query.layout) != 1 or query.layout[0][0]:
        return EVERYTHING
    return query.columns.known.get(query.layout[0][1], EVERYTHING)


def _is_harmless(node: Node) -> bool:
    """Say whether a query shows each of its rows, whatever other rows there are."""
    modifiers = [_node(modifier) for modifier in _list(node.get("modifiers"))]
    return all(one.get("type") in HARMLESS and "distinct_on_targets" not in one for one in modifiers)


def _lets_through(node: Node, place: Term, names: Names) -> bool:
    """Say whether a filter on a column may act before the rest of a SELECT: each window must be partitioned by it."""
    looking: Json = [node.get(key) for key in ("select_list", "having", "qualify", "modifiers")]
    windows = [part for part in nodes(looking) if part.get("class") == "WINDOW"]
    own = reading(names, Outer(), lambda _: EVERYTHING)
    partitions = [[column(one, own) for one in _list(window.get("partitions"))] for window in windows]
    return _is_harmless(node) and all(place in terms for terms in partitions)


# --- parts of a tree ----------------------------------------------------------------------------------------------


def definitions(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the CTEs of a query node in order, by their lower-case names."""
    for entry in _list(_node(node.get("cte_map")).get("map")):
        yield str(_node(entry).get("key")).lower(), _node(_node(entry).get("value"))


def body(statement: Json) -> Node:
    return _node(_node(statement).get("node"))


def is_query(node: Node) -> bool:
    kind = node.get("type")
    return isinstance(kind, str) and kind in NODES and "class" not in node


def nodes(value: Json) -> Iterator[Node]:
    """Yield every node of a tree."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)


def _node(value: Json) -> Node:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
