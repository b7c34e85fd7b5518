"""A second opinion on an accepted statement: a walk that knows nothing of the gate's shapes, scopes and lists.

It is coarser: a name of a CTE counts everywhere. What it refuses, the gate must never accept.
"""

import json
from collections.abc import Collection, Iterator
from importlib.resources import files

from query import engine

FUNCTIONS: dict[str, object] = json.loads(files("query.functions").joinpath("duckdb_1_5_5.json").read_text())
FORBIDDEN = {"SHOW_REF", "PARAMETER", "COLUMN_DATA", "DELIM_GET", "BOUND_TABLE_REF"}
HIDDEN_CALLS = {"current_schema", "current_catalog", "current_database", "current_query"}


def objections(sql: str, relations: Collection[str]) -> list[str]:
    """What stands in a statement that no asker may use; empty when there is nothing."""
    answer = json.loads(engine.parse_tree(sql))
    if answer["error"] or len(answer["statements"]) != 1 or set(answer["statements"][0]) != {"node"}:
        return ["not one statement"]
    nodes = list(dictionaries(answer["statements"][0]["node"]))
    known = {name.lower() for name in relations} | {
        str(node["key"]).lower() for node in nodes if set(node) == {"key", "value"}
    }
    known |= {str(node["cte_name"]).lower() for node in nodes if "cte_name" in node}
    return [objection for node in nodes for objection in of_node(node, known)]


def of_node(node: dict[str, object], known: Collection[str]) -> Iterator[str]:
    if "function_name" in node and not is_reviewed(str(node["function_name"])):
        yield f"function {node['function_name']}"
    if "table_name" in node and str(node["table_name"]).lower() not in known:
        yield f"relation {node['table_name']}"
    for key in ("schema_name", "catalog_name", "catalog", "at_clause"):
        if node.get(key):
            yield key
    if node.get("schema", "main") not in ("main", ""):
        yield "schema"
    if FORBIDDEN & {str(node.get("type")), str(node.get("class"))}:
        yield str(node.get("type"))
    names = node.get("column_names")
    if isinstance(names, list) and len(names) == 1 and str(names[0]).lower() in HIDDEN_CALLS:
        yield f"call {names[0]}"


def is_reviewed(name: str) -> bool:
    listed: list[str] = []
    for key in ("table", "scalar", "made_by_the_parser"):
        names = FUNCTIONS[key]
        assert isinstance(names, list)
        listed += [str(entry) for entry in names]
    return name.lower() in listed


def dictionaries(value: object) -> Iterator[dict[str, object]]:
    """Every object of a JSON document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from dictionaries(item)
