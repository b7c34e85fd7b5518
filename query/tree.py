"""The total walk over the engine's parse tree. Pure. Skips nothing: each node class has its known keys, each key has a
reader for its content, and an unknown class, key or shape refuses the statement.

The shapes are those of `json_serialize_sql` in DuckDB 1.5.5 (its serialization/*.json name the fields). A walk that
skipped keys let `SELECT * REPLACE (<subquery> AS a)` through; hence no skip list, not even for constants and types.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from query.functions.reviewed import FunctionList
from query.refusals import Reason, SqlRejected
from query.verdict import Json

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 200
NO_POSITION: Final = 2**64 - 1
PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
CALLS: Final = frozenset({"current_schema", "current_catalog", "current_database", "current_query"})  # made a call
MISREAD: Final = (b"x'", b"0x")  # the engine reads x'ab' as the text 'xab', and 0xab as 0 AS xab

Scope = frozenset[str]
Read = Callable[["Walk", Json, Scope], None]
Shape = Mapping[str, Read]


class Walk:
    """What one statement holds. `relations` maps each granted name in lower case to itself; `sql` is its UTF-8 text."""

    def __init__(self, sql: bytes, relations: Mapping[str, str], functions: FunctionList) -> None:
        self.sql = sql
        self.granted = relations
        self.allowed = functions
        self.relations: set[str] = set()
        self.functions: set[str] = set()
        self.position: int | None = None
        self._nodes = 0
        self._depth = 0

    def refuse(self, reason: Reason, name: str = "") -> SqlRejected:
        return SqlRejected(reason, self.position, name if PLAIN.fullmatch(name) else "")

    def fields(self, value: Json) -> dict[str, Json]:
        """Return the fields of a node, counted against the caps."""
        if not isinstance(value, dict):
            raise self.refuse(Reason.UNSUPPORTED)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self.refuse(Reason.TOO_COMPLEX)
        location = value.get("query_location")
        if isinstance(location, int) and 0 <= location < NO_POSITION:
            self.position = location
        return value

    def shape(self, value: Json, shape: Shape, scope: Scope) -> None:
        """Read every field of a node with its reader; refuse a field without one."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.refuse(Reason.TOO_COMPLEX)
        for key, content in self.fields(value).items():
            read = shape.get(key)
            if read is None:
                raise self.refuse(Reason.UNSUPPORTED)
            read(self, content, scope)
        self._depth -= 1

    def stands_at(self, location: Json, starts: Collection[bytes]) -> bool:
        """Say whether the text of a node begins with one of `starts`, each of two bytes."""
        return isinstance(location, int) and self.sql[location : location + 2].lower() in starts

    def called(self, function: Mapping[str, Json], allowed: frozenset[str], reason: Reason) -> None:
        """Check the name of a function; the parser itself writes the schema `main` at times."""
        name = function.get("function_name")
        if not isinstance(name, str) or function.get("schema", "main") != "main" or "catalog" in function:
            raise self.refuse(reason)
        if name.lower() not in allowed:
            raise self.refuse(reason, name)
        self.functions.add(name.lower())


# --- leaves -------------------------------------------------------------------------------------------------------


def text(walk: Walk, value: Json, scope: Scope) -> None:
    if not isinstance(value, str):
        raise walk.refuse(Reason.UNSUPPORTED)


def number(walk: Walk, value: Json, scope: Scope) -> None:
    if not isinstance(value, int):
        raise walk.refuse(Reason.UNSUPPORTED)


def flag(walk: Walk, value: Json, scope: Scope) -> None:
    if not isinstance(value, bool):
        raise walk.refuse(Reason.UNSUPPORTED)


def each(read: Read) -> Read:
    """Return a reader of a list of what `read` reads."""

    def read_list(walk: Walk, value: Json, scope: Scope) -> None:
        if not isinstance(value, list):
            raise walk.refuse(Reason.UNSUPPORTED)
        for item in value:
            read(walk, item, scope)

    return read_list


