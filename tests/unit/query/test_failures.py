"""Engine errors become codes and sentences; nothing of the engine's text that could hold a path passes."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from query import engine, failures, run
from query.engine import Engine, EngineLimits
from query.failures import Code, Failure, Help
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, WorkerCrashed, WorkerUnavailable


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("errors")
    pq.write_table(pa.table({"block_number": [1, 2], "gas_used": [3, 4], "address": [b"a", b"b"]}), root / "t.parquet")
    return Engine({"t": [str(root / "t.parquet")], "u": [str(root / "t.parquet")]},
                  limits=EngineLimits(1, 256, 64), spill=root)  # fmt: skip


def fail(bound: Engine, sql: str) -> Failure:
    with pytest.raises(duckdb.Error) as caught:
        bound.connection.execute(sql).fetchall()
    return failures.classify(type(caught.value).__name__, engine.error_details(caught.value))


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("select gas_usd from t", 'there is no column "gas_usd" here: did you mean gas_used'),
        ("select t.nosuch from t", '"t" has no column "nosuch"'),
        ("select x.gas_used from t", 'nothing in FROM is called "x"'),
        ("select gas_used from t, u", 'the column "gas_used" is in more than one relation'),
        ("select gas_used, count(*) from t", "any_value(gas_used)"),
        ("select lower(1, 2)", "no form of this function takes lower(INTEGER_LITERAL, INTEGER_LITERAL)"),
        ("select 'x'::int", "use try_cast"),
        ("select 9223372036854775807 + 1", "out of its type's range"),
        ("select (select gas_used from t)", "more than one row"),
        ("select sum(sum(gas_used)) from t", "check its names, types and grouping"),
        ("select hex_to_blob('/etc')", "a text is no hexadecimal"),
        ("select event_topic('/etc')", "a signature is not understood"),
        ("select to_u256('/etc')", "a text is no number"),
        ("select keccak256(repeat('x', 5000000)::blob)", "at most 4 MiB"),
        ("select keccak256('x')", "keccak256() has no form for these arguments"),
        ("select keccak256()", "keccak256() has no form for these arguments"),
        ("select error('/etc/passwd')", "check its names, types and grouping"),
    ],
)
def test_mistake_is_explained(bound: Engine, sql: str, wanted: str) -> None:
    failure = fail(bound, sql)
    assert failure.code is Code.SQL_ERROR
    assert wanted in failures.sentence(failure)
    assert "/" not in failures.sentence(failure)


@pytest.mark.parametrize("name", ["MemoryError", "ArrowMemoryError", "pyarrow.lib.ArrowMemoryError"])
def test_memory_that_our_functions_lack_is_lacking_memory(name: str) -> None:
    message = f"Python exception occurred while executing the UDF: {name}: malloc of size 1 failed"
    assert failures.classify("InvalidInputException", {"exception_message": message}) == Failure(Code.MEMORY)
    assert failures.classify("InvalidInputException", {"exception_message": name}).code is Code.SQL_ERROR


def test_position_is_the_place_of_the_mistake(bound: Engine) -> None:
    assert fail(bound, "select block_number, nosuch from t").position == 21


@pytest.mark.parametrize(
    ("kind", "code"),
    [("OutOfMemoryException", Code.MEMORY), ("MemoryError", Code.MEMORY), ("InterruptException", Code.TIMEOUT),
     ("IOException", Code.STORE), ("HTTPException", Code.STORE), ("InternalException", Code.CRASH),
     ("FatalException", Code.CRASH), ("BinderException", Code.SQL_ERROR), ("AnythingElse", Code.SQL_ERROR)],
)  # fmt: skip
def test_error_class_gives_the_code(kind: str, code: Code) -> None:
    assert failures.classify(kind, {"exception_message": "Cannot open file /srv/secret"}).code is code


@pytest.mark.parametrize("message", ["Could not write file /srv/t", "No space left on device", "failed to offload"])
def test_full_spill_is_lack_of_memory_and_no_fault_of_the_store(message: str) -> None:
    assert failures.classify("IOException", {"exception_message": message}) == Failure(Code.MEMORY)


@pytest.mark.parametrize(
    ("code", "error", "name"),
    [
        (Code.SQL_ERROR, QueryFailed, "SQL_ERROR"),
        (Code.RESULT_TOO_LARGE, QueryFailed, "RESULT_TOO_LARGE"),
        (Code.MEMORY, QueryMemory, "QUERY_MEMORY"),
        (Code.TIMEOUT, QueryTimeout, "QUERY_TIMEOUT"),
        (Code.CRASH, WorkerCrashed, "WORKER_CRASH"),
        (Code.CONFINEMENT, WorkerUnavailable, "WORKER_UNAVAILABLE"),
    ],
)
def test_each_failure_of_a_child_becomes_an_error_with_its_code(code: Code, error: type[Exception], name: str) -> None:
    raised = run._error(Failure(code), "select 1")
    assert type(raised) is error
    assert getattr(raised, "code", None) == name


def test_a_failed_statement_tells_the_character_where_it_fails() -> None:
    raised = run._error(Failure(Code.SQL_ERROR, Help.TABLE, ("x",), position=11), "select 'äö', x.y")
    assert isinstance(raised, QueryFailed)
    assert raised.position == 10
    assert str(raised) == 'the statement fails at character 10: nothing in FROM is called "x": use its alias'


def test_names_that_are_not_plain_never_reach_the_sentence() -> None:
    """A hostile child could put anything into its names."""
    for names in (("/etc/passwd",), ("http://a/b?X-Amz-Signature=c",), ("a b",), ("select 1",), ("f(/etc/passwd)",)):
        assert failures.sentence(Failure(Code.SQL_ERROR, Help.COLUMN, names)) == failures.SENTENCES[Help.NONE]
    assert failures.sentence(Failure(Code.SQL_ERROR, Help.RELATION_COLUMN, ("a",))) == failures.SENTENCES[Help.NONE]
