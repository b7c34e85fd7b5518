"""Questions from end to end: a real child, a real engine, real Parquet files."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from query import confine, results, spawn
from query.process import Binding, Child
from query.question import Limits, Question
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, Reason, SqlRejected, WorkerCrashed, WorkerUnavailable
from tests.integration.query.conftest import Store
from trace_ray.contracts import DEFAULT_ORG, Grant, GrantedDataset
from trace_ray.errors import FatalError, RefusedInput, StoreUnavailable

REPOSITORY = Path(__file__).parents[3]
LATE = 1.5  # seconds past the deadline that a loaded machine may need to kill and to reap


def test_answer_says_what_it_was_read_from(store: Store) -> None:
    answer = store.ask(
        "select count(*) as n, max(block_number) as last from devnet_blocks where block_number between 12 and 27"
    )
    assert answer.table.to_pylist() == [{"n": 16, "last": 27}]
    assert [(column.name, column.type) for column in answer.columns] == [("n", "BIGINT"), ("last", "BIGINT")]
    assert (answer.files_read, answer.files_total) == (2, 6)
    assert [(entry.name, entry.snapshot, entry.to_block) for entry in answer.snapshot] == [("devnet_blocks", 6, 60)]
    assert str(answer.snapshot[0].gaps[0]) == "[60, 70)"
    assert not answer.truncated
    assert answer.seconds > 0


def test_joins_across_datasets_work(store: Store) -> None:
    answer = store.ask(
        "select b.block_number, count(distinct t.transaction_hash) as txs, count(l.log_index) as logs "
        "from devnet_blocks b "
        "join devnet_transactions t using (block_number) left join devnet_logs l using (transaction_hash) "
        "group by all order by 1 limit 2"
    )
    assert answer.table.to_pylist() == [
        {"block_number": 0, "txs": 3, "logs": 2},
        {"block_number": 1, "txs": 3, "logs": 2},
    ]
    assert {entry.name for entry in answer.snapshot} == {"devnet_blocks", "devnet_transactions", "devnet_logs"}


def test_binary_columns_stay_blobs_and_are_rendered_in_hex(store: Store) -> None:
    answer = store.ask("select from_address, sum(value_string::hugeint) as wei from devnet_transactions group by 1")
    assert [column.type for column in answer.columns] == ["BLOB", "HUGEINT"]
    assert json.loads(results.to_json(answer))["rows"] == [
        ["0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266", "180000000000000000180"]
    ]


def test_statement_without_relations_reads_nothing(store: Store) -> None:
    answer = store.ask("select 1 as one")
    assert answer.table.to_pylist() == [{"one": 1}]
    assert (answer.files_read, answer.files_total, answer.snapshot) == (0, 0, ())


@pytest.mark.parametrize(
    ("limit", "rows", "truncated"), [(0, 1, True), (1, 1, True), (59, 59, True), (60, 60, False), (99999, 60, False)]
)
def test_limit_is_clamped_and_cut_rows_are_told(store: Store, limit: int, rows: int, truncated: bool) -> None:
    answer = store.ask("from devnet_blocks", limit=limit)
    assert (answer.table.num_rows, answer.truncated) == (rows, truncated)


def test_no_answer_is_longer_than_ten_thousand_rows(store: Store) -> None:
    answer = store.ask("select range as n from range(10000000000)", limit=99_999)
    assert (answer.table.num_rows, answer.truncated) == (10_000, True)


def test_answer_stops_at_its_byte_cap(store: Store) -> None:
    answer = store.ask("select repeat('x', 100000) as t from range(1000)")
    assert answer.truncated
    assert 50 <= answer.table.num_rows <= 105
    assert answer.table.nbytes <= Limits().bytes


def test_one_row_above_the_byte_cap_is_refused(store: Store) -> None:
    with pytest.raises(QueryFailed) as caught:
        store.ask("select repeat('x', 20000000)")
    assert caught.value.code == "RESULT_TOO_LARGE"


@pytest.mark.parametrize("expression", ["1::uhugeint", "'101'::bit", "123::bignum", "timetz '10:00:00+02'",
                                        "'5'::variant", "[{'a': 1::uhugeint}]", "map {1: '1'::bit}",
                                        "170141183460469231731687303715884105727::hugeint", "time '24:00:00'",
                                        "{'at': [time '24:00:00']}", "to_hours(3000000)",
                                        "{'i': [null, to_days(1), -to_hours(3000000)]}"])  # fmt: skip
def test_type_that_would_lose_its_value_is_refused(store: Store, expression: str) -> None:
    with pytest.raises(QueryFailed, match="cast it to VARCHAR"):
        store.ask(f"select {expression} as v")


def test_enumeration_counts_as_the_texts_that_it_becomes(store: Store) -> None:
    """As a dictionary ten thousand long texts would be one, until somebody writes them out."""
    long = "x" * 30_000
    one = f"select '{long}'::enum('{long}') as e from range(10000)"
    answer = store.ask(f"select e, [e] as l from ({one})", limit=10_000)
    assert answer.truncated
    assert 100 <= answer.table.num_rows <= 200
    assert answer.table.column("e")[0].as_py() == answer.table.column("l")[0].as_py()[0] == long
    assert answer.columns[0].type.startswith("ENUM")


# --- refusals -----------------------------------------------------------------------------------------------------


def test_refusal_reaches_the_asker_with_reason_and_place(store: Store) -> None:
    with pytest.raises(SqlRejected) as caught:
        store.ask("select * from devnet_block")
    assert caught.value.reason is Reason.RELATION
    assert caught.value.position == 15
    assert "did you mean devnet_blocks?" in str(caught.value)
    assert isinstance(caught.value, RefusedInput)


@pytest.mark.parametrize("sql", ["select '" + "a" * 2_000_000 + "'", "select '\ud800'", "select 1\x00"])
def test_text_that_no_engine_should_see_is_refused_before_a_child_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.setattr(spawn, "BOOT", "raise SystemExit")
    with pytest.raises(SqlRejected):
        store.ask(sql)


def test_machine_that_cannot_start_a_child_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkerUnavailable, match="cannot be started"):
        Store(store.root, store.grant, tmp_path / "file").ask("select 1")
    monkeypatch.setattr(spawn, "BOOT", "raise SystemExit")
    with pytest.raises(WorkerUnavailable, match="doctor"):
        store.ask("select 1")


def test_typo_in_a_column_is_explained_with_its_place(store: Store) -> None:
    with pytest.raises(QueryFailed) as caught:
        store.ask("select 'ä', gas_usd from devnet_blocks")
    assert caught.value.code == "SQL_ERROR"
    assert caught.value.position == 13
    assert 'no column "gas_usd"' in str(caught.value)
    assert "gas_used" in str(caught.value)


def test_virtual_columns_that_show_locations_do_not_resolve(store: Store) -> None:
    for column in ("filename", "file_row_number", "rowid", "file_index"):
        with pytest.raises(QueryFailed):
            store.ask(f"select {column} from devnet_blocks")


def test_dataset_without_files_says_so(store: Store) -> None:
    first = store.grant.datasets[0]
    empty = GrantedDataset("devnet_new", first.dataset_uuid, "blocks", 0, 0, 60, (), ())
    with pytest.raises(QueryFailed, match="devnet_new has no published range yet"):
        Store(store.root, Grant(DEFAULT_ORG, (empty,)), store.scratch).ask("from devnet_new")


def test_missing_object_is_an_error_of_the_store_without_its_path(store: Store, tmp_path: Path) -> None:
    broken = Store(tmp_path / "elsewhere", store.grant, store.scratch)
    with pytest.raises(StoreUnavailable) as caught:
        broken.ask("from devnet_blocks")
    assert str(tmp_path) not in str(caught.value)


def test_sql_is_not_shown_by_a_question() -> None:
    assert "secret" not in repr(Question("select 'secret'"))


def test_child_imports_from_where_its_parent_does(tmp_path: Path) -> None:
    """On a cluster the packages stand in a working directory, which no installed Python knows."""
    for package in ("query", "trace_ray"):
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    worker = tmp_path / "query" / "worker.py"
    worker.write_text(worker.read_text().replace('{"landlock": abi}', '{"landlock": abi + 1000}'))
    spill = tmp_path / "spill"
    spill.mkdir()
    script = """
