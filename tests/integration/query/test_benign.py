"""What people ask passes the gate and the walls, and the answer is DuckDB's own.

The answer of a question is compared to that of a plain connection over the same files: in order where the statement
has an order at its top, else as a bag of rows.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest

from query import engine
from query.question import Answer
from query.results import columns
from tests.integration.query.asking import asking
from tests.integration.query.conftest import Store
from tests.query_corpus import tpc
from tests.query_corpus.corpus import Exempt, analyst, benign, drawn, exceptions, features
from tests.query_corpus.readers import reason
from trace_ray.contracts import DEFAULT_ORG, DatasetUuid, Grant, GrantedDataset, GrantedFile


def plain(sources: Mapping[str, Sequence[str]]) -> duckdb.DuckDBPyConnection:
    """DuckDB as anyone would use it over these files."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set timezone = 'UTC'")
    for relation, paths in sources.items():
        connection.execute(f"create view {relation} as select * from read_parquet({list(paths)})")
    return connection


def is_ordered(sql: str) -> bool:
    node = json.loads(engine.parse_tree(sql))["statements"][0]["node"]
    return any(modifier["type"] == "ORDER_MODIFIER" for modifier in node.get("modifiers", ()))


def rows_of(table: pa.Table, sql: str) -> list[str]:
    """Rows as texts, of the values that an answer shows: NaN, nested values and zones then compare alike."""
    rows = [repr(row) for row in zip(*columns(table), strict=True)]
    return rows if is_ordered(sql) else sorted(rows)


def assert_same_answers(store: Store, statements: Sequence[str]) -> int:
    """Ask all, two at a time, and compare; return the number of rows."""

    rows, connection = 0, plain(store.sources)
    with asking(store) as asker, ThreadPoolExecutor(2) as threads:

        def ask(sql: str) -> Answer:
            return asker.ask(sql, limit=10_000)

        for sql, answer in zip(statements, threads.map(ask, statements), strict=True):
            expected = connection.execute(sql).to_arrow_table()
            assert not answer.truncated, sql
            assert [column.name for column in answer.columns] == expected.column_names, sql
            assert rows_of(answer.table, sql) == rows_of(expected, sql), sql
            rows += expected.num_rows
    return rows


def test_the_corpora_are_as_large_as_promised() -> None:
    assert len(analyst()) >= 50
    assert len(features()) >= 100
    assert len(set(benign())) == len(benign())


def test_analysts_get_the_answers_of_the_engine(store: Store) -> None:
    assert assert_same_answers(store, analyst()) > 800


def test_features_of_the_engine_give_its_own_answers(store: Store) -> None:
    assert assert_same_answers(store, features()) > 800


def test_statements_that_draw_have_the_columns_of_the_engine(store: Store) -> None:
    connection = plain(store.sources)
    with asking(store) as asker:
        for sql in drawn():
            described = connection.execute(sql).description
            assert [column.name for column in asker.ask(sql).columns] == [entry[0] for entry in described], sql


@pytest.mark.parametrize(("name", "count"), [("tpch", 22), ("tpcds", 99)])
def test_benchmark_queries_give_the_answers_of_the_engine(tmp_path: Path, name: str, count: int) -> None:
    benchmark = tpc.load(name, tmp_path)
    assert len(benchmark.queries) == count
    datasets = tuple(
        GrantedDataset(
            table,
            DatasetUuid(UUID(int=index)),
            table,
            1,
            0,
            1,
            (),
            (GrantedFile(str(path), 0, 0, path.stat().st_size, 1),),
        )
        for index, (table, path) in enumerate(benchmark.tables.items())
    )
    store = Store(Path("/"), Grant(DEFAULT_ORG, datasets), tmp_path / "scratch")
    assert assert_same_answers(store, list(benchmark.queries.values())) > 500


@pytest.mark.parametrize("exempt", exceptions(), ids=lambda exempt: str(exempt.sql)[:40])
def test_exception_runs_in_the_engine_and_is_refused_for_its_reason(store: Store, exempt: Exempt) -> None:
    """Else it is no exception: lift it, or leave it out of the list."""
    plain(store.sources).execute(exempt.sql).fetchall()
    assert reason(exempt.sql) == exempt.reason
    assert reason(exempt.sql) != "accepted"
