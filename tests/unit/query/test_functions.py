"""The function list belongs to the engine that is installed, and every name in it was decided on."""

import duckdb

from query import engine
from query.functions import review, reviewed
from query.functions.ours import OURS


def test_the_engine_is_the_one_that_was_reviewed() -> None:
    """Red after a DuckDB upgrade: make a candidate with query/functions/review.py and review the difference."""
    assert duckdb.__version__ == reviewed.load().duckdb == reviewed.VERSION
    assert reviewed.inventory_sha256(duckdb.connect()) == reviewed.load().inventory_sha256


def test_the_extension_for_http_adds_no_function() -> None:
    connection = duckdb.connect()
    connection.load_extension(str(engine.httpfs()))
    assert reviewed.inventory_sha256(connection) == reviewed.load().inventory_sha256


def test_another_inventory_has_another_hash() -> None:
    connection = duckdb.connect()
    connection.execute("create macro newcomer(a) as a")
    assert reviewed.inventory_sha256(connection) != reviewed.load().inventory_sha256


def test_every_function_is_allowed_or_denied_but_not_both() -> None:
    listed = reviewed.load()
    rows = duckdb.connect().execute(
        "select distinct lower(function_name) from duckdb_functions() "
        "where function_type in ('scalar', 'aggregate', 'macro')"
    )
    names = {str(row[0]) for row in rows.fetchall()}
    assert names <= listed.scalar | listed.denied
    assert listed.scalar.isdisjoint(listed.denied)
    assert listed.table.isdisjoint(listed.denied)


def test_the_frozen_list_is_what_the_review_makes() -> None:
    """The file is never edited by hand; the decisions stand in review.py."""
    made, listed = review.candidate(), reviewed.load()
    assert made["inventory_sha256"] == listed.inventory_sha256
    scalar, parser, table = made["scalar"], made["made_by_the_parser"], made["table"]
    assert isinstance(scalar, list)
    assert isinstance(parser, list)
    assert isinstance(table, list)
    assert frozenset(scalar) | frozenset(parser) | OURS == listed.scalar
    assert frozenset(table) == listed.table


def test_only_five_table_functions_are_allowed() -> None:
    assert reviewed.load().table == {"range", "generate_series", "unnest", "json_each", "json_tree"}
