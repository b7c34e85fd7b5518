"""The gate's readers, asked one at a time, for the tests of the corpora."""

import json
from collections.abc import Iterable, Iterator

from query import dialect, engine, gate, tree
from query.functions import reviewed
from query.refusals import SqlRejected
from tests.query_corpus.corpus import RELATIONS

FUNCTIONS = reviewed.load()


def reason(sql: str, relations: tuple[str, ...] = RELATIONS) -> str:
    """The gate's answer as a word."""
    try:
        gate.validate_sql(sql, relations)
    except SqlRejected as refusal:
        return refusal.reason.value
    return "accepted"


def first_reader_refuses(sql: str) -> bool:
    """Whether the walk over the engine's tree refuses alone, without sqlglot's help."""
    answer = json.loads(engine.parse_tree(sql))
    if answer["error"] or "named_param_map" in answer["statements"][0]:
        return True
    walk = tree.Walk(sql.encode(), {name: name for name in RELATIONS}, FUNCTIONS)
    try:
        tree.query_node(walk, answer["statements"][0]["node"], frozenset())
    except SqlRejected:
        return True
    return False


def second_reader_refuses(sql: str) -> bool:
    """Whether sqlglot's walk refuses alone."""
    try:
        dialect.check(sql, set(RELATIONS), FUNCTIONS)
    except SqlRejected:
        return True
    return False


def nodes(value: object) -> Iterator[dict[str, object]]:
    """Every node of a tree, parents first."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def covering(statements: Iterable[str]) -> list[str]:
    """The statements whose tree shows a field of a kind of node that none before it shows."""
    seen: set[tuple[str, str, str]] = set()
    chosen: list[str] = []
    for sql in statements:
        shown = {
            (str(node.get("class")), _kind(node), key)
            for node in nodes(json.loads(engine.parse_tree(sql)))
            for key in node
        }
        if not shown <= seen:
            chosen.append(sql)
            seen |= shown
    return chosen


def _kind(node: dict[str, object]) -> str:
    kind = node.get("type")
    return kind if isinstance(kind, str) else ""
