"""Our functions in real questions, against values computed elsewhere; and that nobody can turn them against us."""

import json
import time
from decimal import Decimal

import pytest
from eth_hash.auto import keccak

from query import macros
from query.functions import reviewed
from query.functions.ours import OURS
from query.question import Limits
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, Reason, SqlRejected, WorkerCrashed
from tests.integration.query.conftest import BLOCKS, CONTRACT, SENDER, TRANSFER, Store, hash_of

START = 4.0  # seconds that a new process may take, which the deadline does not count
LATE = 1.5  # seconds past the deadline that a loaded machine may need to kill and to reap
EVENT = "'Transfer(address indexed from, address indexed to, uint256 value)'"
MAX = 2**256 - 1
ADDRESS = "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
CHECKSUM = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def values(store: Store, *expressions: str) -> list[object]:
    """What the expressions give, all in one question."""
    listed = ", ".join(f"{expression} as c{place}" for place, expression in enumerate(expressions))
    return list(store.ask(f"select {listed}").table.to_pylist()[0].values())


def refusal(store: Store, sql: str) -> str:
    with pytest.raises(QueryFailed) as caught:
        store.ask(sql)
    assert caught.value.code == "SQL_ERROR"
    return str(caught.value)


# --- values -------------------------------------------------------------------------------------------------------


def test_bytes_are_written_in_hexadecimal(store: Store) -> None:
    assert values(
        store,
        "hex_to_blob('0xABcd')",
        "hex_to_blob('00ff')",
        "hex_to_blob('0x')",
        "hex_to_blob(null)",
        "blob_to_hex(hex_to_blob('0XABcd'))",
        "blob_to_hex(''::blob)",
        "blob_to_hex(null)",
    ) == [b"\xab\xcd", b"\x00\xff", b"", None, "0xabcd", "0x", None]


def test_addresses_become_topics_and_back(store: Store) -> None:
    topic = f"hex_to_blob('0x{'00' * 12}{ADDRESS}')"
    address = bytes.fromhex(ADDRESS)
    assert values(
        store,
        f"topic_to_address({topic})",
        f"address_to_topic(hex_to_blob('0x{ADDRESS}'))",
        f"address_to_topic(topic_to_address({topic}))",
        "topic_to_address(to_u256('1461501637330902918203684832716283019655932542976'))",
        f"topic_to_address(hex_to_blob('{ADDRESS}'))",
        f"address_to_topic({topic})",
        "address_to_topic(hex_to_blob('0xab'))",
        "topic_to_address(null)",
        "address_to_topic(null)",
    ) == [address, bytes(12) + address, bytes(12) + address, None, None, None, None, None, None]


def test_addresses_have_their_checksum(store: Store) -> None:
    assert values(
        store,
        f"to_checksum_address(hex_to_blob('{ADDRESS}'))",
        "to_checksum_address(''::blob)",
        "to_checksum_address(null)",
    ) == [CHECKSUM, None, None]


def test_words_are_exact_numbers(store: Store) -> None:
    highest = f"to_u256('{MAX}')"
    assert values(
        store,
        f"u256_to_string({highest})",
        f"u256_to_double({highest})",
        "u256_to_hugeint(to_u256(5))",
        f"i256_to_string({highest})",
        f"i256_to_double({highest})",
        "i256_to_hugeint(to_i256(-5))",
        "u256_to_string(''::blob)",
        "i256_to_string(null)",
        "to_u256(null)",
        f"try(u256_to_hugeint({highest}))",
        f"to_i256(-1) = {highest}",
    ) == [str(MAX), float(MAX), 5, "-1", -1.0, -5, None, None, None, None, True]


def test_words_are_compared_as_numbers_are(store: Store) -> None:
    answer = store.ask(
        "select count(*) as n from devnet_transactions "
        "where value_binary > to_u256('1000000000000000000') and value_binary <= to_u256(ether_to_wei(1) + 2)"
    )
    assert answer.table.to_pylist() == [{"n": BLOCKS * 2}]