def fixed(shape: Shape) -> Read:
    """Return a reader of a node that has these fields and no class."""

    def read_fields(walk: Walk, value: Json, scope: Scope) -> None:
        walk.shape(value, shape, scope)

    return read_fields


def one_of(shapes: Mapping[str, Shape], tag: str, refusals: Mapping[str, Reason] | None = None) -> Read:
    """Return a reader of a node whose field `tag` names its shape."""

    def read_tagged(walk: Walk, value: Json, scope: Scope) -> None:
        name = walk.fields(value).get(tag)
        shape = shapes.get(name) if isinstance(name, str) else None
        if shape is None:
            raise walk.refuse((refusals or {}).get(str(name), Reason.UNSUPPORTED))
        walk.shape(value, shape, scope)

    return read_tagged


def scalar_or_parts(walk: Walk, value: Json, scope: Scope) -> None:
    """The payload of a constant: a scalar, the halves of a wide integer, or nested constants."""
    if not isinstance(value, str | int | float | bool):
        walk.shape(value, {"upper": number, "lower": number, "children": each(constant)}, scope)


def constant(walk: Walk, value: Json, scope: Scope) -> None:
    walk.shape(value, {"type": logical_type, "is_null": flag, "value": scalar_or_parts}, scope)


def logical_type(walk: Walk, value: Json, scope: Scope) -> None:
    walk.shape(value, {"id": text, "type_info": one_of(TYPES, "type")}, scope)


TYPE: Final[Shape] = {"type": text, "alias": text}
TYPES: Final[Mapping[str, Shape]] = {
    "GENERIC_TYPE_INFO": TYPE,
    "DECIMAL_TYPE_INFO": {**TYPE, "width": number, "scale": number},
    "STRING_TYPE_INFO": {**TYPE, "collation": text},
    "LIST_TYPE_INFO": {**TYPE, "child_type": logical_type},
    "ARRAY_TYPE_INFO": {**TYPE, "child_type": logical_type, "size": number},
    "STRUCT_TYPE_INFO": {**TYPE, "child_types": each(fixed({"first": text, "second": logical_type}))},
    "UNBOUND_TYPE_INFO": {**TYPE, "name": text, "user_type_modifiers": each(constant)},
}


# --- expressions --------------------------------------------------------------------------------------------------


def expression(walk: Walk, value: Json, scope: Scope) -> None:
    node = walk.fields(value)
    kind = node.get("class")
    if kind in ("FUNCTION", "WINDOW"):
        walk.called(node, walk.allowed.scalar, Reason.FUNCTION)
    elif kind == "COLUMN_REF":
        names = node.get("column_names")
        if isinstance(names, list) and len(names) == 1 and str(names[0]).lower() in CALLS:
            raise walk.refuse(Reason.FUNCTION, str(names[0]))
    elif kind == "CONSTANT" and walk.stands_at(node.get("query_location"), MISREAD):
        raise walk.refuse(Reason.LITERAL)
    ANY_EXPRESSION(walk, node, scope)


def select_statement(walk: Walk, value: Json, scope: Scope) -> None:
    walk.shape(value, {"node": query_node}, scope)