import sys, time
from pathlib import Path
from query.process import Reach
from query.question import Limits
from query.spawn import Zygote
zygote = Zygote()
child = zygote.fork(Path(sys.argv[1]), Reach(), Limits())
child.deadline = time.monotonic() + 20
print(child.hello())
child.kill()
zygote.reap(child.pid)
zygote.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(spill)],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert int(done.stdout) == confine.landlock_abi() + 1000


def test_service_does_not_load_the_engine() -> None:
    """The process that holds tokens and keys never opens DuckDB."""
    script = "import query.run, query.results, sys; print(sorted({'duckdb', '_duckdb', 'sqlglot'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


# --- limits -------------------------------------------------------------------------------------------------------


def test_question_is_interrupted_at_its_deadline(store: Store) -> None:
    """It is the interrupt that ends it: the kill would come only much later."""
    sql = "select count(*) from range(100000) a, range(100000) b, range(1000) c"
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        store.ask(sql, limits=Limits(timeout_s=1, grace_s=30))
    assert time.monotonic() - started < 1 + LATE


def test_function_that_does_not_listen_is_killed(store: Store) -> None:
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        store.ask("select levenshtein(repeat('a', 100000), repeat('b', 100000))", limits=Limits(timeout_s=1))
    assert time.monotonic() - started < 1 + Limits().grace_s + LATE


