"""Reads the frozen function list. A name that is in neither list was never reviewed and is refused."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import duckdb

from query.functions.ours import OURS

VERSION: Final = "1.5.5"
INVENTORY: Final = """
select function_name, function_type, coalesce(parameter_types::varchar, ''), coalesce(macro_definition, '')
from duckdb_functions() order by all
"""


@dataclass(frozen=True, slots=True)
class FunctionList:
    """Reviewed names, in lower case. `table` are allowed after FROM, `scalar` elsewhere, `denied` nowhere.

    `scalar` holds our own functions too (`ours`).
    """

    duckdb: str
    inventory_sha256: str
    scalar: frozenset[str]
    table: frozenset[str]
    denied: frozenset[str]


@cache
def load() -> FunctionList:
    name = f"duckdb_{VERSION.replace('.', '_')}.json"
    raw = json.loads(files("query.functions").joinpath(name).read_bytes())
    denied = frozenset(name for names in raw["denied"].values() for name in names)
    scalar = frozenset(raw["scalar"]) | frozenset(raw["made_by_the_parser"]) | OURS
    return FunctionList(raw["duckdb"], raw["inventory_sha256"], scalar, frozenset(raw["table"]), denied)


def inventory_sha256(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the hash of every function, type and signature that the engine has; any difference needs a review."""
    rows = connection.execute(INVENTORY).fetchall()
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
