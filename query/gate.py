"""Judges one statement: it must be a single SELECT over granted relations and reviewed functions. Pure: the same text
gives the same verdict; nothing is run and no file is looked at.

The engine's own parse tree decides (`tree`), since what runs is then what was judged. sqlglot must accept it as well
(`dialect`). Whatever is unknown, or raises, is refused.
"""

from collections.abc import Callable, Collection

import orjson

from query import dialect, engine, prune, tree
from query.functions import reviewed
from query.refusals import Reason, SqlRejected, character
from query.text import check_text
from query.verdict import Json, Verdict


def validate_sql(
    sql: str, relations: Collection[str], *, parse_tree: Callable[[str], str] = engine.parse_tree
) -> Verdict:
    """Return what an accepted statement reads.

    Args:
        sql: The statement as the asker wrote it.
        relations: The names that may be read; compared without case, as the engine does.

    Raises:
        SqlRejected: with the reason; never with SQL text.
    """
    try:
        return _judge(sql, relations, parse_tree)
    except SqlRejected as refusal:
        position = None if refusal.position is None else character(sql, refusal.position)
        raise SqlRejected(refusal.reason, position, refusal.name, relations) from None
    except RecursionError:
        raise SqlRejected(Reason.TOO_COMPLEX) from None


def _judge(sql: str, relations: Collection[str], parse_tree: Callable[[str], str]) -> Verdict:
    check_text(sql)
    granted = {name.lower(): name for name in relations}
    functions = reviewed.load()
    statement = _statement(parse_tree(sql))
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


def _parse_refusal(answer: dict[str, Json]) -> SqlRejected:
    message, position = str(answer.get("error_message", "")), str(answer.get("position", ""))
    if answer.get("error_type") == "not implemented":
        return SqlRejected(Reason.NOT_SELECT if message.startswith("Only SELECT") else Reason.UNSUPPORTED)
    near = message.partition('syntax error at or near "')[2].rstrip('"')
    return SqlRejected(
        Reason.PARSE, int(position) if position.isdecimal() else None, near if near.isidentifier() else ""
    )
