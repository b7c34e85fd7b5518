"""A second, independent reader of the statement: sqlglot's parser and a walk over its tree. Pure.

It may only refuse. It is coarser than `tree` on purpose: its use is that it shares no code with it.
"""

import logging
import re
from collections.abc import Collection
from typing import Final

import sqlglot
from sqlglot import exp, serde
from sqlglot.optimizer import annotate_types, normalize_identifiers, simplify

from query.functions.reviewed import FunctionList
from query.refusals import Reason, SqlRejected

logging.getLogger("sqlglot").disabled = True  # it logs raw SQL at WARNING

# The parser would load these late, when a confined process can read no module, and honest statements would be refused.
LOADED_EARLY: Final = (annotate_types, normalize_identifiers, serde, simplify)
PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
FORBIDDEN: Final = (
    exp.DDL, exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Command, exp.Set, exp.Pragma, exp.Attach, exp.Detach,
    exp.Copy, exp.Use, exp.Show, exp.Describe, exp.Summarize, exp.Drop, exp.Alter, exp.Kill, exp.Transaction,
    exp.Commit, exp.Rollback, exp.Into, exp.ReadCSV, exp.ReadParquet, exp.HistoricalData, exp.Version, exp.Grant,
    exp.TruncateTable, exp.Analyze, exp.Cache, exp.LoadData, exp.Export, exp.Install, exp.JSONTable, exp.XMLTable,
    exp.Directory,
)  # fmt: skip
CALLS: Final = frozenset({"current_schema", "current_catalog", "current_database", "current_query"})  # without brackets
PARAMETERS: Final = (exp.Placeholder, exp.Parameter, exp.SessionParameter)


def check(sql: str, relations: Collection[str], functions: FunctionList) -> None:
    """Refuse what is not one query over `relations` (lower case) and reviewed functions.

    Raises:
        SqlRejected: without a position; sqlglot counts differently.
    """
    try:
        parsed = [tree for tree in sqlglot.parse(sql, dialect="duckdb") if tree is not None]
    except RecursionError:
        raise SqlRejected(Reason.TOO_COMPLEX) from None
    except Exception:  # noqa: BLE001 (fuzzed texts raised TypeErrors inside its parser; whatever it is, it refuses)
        raise SqlRejected(Reason.UNSUPPORTED) from None
    statements = [tree for tree in parsed if not isinstance(tree, exp.Semicolon)]
    if len(statements) != 1:
        raise SqlRejected(Reason.MULTI_STATEMENT)
    tree = statements[0]
    if not isinstance(tree, exp.Query | exp.Values | exp.Pivot):
        raise SqlRejected(Reason.NOT_SELECT)
    known = {*relations, *(cte.alias.lower() for cte in tree.find_all(exp.CTE))}
    for node in tree.walk():
        _check_node(node, known, functions)


def _check_node(node: exp.Expr, known: Collection[str], functions: FunctionList) -> None:
    if isinstance(node, FORBIDDEN):
        raise SqlRejected(Reason.NOT_SELECT)
    if isinstance(node, PARAMETERS):
        raise SqlRejected(Reason.PARAMETERS)
    if isinstance(node, exp.Table):
        _check_table(node, known, functions)
    elif isinstance(node, exp.Escape) or (
        isinstance(node, exp.Column) and not node.table and node.name.lower() in CALLS
    ):
        raise SqlRejected(Reason.FUNCTION)
    elif isinstance(node, exp.Anonymous):
        if node.name.lower() not in functions.scalar | functions.table:
            raise SqlRejected(Reason.FUNCTION)
    elif isinstance(node, exp.Func) and not functions.denied.isdisjoint(_names(type(node))):
        raise SqlRejected(Reason.FUNCTION)


def _check_table(table: exp.Table, known: Collection[str], functions: FunctionList) -> None:
    if table.args.get("db") or table.args.get("catalog"):
        raise SqlRejected(Reason.RELATION)
    source = table.this
    if isinstance(source, exp.Identifier):
        if not PLAIN.fullmatch(source.name) or source.name.lower() not in known:
            raise SqlRejected(Reason.RELATION)
    elif isinstance(source, exp.Func):
        names = {source.name.lower()} if isinstance(source, exp.Anonymous) else _names(type(source))
        if functions.table.isdisjoint(names):
            raise SqlRejected(Reason.TABLE_FUNCTION)
    else:
        raise SqlRejected(Reason.RELATION)


_NAMES: dict[type[exp.Func], frozenset[str]] = {}


def _names(kind: type[exp.Func]) -> frozenset[str]:
    """Return the SQL names of a typed function, in lower case."""
    if kind not in _NAMES:
        _NAMES[kind] = frozenset(name.lower() for name in kind.sql_names())
    return _NAMES[kind]
