"""TPC-H and TPC-DS: data and queries from DuckDB's own signed extensions, loaded by path, in a connection for tests."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import duckdb

GENERATORS = {"tpch": "call dbgen(sf = 0.01)", "tpcds": "call dsdgen(sf = 0.01)"}


@dataclass(frozen=True)
class Benchmark:
    """`tables` maps each table to its Parquet file, `queries` each number to its text."""

    tables: dict[str, Path]
    queries: dict[int, str]


def load(name: str, directory: Path) -> Benchmark:
    """Generate the data of a benchmark (`tpch`, `tpcds`) as one Parquet file for each table."""
    connection = duckdb.connect(config={"threads": 2})
    root = Path(str(files(f"duckdb_extension_{name}")))
    connection.load_extension(str(root / f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"))
    connection.execute(GENERATORS[name])
    tables: dict[str, Path] = {}
    for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall():
        tables[table] = directory / name / f"{table}.parquet"
        tables[table].parent.mkdir(exist_ok=True)
        connection.execute(f"copy {table} to '{tables[table]}' (format parquet)")
    queries = connection.execute(f"select query_nr, query from {name}_queries() order by 1").fetchall()
    connection.close()
    return Benchmark(tables, {int(number): str(text) for number, text in queries})
