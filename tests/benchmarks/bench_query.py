"""What a query process costs beyond the engine itself: `python -m tests.benchmarks.bench_query`, about a minute.

Ratios of one run on one machine; the raw side is DuckDB in this process with the same settings and the same list of
files. Both sides take turns, so that a noisy machine is noisy for both.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from query import attach, run
from query.engine import LOCKED
from query.pool import Pool
from query.process import Binding, Reach
from query.question import Limits, Question
from query.refusals import QueryTimeout
from query.verdict import Verdict
from query.verdicts import Asked
from trace_ray.contracts import DEFAULT_ORG, DatasetUuid, Grant, GrantedDataset, GrantedFile

FILES: Final = 100
FILE_BLOCKS: Final = 1_000
ROUNDS: Final = 200
SINGLE: Final = 15
WIDE_ROWS: Final = 1_000_000
WIDE_ROUNDS: Final = 5
WIDE: Final = (
    "select range as a, range * 2.5 as b, 'row number ' || range as c, range % 7 = 0 as d, "
    f"sha256(range::varchar) as e, range::hugeint as f from range({WIDE_ROWS})"
)
DEAF: Final = (
    "select levenshtein(repeat('a', 100000), repeat('b', 100000))",
    "select jaro_winkler_similarity(repeat('ab', 200000), repeat('ba', 200000))",
    "select list_reduce(range(30000000), lambda a, b: a + b)",
    "select count(list_transform(range(20000), lambda a: list_sum(list_transform(range(20000), lambda b: a + b))))",
    "select length(format('{:>1000000000}', 'x'))",
    "select length(printf('%1000000000d', 1))",
    "select length(lpad('x', 2000000000, 'ab'))",
    "select length(repeat('x', 4000000000))",
    "select length(string_split(repeat('a,', 100000000), ','))",
    "select length(regexp_split_to_array(repeat('a,', 50000000), ','))",
    "select length(bitstring('1', 2000000000)::varchar)",
    "select damerau_levenshtein(repeat('a', 20000), repeat('b', 20000))",
    "select length(hex(repeat('x', 500000000)))",
    "select length(url_encode(repeat('ä', 200000000)))",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure and what it should be at most."""

    name: str
    value: float
    unit: str
    target: float

    def __str__(self) -> str:
        verdict = "ok" if self.value <= self.target else "ABOVE"
        return f"{self.name:62} {self.value:9.2f} {self.unit:3} (target {self.target:g}: {verdict})"


def publish(root: Path) -> Grant:
    files: list[GrantedFile] = []
    for number in range(FILES):
        first, key = number * FILE_BLOCKS, f"blocks_{number:05}.parquet"
        blocks = pa.array(range(first, first + FILE_BLOCKS), pa.int64())
        pq.write_table(pa.table({"block_number": blocks, "gas_used": blocks}), root / key, compression="zstd")
        files.append(GrantedFile(key, first, first + FILE_BLOCKS - 1, (root / key).stat().st_size, FILE_BLOCKS))
    end = FILES * FILE_BLOCKS
    dataset = GrantedDataset("blocks", DatasetUuid(UUID(int=1)), "blocks", 1, 0, end, (), tuple(files))
    return Grant(DEFAULT_ORG, (dataset,))