def test_sums_of_words_are_exact(store: Store) -> None:
    answer = store.ask(
        "select transaction_index % 2 as side, u256_sum(value_binary) as wei from devnet_transactions "
        "group by 1 order by 1"
    )
    assert [row["wei"] for row in answer.table.to_pylist()] == [
        str(BLOCKS * (2 * 10**18 + 2)),
        str(BLOCKS * (10**18 + 1)),
    ]
    assert values(
        store,
        f"(select u256_sum(v) from (values (to_u256('{MAX}')), (to_u256('{MAX}')), (null)) t(v))",
        "(select i256_sum(v) from (values (to_i256(-7)), (to_i256(4))) t(v))",
        "(select u256_sum(value_binary) from devnet_transactions where false)",
    ) == [str(2 * MAX), "-3", None]


def test_wei_become_ether_without_losing_a_digit(store: Store) -> None:
    answer = store.ask(
        "select wei_to_ether(1500000000000000001) a, wei_to_ether('1500000000000000001') b, "
        "wei_to_ether(u256_to_hugeint(to_u256(7))) c, "
        "wei_to_ether(-1500000000000000001) d, wei_to_gwei(1000000001) e, "
        "wei_to_ether(sum(value_string::decimal(38,0))) f, "
        "wei_to_ether(sum(gas_price * gas_used)) g, wei_to_ether(null) h, "
        "wei_to_ether(u256_to_hugeint(max(value_binary))) i "
        "from devnet_transactions where block_number < 10"
    )
    assert [
        f"{value:f}" if isinstance(value, Decimal) else value for value in answer.table.to_pylist()[0].values()
    ] == [
        "1.500000000000000001",
        "1.500000000000000001",
        "0.000000000000000007",
        "-1.500000000000000001",
        "1.000000001",
        "30.000000000000000030",
        f"{Decimal(sum(3 * 21_000 * (10**9 + n) for n in range(10))) / 10**18:.18f}",
        None,
        "1.000000000000000002",
    ]
    assert [column.type for column in answer.columns][:5] == ["DECIMAL(38,18)"] * 4 + ["DECIMAL(38,9)"]


def test_ether_become_wei_and_units_any_decimals(store: Store) -> None:
    assert values(
        store,
        "ether_to_wei(1.5)",
        "ether_to_wei('0.000000000000000001')",
        "ether_to_wei(2)",
        "ether_to_wei(null)",
        "format_units('1234567', 6)",
        "format_units(-1234567, 2)",
        "format_units(u256_to_string(to_u256(10)), 1)",
        "format_units(null, 1)",
        "format_units('1', null)",
        "parse_units('1.5', 6)",
        "parse_units(0.1, 1)",
        "parse_units(null, 1)",
    ) == [1500000000000000000, 1, 2 * 10**18, None, "1.234567", "-12345.67", "1", None, None, "1500000", "1", None]


def test_hashes_are_keccak_256(store: Store) -> None:
    assert values(
        store,
        "keccak256(''::blob)",
        "keccak256(encode('héllo'))",
        "keccak256(null)",
        "event_topic('event Transfer(address indexed from, address indexed to, uint value)')",
        "function_selector('transfer(address,uint256)')",
        "event_topic(null)",
    ) == [keccak(b""), keccak("héllo".encode()), None, TRANSFER, bytes.fromhex("a9059cbb"), None]


# --- decoding -----------------------------------------------------------------------------------------------------


def test_logs_are_decoded_where_they_fit(store: Store) -> None:
    answer = store.ask(
        f"select block_number, log_index, decode_event({EVENT}, topic0, topic1, topic2, topic3, data) as event "
        "from devnet_logs where block_number = 12 order by 2"
    )
    first, second = answer.table.to_pylist()
    assert first["event"] is None
    assert json.loads(second["event"]) == {"from": f"0x{SENDER.hex()}", "to": f"0x{CONTRACT.hex()}", "value": "12"}


def test_decoded_values_can_be_used_in_sql(store: Store) -> None:
    answer = store.ask(
        f"with e as (select decode_event({EVENT}, topic0, topic1, topic2, topic3, data) as event from devnet_logs) "
        "select event->>'from' as sender, sum((event->>'value')::hugeint)::bigint as total from e "
        "where event is not null group by 1"
    )
    assert answer.table.to_pylist() == [{"sender": f"0x{SENDER.hex()}", "total": sum(range(BLOCKS))}]


