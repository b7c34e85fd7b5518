"""Nobody can replace our functions, reach through them, or outgrow the limits of a question with them."""

import time

import duckdb
import pytest
from eth_hash.auto import keccak

from query import macros
from query.functions import reviewed
from query.functions.ours import OURS
from query.question import Limits
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, Reason, SqlRejected, WorkerCrashed
from tests.integration.query.conftest import Store, hash_of

START = 4.0  # seconds that a new process may take, which the deadline does not count
LATE = 1.5  # seconds past the deadline that a loaded machine may need to kill and to reap


def values(store: Store, *expressions: str) -> list[object]:
    """What the expressions give, all in one question."""
    listed = ", ".join(f"{expression} as c{place}" for place, expression in enumerate(expressions))
    return list(store.ask(f"select {listed}").table.to_pylist()[0].values())


# --- names --------------------------------------------------------------------------------------------------------


def test_every_name_of_ours_exists_and_collides_with_none_of_the_engine(store: Store) -> None:
    bare = duckdb.connect()
    query = "select function_name from duckdb_functions() where database_name != 'system' or function_name[1] = '_'"
    before = {str(row[0]) for row in bare.execute("select function_name from duckdb_functions()").fetchall()}
    macros.install(bare)
    added = {str(row[0]) for row in bare.execute(query).fetchall()} - before
    assert {name for name in added if not name.startswith("_")} == OURS
    assert OURS.isdisjoint(before)
    assert not {name for name in added if name.startswith("_")} & before


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_name_of_ours_passes_the_gate_and_is_known_to_the_engine(store: Store, name: str) -> None:
    assert name in reviewed.load().scalar
    with pytest.raises(QueryFailed, match=r"no form|check its names"):
        store.ask(f"select {name}(1::bit, 1::bit, 1::bit, 1::bit, 1::bit, 1::bit, 1::bit)")


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("create or replace macro keccak256(x) as 'forged'", Reason.NOT_SELECT),
        (
            "create or replace temp macro hex_to_blob(x) as (select content from read_text('/etc/passwd'))",
            Reason.NOT_SELECT,
        ),
        ("create function decode_event(a) as a", Reason.NOT_SELECT),
        ("drop macro keccak256", Reason.NOT_SELECT),
        ("drop function _keccak256", Reason.NOT_SELECT),
        ("alter macro keccak256 rename to x", None),
        ("select _keccak256('a'::blob)", Reason.FUNCTION),
        ("select _decode_event('E()', null, null, null, null)", Reason.FUNCTION),
        ("select _wei(1)", Reason.FUNCTION),
        ("select temp.keccak256(''::blob)", Reason.FUNCTION),
        ("select system.main.keccak256(''::blob)", Reason.FUNCTION),
        ("select * from keccak256(''::blob)", Reason.TABLE_FUNCTION),
        ("select * from decode_event('E()', ''::blob, null, null, null, null)", Reason.TABLE_FUNCTION),
        ("select keccak256((select content from read_blob('/etc/passwd')))", Reason.TABLE_FUNCTION),
        ("select blob_to_hex(getenv('HOME')::blob)", Reason.FUNCTION),
        ("select event_topic(current_setting('temp_directory'))", Reason.FUNCTION),
        ("select decode_input($1, ''::blob)", None),
        ("select hex_to_blob(x'00')", None),
    ],
)
def test_nobody_can_replace_them_or_reach_through_them(store: Store, sql: str, reason: Reason | None) -> None:
    with pytest.raises(SqlRejected) as caught:
        store.ask(sql)
    assert reason in (None, caught.value.reason)


@pytest.mark.parametrize(
    "argument",
    ["'); drop view devnet_logs; --", "f(uint8)\\'\\0", 'E(uint8 "a")', "${jndi}", "{0}", "%s%n", "f(uint8[", "é(())"],
)
def test_arguments_are_text_and_nothing_else(store: Store, argument: str) -> None:
    quoted = argument.replace("'", "''")
    assert (
        values(
            store,
            f"try(event_topic('{quoted}'))",
            f"try(hex_to_blob('{quoted}'))",
            f"try(to_u256('{quoted}'))",
            f"try(parse_units('{quoted}', 6))",
        )
        == [None] * 4
    )


def test_a_column_may_be_called_like_a_parameter(store: Store) -> None:
    answer = store.ask(
        "select blob_to_hex(bytes) a, format_units(number, decimals) b, topic_to_address(topic) c "
        "from (select 'a'::blob as bytes, 12 as number, 1 as decimals, to_u256(1) as topic)"
    )
    assert list(answer.table.to_pylist()[0].values()) == ["0x61", "1.2", bytes(19) + b"\x01"]


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "select count(keccak256((range || repeat('x', 200000))::blob)) from range(10000000)",
        "select count(u256_to_string(to_u256(range))) from range(1000000000)",
        "select count(event_topic('f' || range || '(uint8)')) from range(1000000000)",
        "select count(decode_input('f(' || repeat('uint8,', 600) || 'string s)', "
        "function_selector('f(' || repeat('uint8,', 600) || 'string)') || range::varchar::blob)) from range(100000000)",
    ],
)
def test_they_end_at_the_deadline(store: Store, sql: str) -> None:
    started = time.monotonic()
    with pytest.raises((QueryTimeout, QueryMemory)):
        store.ask(sql, limits=Limits(timeout_s=1))
    assert time.monotonic() - started < 1 + Limits().grace_s + START + LATE


@pytest.mark.parametrize(
    "sql",
    [
        "select count(keccak256((range || repeat('x', 4000000))::blob)) from range(100000)",
        "select length(format_units(repeat('9', 1000000000), 6))",
        "select event_topic(repeat('f', 1000000000))",
        "select event_topic('f(' || repeat('(', 4000) || ')')",
        "select decode_input('f(bytes[][] x)', function_selector('f(bytes[][])') || repeat('x', 500000000)::blob)",
        "select hex_to_blob(repeat('ab', 1000000000))",
    ],
)
def test_bombs_end_alone(store: Store, sql: str) -> None:
    """Whichever cap meets it first; nothing here grows, and the next question is answered."""
    try:
        answer = store.ask(sql, limits=Limits(timeout_s=5))
        assert answer.table.num_rows == 1
    except (QueryMemory, QueryTimeout, WorkerCrashed, QueryFailed):
        pass
    assert store.ask("select keccak256(''::blob) as k").table.to_pylist() == [{"k": keccak(b"")}]


def test_the_process_needs_no_file_to_run_them(store: Store) -> None:
    """What Python loads late is loaded before the process is confined: each kind of function runs in a new one."""
    for expression in (
        "keccak256(''::blob)",
        "format_units('1', 1)",
        "decode_input('f()', function_selector('f()'))",
        "decode_event('E()', event_topic('E()'), null, null, null, null)",
        "u256_to_string(to_u256(1))",
    ):
        assert store.ask(f"select {expression} as v").table.num_rows == 1
    assert hash_of(1) == values(store, "to_u256(1)")[0]