EXPRESSION: Final[Shape] = {"class": text, "type": text, "alias": text, "query_location": number}
CHILDREN: Final[Shape] = {**EXPRESSION, "children": each(expression)}
CALL: Final[Shape] = {**CHILDREN, "function_name": text, "schema": text, "distinct": flag}
ORDER: Final = each(fixed({"type": text, "null_order": text, "expression": expression}))
QUALIFIED: Final = fixed({"table": text, "column": text})
EXPRESSIONS: Final[Mapping[str, Shape]] = {
    "BETWEEN": {**EXPRESSION, "input": expression, "lower": expression, "upper": expression},
    "CASE": {
        **EXPRESSION,
        "case_checks": each(fixed({"when_expr": expression, "then_expr": expression})),
        "else_expr": expression,
    },
    "CAST": {**EXPRESSION, "child": expression, "cast_type": logical_type, "try_cast": flag},
    "COLLATE": {**EXPRESSION, "child": expression, "collation": text},
    "COLUMN_REF": {**EXPRESSION, "column_names": each(text)},
    "COMPARISON": {**EXPRESSION, "left": expression, "right": expression},
    "CONJUNCTION": CHILDREN,
    "CONSTANT": {**EXPRESSION, "value": constant},
    "FUNCTION": {
        **CALL,
        "filter": expression,
        "order_bys": fixed({"type": text, "orders": ORDER}),
        "is_operator": flag,
        "export_state": flag,
    },
    "LAMBDA": {**EXPRESSION, "lhs": expression, "expr": expression},
    "OPERATOR": CHILDREN,
    "POSITIONAL_REFERENCE": {**EXPRESSION, "index": number},
    "STAR": {
        **EXPRESSION,
        "relation_name": text,
        "exclude_list": each(text),
        "qualified_exclude_list": each(QUALIFIED),
        "replace_list": each(fixed({"key": text, "value": expression})),
        "rename_list": each(fixed({"key": QUALIFIED, "value": text})),
        "columns": flag,
        "expr": expression,
    },
    "SUBQUERY": {
        **EXPRESSION,
        "subquery_type": text,
        "subquery": select_statement,
        "child": expression,
        "comparison_type": text,
    },
    "WINDOW": {
        **CALL,
        "partitions": each(expression),
        "orders": ORDER,
        "arg_orders": ORDER,
        "start": text,
        "end": text,
        "start_expr": expression,
        "end_expr": expression,
        "offset_expr": expression,
        "default_expr": expression,
        "filter_expr": expression,
        "ignore_nulls": flag,
        "exclude_clause": text,
    },
}
ANY_EXPRESSION: Final = one_of(EXPRESSIONS, "class", {"PARAMETER": Reason.PARAMETERS})


# --- relations ----------------------------------------------------------------------------------------------------


def table_ref(walk: Walk, value: Json, scope: Scope) -> None:
    ref = walk.fields(value)
    if ref.get("type") == "BASE_TABLE":
        name = ref.get("table_name")
        if not isinstance(name, str) or not {"schema_name", "catalog_name", "at_clause"}.isdisjoint(ref):
            raise walk.refuse(Reason.RELATION)
        if name.lower() not in scope:
            if name.lower() not in walk.granted:
                raise walk.refuse(Reason.RELATION, name)
            walk.relations.add(walk.granted[name.lower()])
    ANY_REF(walk, ref, scope)


def table_function(walk: Walk, value: Json, scope: Scope) -> None:
    function = walk.fields(value)
    if function.get("class") != "FUNCTION":
        raise walk.refuse(Reason.UNSUPPORTED)
    walk.called(function, walk.allowed.table, Reason.TABLE_FUNCTION)
    walk.shape(function, EXPRESSIONS["FUNCTION"], scope)


SAMPLE: Final = fixed({"sample_size": constant, "is_percentage": flag, "method": text, "seed": number})
REF: Final[Shape] = {"type": text, "alias": text, "sample": SAMPLE, "query_location": number}
NAMED_REF: Final[Shape] = {**REF, "column_name_alias": each(text)}
REFS: Final[Mapping[str, Shape]] = {
    "BASE_TABLE": {**NAMED_REF, "table_name": text},
    "SUBQUERY": {**NAMED_REF, "subquery": select_statement},
    "JOIN": {
        **REF,
        "left": table_ref,
        "right": table_ref,
        "condition": expression,
        "join_type": text,
        "ref_type": text,
        "using_columns": each(text),
        "delim_flipped": flag,
    },
    "TABLE_FUNCTION": {**NAMED_REF, "function": table_function, "with_ordinality": text},
    "EXPRESSION_LIST": {**REF, "expected_names": each(text), "values": each(each(expression))},
    "EMPTY": REF,
    "PIVOT": {
        **NAMED_REF,
        "source": table_ref,
        "aggregates": each(expression),
        "unpivot_names": each(text),
        "pivots": each(
            fixed(
                {
                    "pivot_expressions": each(expression),
                    "unpivot_names": each(text),
                    "entries": each(fixed({"values": each(constant), "star_expr": expression, "alias": text})),
                }
            )
        ),
        "groups": each(text),
        "include_nulls": flag,
    },
}
ANY_REF: Final = one_of(REFS, "type", {"SHOW_REF": Reason.NOT_SELECT})


