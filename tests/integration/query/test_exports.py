"""Results that are larger than an answer, and what a question would read."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from query import run
from query.process import Child
from query.question import Limits, Question
from query.refusals import (
    QueryFailed,
    QueryTimeout,
    SqlRejected,
)
from tests.integration.query.desk import (
    LATE,
    Desk,
)

# --- results beyond an answer -------------------------------------------------------------------------------------


def test_result_beyond_the_rows_of_an_answer_is_exported_whole(desk: Desk) -> None:
    answer = desk.ask("select range as n, 'row ' || range as t from range(250000)", limit=10_000, export=True)
    assert (answer.table.num_rows, answer.truncated) == (10_000, True)
    assert answer.export is not None
    content = answer.export.path.read_bytes()
    assert (answer.export.rows, answer.export.bytes) == (250_000, len(content))
    assert answer.export.sha256 == hashlib.sha256(content).hexdigest()
    assert numbers(answer.export.path) == list(range(250_000))


def numbers(path: Path) -> Sequence[object]:
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    return pq.read_table(path).column("n").to_pylist()


def test_result_beyond_the_bytes_of_an_answer_is_exported_whole(desk: Desk) -> None:
    answer = desk.ask("select range as n, repeat('x', 100000) as t from range(300)", limit=200, export=True)
    assert 50 <= answer.table.num_rows <= 105
    assert answer.table.nbytes <= Limits().bytes
    assert answer.export is not None
    assert numbers(answer.export.path) == list(range(200))


@pytest.mark.parametrize(("limit", "rows", "truncated"), [(9_999, 9_999, True), (10_000, 10_000, False)])
def test_result_that_fits_is_not_exported(desk: Desk, limit: int, rows: int, truncated: bool) -> None:
    answer = desk.ask("select range as n from range(10000)", limit=limit, export=True)
    assert (answer.table.num_rows, answer.truncated, answer.export) == (rows, truncated, None)


def test_export_has_its_own_cap_and_leaves_no_file(desk: Desk) -> None:
    limits = Limits(export_bytes=20 * 1024**2)
    with pytest.raises(QueryFailed) as caught:
        desk.ask("select range as n from range(10000000)", limit=10_000, export=True, limits=limits)
    assert caught.value.code == "RESULT_TOO_LARGE"
    assert list(desk.store.scratch.glob("*/*.parquet")) == []
    assert desk.ask("select 1").table.num_rows == 1


def test_export_ends_at_the_deadline(desk: Desk) -> None:
    desk.ask("select 1")
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        desk.ask("select range as n, sha256(range::varchar) from range(100000000)", limit=10_000, export=True,
                 limits=Limits(timeout_s=1, export_bytes=1 << 40))  # fmt: skip
    assert time.monotonic() - started < 1 + Limits().grace_s + LATE
    assert list(desk.store.scratch.glob("*/*.parquet")) == []


# --- dry run ------------------------------------------------------------------------------------------------------


def test_plan_says_what_would_be_read_and_runs_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "run", None)
    question = Question("select error('it ran') from devnet_transactions where block_number between 12 and 27")
    planned = run.plan(question, desk.store.grant, pool=desk.pool)
    [read] = planned.datasets
    files = desk.store.grant.datasets[1].files
    assert (read.name, read.snapshot) == ("devnet_transactions", 6)
    assert (read.files_read, read.files_total, read.rows) == (2, 6, 60)
    assert read.bytes_read == sum(file.bytes for file in files[1:3])
    assert read.bytes_total == sum(file.bytes for file in files)
    assert [str(blocks) for blocks in read.blocks] == ["[12, 28)"]
    with pytest.raises(SqlRejected):
        run.plan(Question("select * from nosuch"), desk.store.grant, pool=desk.pool)
