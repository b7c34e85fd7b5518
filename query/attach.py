"""The trusted SQL: which objects the engine may open, and one view per relation over exactly its selected files.

Runs before the asker's statement and is the only SQL made here. Names and locations are quoted, never pasted.
"""

from collections.abc import Iterable, Mapping, Sequence

import duckdb

Sources = Mapping[str, Sequence[str]]  # relation -> paths or URLs of Parquet objects; at least one each


def bind(connection: duckdb.DuckDBPyConnection, locations: Iterable[str]) -> None:
    """Restrict the engine to these objects and lock its settings, for good."""
    connection.execute(f"set allowed_paths = {_list(sorted(set(locations)))}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def show(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Make one view per relation over objects that are bound.

    A view passes on no virtual column, so `filename` (which would show a signed URL) does not resolve through it.
    """
    for relation, locations in sources.items():
        connection.execute(
            f"create or replace temp view {_name(relation)} as select * from "  # noqa: S608 (quoted below)
            f"read_parquet({_list(locations)}, hive_partitioning = false, union_by_name = false)"
        )


def hide(connection: duckdb.DuckDBPyConnection, relations: Iterable[str]) -> None:
    """Drop the views of relations that the next statement does not name."""
    for relation in relations:
        connection.execute(f"drop view {_name(relation)}")


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