def test_parser_bomb_ends_by_the_deadline(store: Store) -> None:
    bomb = "select * from devnet_blocks where " + " and ".join(["a=1"] * 7_000)
    started = time.monotonic()
    with pytest.raises((SqlRejected, QueryFailed, QueryTimeout)):
        store.ask(bomb, limits=Limits(timeout_s=2))
    assert time.monotonic() - started < 2 + Limits().grace_s + LATE


@pytest.mark.parametrize(
    "sql",
    [
        "select repeat('x', 4000000000)",
        "select list(range) from range(200000000)",
        "select length(regexp_replace(repeat('a', 100000000), 'a', 'bbbbbbbb', 'g'))",
    ],
)
def test_memory_bomb_ends_alone(store: Store, sql: str) -> None:
    """Whichever cap meets it first; nothing here grows, and the next question is answered."""
    with pytest.raises((QueryMemory, QueryTimeout, WorkerCrashed, QueryFailed)):
        store.ask(sql, limits=Limits(timeout_s=5))
    assert store.ask("select 1").table.num_rows == 1


def test_large_sort_spills_within_its_cap_and_leaves_nothing(store: Store) -> None:
    sql = "select range as n, hash(range) as h from range(6000000) order by h desc"
    assert store.ask(sql, limit=10, limits=Limits(memory_mb=64)).table.num_rows == 10
    with pytest.raises(QueryMemory):
        store.ask(sql.replace("6000000", "60000000"), limits=Limits(memory_mb=64, spill_mb=16))
    assert list(store.scratch.iterdir()) == []


def test_dead_child_is_a_crash_and_the_next_question_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own crashes are behind the gate (test_walls); here the child is killed in the middle."""
    bind = Child.bind

    def killed(child: Child, binding: Binding) -> None:
        os.kill(child.pid, signal.SIGKILL)
        bind(child, binding)

    with monkeypatch.context() as patch:
        patch.setattr(Child, "bind", killed)
        with pytest.raises(WorkerCrashed):
            store.ask("from devnet_blocks")
    assert issubclass(WorkerCrashed, FatalError)
    assert store.ask("select 1").table.num_rows == 1


def test_nothing_is_left_behind(store: Store) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for sql in ("select 1", "select nosuch", "selec"):
        with contextlib.suppress(RefusedInput):
            store.ask(sql)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(store.scratch.iterdir()) == []


def test_kernel_without_landlock_is_refused_unless_allowed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(abi: int) -> bool:
        return abi > 1_000

    monkeypatch.setattr(confine, "is_complete", never)
    with pytest.raises(WorkerUnavailable, match="confine"):
        store.ask("select 1")
    assert store.ask("select 1", limits=Limits(without_landlock=True)).table.num_rows == 1