def test_an_event_with_other_indexed_parameters_is_another_event(store: Store) -> None:
    """ERC-721 has the same hash and a fourth topic."""
    erc721 = "'Transfer(address indexed,address indexed,uint256 indexed)'"
    answer = store.ask(
        f"select count(*) filter (where decode_event({erc721}, topic0, null, null, null, data) is not null) as n, "
        f""
        f"count(*) filter (where decode_event({EVENT}, topic0, topic1, topic2, topic3, data) is not null) as m "
        "from devnet_logs"
    )
    assert answer.table.to_pylist() == [{"n": 0, "m": BLOCKS}]


def test_calldata_is_decoded_where_it_fits(store: Store) -> None:
    answer = store.ask(
        "select decode_input('transfer(address to, uint256 amount)', input) as call, "
        "decode_input('approve(address,uint256)', input) as other, decode_input('f()', null) as none "
        "from devnet_transactions limit 1"
    )
    assert answer.table.to_pylist() == [{"call": f'{{"to":"0x{"00" * 20}","amount":"0"}}', "other": None, "none": None}]


def test_a_signature_may_come_from_a_column(store: Store) -> None:
    answer = store.ask(
        "select s, left(blob_to_hex(event_topic(s)), 10) as topic from "
        "(values ('Transfer(address,address,uint256)'), ('Approval(address,address,uint256)'), (null)) t(s)"
    )
    assert [row["topic"] for row in answer.table.to_pylist()] == ["0xddf252ad", "0x8c5be1e5", None]


def test_constants_are_computed_once_and_reach_the_scan(store: Store) -> None:
    """A hash or an address that you write filters as fast as the bytes themselves would."""
    started = time.monotonic()
    answer = store.ask(
        "select count(*) as n from range(3000000) where keccak256(repeat('x', 4000000)::blob) = ''::blob",
        limits=Limits(timeout_s=10),
    )
    assert answer.table.to_pylist() == [{"n": 0}]
    assert time.monotonic() - started < 10


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("select wei_to_ether(value_binary) from devnet_transactions", "wrong type"),
        ("select to_u256(value_binary) from devnet_transactions", "a text is no number"),
        ("select to_checksum_address('0xab')", "to_checksum_address() has no form"),
        ("select keccak256()", "keccak256() has no form"),
        ("select hex_to_blob('0xabc')", "no hexadecimal"),
        ("select hex_to_blob('xyz')", "no hexadecimal"),
        ("select hex_to_blob(blob_to_hex(topic0) || 'z') from devnet_logs", "no hexadecimal"),
        ("select event_topic('Transfer')", "a signature is not understood"),
        ("select event_topic('f' || block_number) from devnet_logs", "a signature is not understood"),
        (
            "select decode_event('E(T t)', topic0, topic1, topic2, topic3, data) from devnet_logs",
            "address for a contract",
        ),
        ("select decode_input('', input) from devnet_transactions", "a signature is not understood"),
        ("select to_u256(-1)", "whole numbers of up to 256 bits"),
        ("select to_u256('1.5')", "whole numbers of up to 256 bits"),
        ("select to_u256(blob_to_hex(topic0)) from devnet_logs", "whole numbers of up to 256 bits"),
        ("select ether_to_wei('1.0000000000000000001')", "more digits behind the point"),
        ("select format_units('1', 256)", "a text is no number"),
        ("select keccak256('abc')", "keccak256() has no form for these arguments"),
        ("select topic_to_address('0xab')", "topic_to_address() has no form"),
        ("select keccak256(repeat('x', 4200000)::blob)", "at most 4 MiB"),
        ("select u256_to_hugeint(to_u256('340282366920938463463374607431768211456'))", "wrong type"),
    ],
)
def test_mistakes_are_explained_in_one_sentence(store: Store, sql: str, wanted: str) -> None:
    said = refusal(store, sql)
    assert wanted in said
    assert "/" not in said.replace("0-9", "")
    assert "xyz" not in said


def test_a_mistake_can_be_tried(store: Store) -> None:
    assert values(
        store, "try(hex_to_blob('xyz'))", "try(event_topic('x'))", "try(to_u256(-1))", "try(ether_to_wei('x'))"
    ) == [None, None, None, None]


# --- names --------------------------------------------------------------------------------------------------------


def test_every_name_of_ours_exists_and_collides_with_none_of_the_engine(store: Store) -> None:
    import duckdb

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
    said = refusal(store, f"select {name}(1::bit, 1::bit, 1::bit, 1::bit, 1::bit, 1::bit, 1::bit)")
    assert "no form" in said or "check its names" in said


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
