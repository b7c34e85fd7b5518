"""Our functions in real questions, against values computed elsewhere, and what is said of mistakes."""

import json
import time
from decimal import Decimal

import pytest
from eth_hash.auto import keccak

from query.question import Limits
from query.refusals import QueryFailed
from tests.integration.query.conftest import BLOCKS, CONTRACT, SENDER, TRANSFER, Store

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