def raw(sources: dict[str, Sequence[str]], scratch: Path) -> duckdb.DuckDBPyConnection:
    """A bare connection with the settings of a worker."""
    config = {**LOCKED, "threads": Limits().threads, "memory_limit": "512MiB", "temp_directory": str(scratch)}
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("set parquet_metadata_cache = true")
    attach.show(connection, sources)
    return connection


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def overheads(root: Path, scratch: Path, grant: Grant) -> list[Figure]:
    """A leased and a single-use worker against the bare connection: an aggregate over two files of a hundred."""
    sql = "select count(*) as n, max(gas_used) as g from blocks where block_number between 41900 and 42100"
    question = Question(sql)
    paths = [str(root / grant.datasets[0].files[number].key) for number in (41, 42)]
    bare = raw({"blocks": paths}, scratch)

    def locate(key: str) -> str:
        return str(root / key)

    with Pool(scratch=scratch, reach=Reach(read=(root,))) as pool:

        def leased() -> None:
            answer = run.run(question, grant, pool=pool, locate=locate)
            assert answer.table.num_rows == 1

        def engine() -> None:
            assert bare.execute(sql).to_arrow_table().num_rows == 1

        number = 0

        def unjudged() -> None:
            nonlocal number
            number += 1
            run.run(Question(f"{sql} and {number} = {number}"), grant, pool=pool, locate=locate)

        for warm_up in (leased, engine, unjudged):
            warm_up()
        taken = [(milliseconds(engine), milliseconds(leased), milliseconds(unjudged)) for _ in range(ROUNDS)]
    base, warm, judged = (statistics.median(column) for column in zip(*taken, strict=True))
    single: list[float] = []
    with Pool(scratch=scratch, reach=Reach(read=(root,)), limits=Limits(rss_mb=1), size=1) as pool:
        for _ in range(SINGLE):
            time.sleep(0.3)  # the next process stands by
            single.append(milliseconds(lambda: run.run(question, grant, pool=pool, locate=locate)))
    cold = [milliseconds(lambda: run.once(question, grant, locate=locate, scratch=scratch)) for _ in range(3)]
    return [
        Figure("bare DuckDB, two files, p50", base, "ms", float("inf")),
        Figure("leased worker, repeated statement: beyond bare, p50", warm - base, "ms", 2),
        Figure("leased worker, new statement: beyond bare, p50", judged - base, "ms", 4),
        Figure("prewarmed worker, single use, p50", statistics.median(single[1:]), "ms", 20),
        Figure("one question without a pool, p50", statistics.median(cold), "ms", float("inf")),
    ]


def wide(scratch: Path, root: Path) -> list[Figure]:
    """A million rows as Arrow, from the worker's engine to the service's memory, against the bare execution."""
    bare = raw({}, scratch)
    limits = Limits(export_bytes=1 << 40)
    with Pool(scratch=scratch, reach=Reach(read=(root,)), limits=limits) as pool:
        verdict = Verdict(frozenset(), frozenset(), {})
        judged = pool.verdicts.put(Asked(DEFAULT_ORG, WIDE, ()), verdict)

        def worker() -> None:
            with pool.lease((DEFAULT_ORG, ""), b"wide") as child:
                child.deadline = time.monotonic() + 60
                if child.binding is None:
                    child.bind(Binding(b"wide", {}))
                rows = child.run(judged, {}, limit=1 << 40, max_bytes=1 << 40, seconds=60)
                assert pa.concat_tables(list(rows.pieces())).num_rows == WIDE_ROWS

        def engine() -> None:
            assert bare.execute(WIDE).to_arrow_table().num_rows == WIDE_ROWS

        for warm_up in (worker, engine):
            warm_up()
        taken = [(milliseconds(engine), milliseconds(worker)) for _ in range(WIDE_ROUNDS)]
    base, ours = (statistics.median(column) for column in zip(*taken, strict=True))
    return [
        Figure("bare DuckDB, a million rows of six columns, p50", base, "ms", float("inf")),
        Figure("a million rows as Arrow, against bare", ours / base, "x", 1.4),
    ]


def lateness(scratch: Path, root: Path) -> list[Figure]:
    """How long after its deadline a statement that does not listen is over."""
    worst = 0.0
    with Pool(scratch=scratch, reach=Reach(read=(root,))) as pool:
        limits = Limits(timeout_s=1.0)
        for sql in DEAF:
            run.run(Question("select 1"), Grant(DEFAULT_ORG, ()), pool=pool, locate=str)
            started = time.monotonic()
            try:
                run.run(Question(sql), Grant(DEFAULT_ORG, ()), pool=pool, locate=str, limits=limits)
            except QueryTimeout:
                late = time.monotonic() - started - limits.timeout_s
                worst = max(worst, late)
                print(f"  {late:5.2f} s late: {sql[:70]}")
            except Exception as error:  # noqa: BLE001 - out of memory, or a form that this version refuses
                print(f"  {type(error).__name__}: {sql[:70]}")
    return [Figure("latest kill after the deadline", worst, "s", 0.6)]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        root, scratch = Path(name) / "objects", Path(name) / "scratch"
        root.mkdir()
        scratch.mkdir()
        grant = publish(root)
        for figure in [*overheads(root, scratch, grant), *wide(scratch, root), *lateness(scratch, root)]:
            print(figure)


if __name__ == "__main__":
    main()