# --- statements ---------------------------------------------------------------------------------------------------


def query_node(walk: Walk, value: Json, scope: Scope) -> None:
    """Read a query. Its CTEs, and nothing else, widen the scope: each sees those before it, the query sees all."""
    node = walk.fields(value)
    ctes = node.get("cte_map")
    scope = _with_ctes(walk, ctes, scope) if ctes is not None else scope
    if node.get("type") != "RECURSIVE_CTE_NODE":
        PLAIN_NODE(walk, node, scope)
        return
    name = node.get("cte_name")
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise walk.refuse(Reason.RELATION)
    inner = scope | {name.lower()}

    def recursive_side(walk: Walk, value: Json, scope: Scope) -> None:
        query_node(walk, value, inner)

    walk.shape(node, {**RECURSIVE, "right": recursive_side}, scope)


def _with_ctes(walk: Walk, ctes: Json, scope: Scope) -> Scope:
    listed = walk.fields(ctes)
    entries = listed.get("map")
    if set(listed) != {"map"} or not isinstance(entries, list):
        raise walk.refuse(Reason.UNSUPPORTED)
    for entry in entries:
        pair = walk.fields(entry)
        name = pair.get("key")
        if set(pair) != {"key", "value"} or not isinstance(name, str):
            raise walk.refuse(Reason.UNSUPPORTED)
        if not PLAIN.fullmatch(name):
            raise walk.refuse(Reason.RELATION)
        walk.shape(pair["value"], CTE, scope)
        scope |= {name.lower()}
    return scope


def seen(walk: Walk, value: Json, scope: Scope) -> None:
    """The CTEs of a node, which `query_node` has read."""


MODIFIER: Final[Shape] = {"type": text}
LIMIT: Final[Shape] = {**MODIFIER, "limit": expression, "offset": expression}
MODIFIERS: Final[Mapping[str, Shape]] = {
    "LIMIT_MODIFIER": LIMIT,
    "LIMIT_PERCENT_MODIFIER": LIMIT,
    "ORDER_MODIFIER": {**MODIFIER, "orders": ORDER},
    "DISTINCT_MODIFIER": {**MODIFIER, "distinct_on_targets": each(expression)},
}
CTE: Final[Shape] = {
    "aliases": each(text),
    "query": select_statement,
    "materialized": text,
    "key_targets": each(expression),
}
NODE: Final[Shape] = {"type": text, "modifiers": each(one_of(MODIFIERS, "type")), "cte_map": seen}
RECURSIVE: Final[Shape] = {
    **NODE,
    "cte_name": text,
    "union_all": flag,
    "left": query_node,
    "aliases": each(text),
    "key_targets": each(expression),
}
NODES: Final[Mapping[str, Shape]] = {
    "SELECT_NODE": {
        **NODE,
        "select_list": each(expression),
        "from_table": table_ref,
        "where_clause": expression,
        "group_expressions": each(expression),
        "group_sets": each(each(number)),
        "aggregate_handling": text,
        "having": expression,
        "sample": SAMPLE,
        "qualify": expression,
    },
    "SET_OPERATION_NODE": {
        **NODE,
        "setop_type": text,
        "setop_all": flag,
        "left": query_node,
        "right": query_node,
    },
}
PLAIN_NODE: Final = one_of(NODES, "type")
