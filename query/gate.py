"""Judges one statement: it must be a single SELECT over granted relations and reviewed functions. Pure: the same text
gives the same verdict; nothing is run and no file is looked at.

The engine's own parse tree decides (`tree`), since what runs is then what was judged. sqlglot must accept it as well
(`dialect`). Whatever is unknown, or raises, is refused.
"""

from collections.abc import Callable, Collection, Iterator

import orjson

from query import dialect, engine, prune, tree
from query.functions import reviewed
from query.refusals import Reason, SqlRejected, character
from query.text import check_text
from query.verdict import Json, Verdict


def validate_sql(
    sql: str, relations: Collection[str] | None = None, *, parse_tree: Callable[[str], str] = engine.parse_tree
) -> Verdict:
    """Return what an accepted statement reads: `validate_sql("select 1").relations == frozenset()`.

    Nothing is run and no relation is looked up, so any process may ask. Parsing takes up to half a second for a text of
    the largest size; the service therefore asks in a child that can be killed.

    Args:
        sql: The statement as the asker wrote it.
        relations: The names that may be read; compared without case, as the engine does. With None each plain name
            counts as a relation, the engine's own (`pg_tables`) too: the caller must compare `Verdict.relations` to
            what is granted.

    Raises:
        SqlRejected: with the reason, the position in the text and, when a name is to blame, the name; never SQL text.
    """
    try:
        return _judge(sql, relations, parse_tree)
    except SqlRejected as refusal:
        position = None if refusal.position is None else character(sql, refusal.position)
        raise SqlRejected(refusal.reason, position, refusal.name, relations or ()) from None
    except RecursionError:
        raise SqlRejected(Reason.TOO_COMPLEX) from None


def _judge(sql: str, relations: Collection[str] | None, parse_tree: Callable[[str], str]) -> Verdict:
    check_text(sql)
    functions = reviewed.load()
    statement = _statement(parse_tree(sql))
    granted = {name.lower(): name for name in (_plain_names(statement) if relations is None else relations)}
    walk = tree.Walk(sql.encode(), granted, functions)
    tree.query_node(walk, statement, frozenset())
    ranges = prune.block_ranges(statement, granted)
    dialect.check(sql, granted, functions)
    return Verdict(
        relations=frozenset(walk.relations),
        functions=frozenset(walk.functions),
        block_ranges={name: ranges[name] for name in walk.relations},
    )


def _statement(serialized: str) -> Json:
    """Return the query node of the only statement in the engine's answer."""
    try:
        answer: Json = orjson.loads(serialized)
    except orjson.JSONDecodeError:
        raise SqlRejected(Reason.TOO_COMPLEX) from None
    if not isinstance(answer, dict):
        raise SqlRejected(Reason.PARSE)
    if answer.get("error") is not False:
        raise _parse_refusal(answer)
    statements = answer.get("statements")
    if set(answer) != {"error", "statements"} or not isinstance(statements, list) or not statements:
        raise SqlRejected(Reason.PARSE)
    if len(statements) != 1:
        raise SqlRejected(Reason.MULTI_STATEMENT)
    if not isinstance(statements[0], dict) or "node" not in statements[0]:
        raise SqlRejected(Reason.PARSE)
    if set(statements[0]) == {"node", "named_param_map"}:
        raise SqlRejected(Reason.PARAMETERS)
    if set(statements[0]) != {"node"}:
        raise SqlRejected(Reason.UNSUPPORTED)
    return statements[0]["node"]


def _plain_names(value: Json) -> Iterator[str]:
    """Yield the names that a tree reads from, as far as they are plain identifiers."""
    if isinstance(value, list):
        for item in value:
            yield from _plain_names(item)
    elif isinstance(value, dict):
        name = value.get("table_name")
        if value.get("type") == "BASE_TABLE" and isinstance(name, str) and dialect.PLAIN.fullmatch(name):
            yield name
        for item in value.values():
            yield from _plain_names(item)


def _parse_refusal(answer: dict[str, Json]) -> SqlRejected:
    message, position = str(answer.get("error_message", "")), str(answer.get("position", ""))
    if answer.get("error_type") == "not implemented":
        return SqlRejected(Reason.NOT_SELECT if message.startswith("Only SELECT") else Reason.UNSUPPORTED)
    near = message.partition('syntax error at or near "')[2].rstrip('"')
    return SqlRejected(
        Reason.PARSE, int(position) if position.isdecimal() else None, near if near.isidentifier() else ""
    )
