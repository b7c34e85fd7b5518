"""Makes a candidate of the function list: `python -m query.functions.review > query/functions/duckdb_X_Y_Z.json`.

Run once per DuckDB version. A person then reads the difference to the list before: each new name stays out until its
effect is known. Denials cross-checked against the idea of nozzle/duckdb-gatekeeper (MIT), which lists names one by one.
"""

import json
import sys
from typing import Final

import duckdb

from query.functions.reviewed import inventory_sha256

TABLE: Final = ("generate_series", "json_each", "json_tree", "range", "unnest")

MADE_BY_THE_PARSER: Final = (
    "->>", "array_extract", "case", "coalesce", "fill", "first_value", "generate_subscripts", "grouping",
    "grouping_id", "ifnull", "last_value", "list_value", "nth_value", "nullif", "row", "struct_extract",
    "struct_pack", "try", "unnest",
)  # fmt: skip

DENIED: Final = {
    "shows the process, its settings or its catalog": (
        "current_setting", "getvariable", "getenv", "current_query", "current_query_id", "current_connection_id",
        "current_transaction_id", "txid_current", "current_database", "current_schema", "current_schemas",
        "current_catalog", "in_search_path", "get_block_size", "format_type", "format_pg_type", "pg_get_viewdef",
        "pg_get_constraintdef", "pg_get_expr", "pg_conf_load_time", "pg_postmaster_start_time", "inet_client_addr",
        "inet_client_port", "inet_server_addr", "inet_server_port", "obj_description", "col_description",
        "shobj_description", "parse_duckdb_log_message", "map_to_pg_oid", "enum_code",
    ),
    "changes state or writes": ("nextval", "currval", "setseed", "write_log"),
    "only waits": ("sleep_ms", "pg_sleep"),
    "runs or rebuilds a statement from text": (
        "json_serialize_sql", "json_serialize_plan", "json_deserialize_sql", "json_execute_serialized_sql",
        "query", "query_table",
    ),
    "an internal of the planner; wrong use is undefined": (
        "stats", "make_type", "switch", "combine", "finalize", "vector_type", "create_sort_key", "remap_struct",
        "st_setcrs", "variant_bytes_to_variant", "variant_normalize", "variant_to_parquet_variant", "constant_or_null",
        "can_cast_implicitly", "cast_to_type", "replace_type", "timetz_byte_comparable", "normalized_interval",
        "get_type", "unpivot_list", "!__postfix", "alias",
    ),
    "crashes the process or hides a crash (upstream; until fixed)": (
        "like_escape", "ilike_escape", "not_like_escape", "not_ilike_escape", "json_merge_patch", "json_structure",
        "json_group_structure", "json_contains",
    ),
}  # fmt: skip


def candidate() -> dict[str, object]:
    """Return the content of the list for the engine that is installed."""
    connection = duckdb.connect()
    rows = connection.execute(
        "select distinct function_name from duckdb_functions() where function_type in ('scalar', 'aggregate', 'macro')"
    ).fetchall()
    names = {str(row[0]) for row in rows}
    reasons = {reason: sorted(denied) for reason, denied in DENIED.items()}
    internal = "an internal of the planner; wrong use is undefined"
    reasons[internal] = sorted({*reasons[internal], *(name for name in names if name.startswith("__internal_"))})
    denied = {name for listed in reasons.values() for name in listed}
    return {
        "duckdb": duckdb.__version__,
        "inventory_sha256": inventory_sha256(connection),
        "table": sorted(TABLE),
        "made_by_the_parser": sorted(MADE_BY_THE_PARSER),
        "denied": reasons,
        "scalar": sorted(name.lower() for name in names if name not in denied),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(candidate(), indent=1) + "\n")
