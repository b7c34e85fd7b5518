"""The trusted SQL: which objects the engine may open, and one view per relation over exactly its selected files.

Runs before the asker's statement and is the only SQL made here. Names and locations are quoted, never pasted.
"""

from collections.abc import Mapping, Sequence

import duckdb

Sources = Mapping[str, Sequence[str]]  # relation -> paths or URLs of Parquet objects; at least one each


def attach(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Restrict the engine to the sources, lock its settings, and show each relation as a view.

    A view passes on no virtual column, so `filename` (which would show a signed URL) does not resolve through it.
    """
    allowed = sorted({location for locations in sources.values() for location in locations})
    connection.execute(f"set allowed_paths = {_list(allowed)}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    for relation, locations in sources.items():
        connection.execute(
            f"create temp view {_name(relation)} as select * from "  # noqa: S608 (quoted below)
            f"read_parquet({_list(locations)}, hive_partitioning = false, union_by_name = false)"
        )


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
