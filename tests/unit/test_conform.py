"""What Cryo writes becomes the stable schema, or an error; never a changed value."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cryo_rows import ADDRESS, CHAIN_ID, COLUMNS, HASH, cryo_table
from trace_ray.contracts import Receipts
from trace_ray.errors import PublicationTooLarge, SourceUnavailable, UnsupportedExtraction
from trace_ray.extract.conform import conform
from trace_ray.extract.schema import SCHEMAS

MAX_U256 = 2**256 - 1


def conformed(table: pa.Table, name: str, receipts: Receipts = Receipts.ETHEREUM) -> pa.Table:
    return conform(table, name, chain_id=CHAIN_ID, receipts=receipts)


def test_every_offered_dataset_is_known() -> None:
    assert COLUMNS.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_rows_get_exactly_the_stable_schema(name: str) -> None:
    table = conformed(cryo_table(name, {"block_number": 5}, {"block_number": 4}), name)
    assert table.schema.equals(SCHEMAS[name].columns)
    assert table.column("block_number").to_pylist() == [4, 5]


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_rows_are_an_empty_table_of_the_stable_schema(name: str) -> None:
    table = conformed(cryo_table(name), name)
    assert (table.num_rows, table.schema) == (0, SCHEMAS[name].columns)


@pytest.mark.parametrize(
    ("name", "column"), [(name, column) for name, columns in COLUMNS.items() for column in columns]
)
def test_a_missing_column_is_refused(name: str, column: str) -> None:
    with pytest.raises(UnsupportedExtraction, match="Cryo wrote"):
        conformed(cryo_table(name, {}).drop_columns([column]), name)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_unknown_column_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedExtraction, match="unknown: blob_fee"):
        conformed(cryo_table(name, {}).append_column("blob_fee", pa.array([1])), name)


def test_a_doubled_column_is_refused() -> None:
    table = cryo_table("blocks", {})
    with pytest.raises(UnsupportedExtraction):
        conformed(table.append_column("author", table.column("author")), "blocks")


def test_a_column_of_another_kind_is_refused() -> None:
    table = cryo_table("blocks", {})
    place = table.schema.get_field_index("timestamp")
    with pytest.raises(UnsupportedExtraction, match=r"blocks\.timestamp as double"):
        conformed(table.set_column(place, "timestamp", pa.array([1.0])), "blocks")


@pytest.mark.parametrize(
    ("name", "column", "too_large"),
    [
        ("transactions", "nonce", 2**63),
        ("transactions", "transaction_index", 2**31),
        ("transactions", "gas_price", 2**64 - 1),
        ("logs", "log_index", 2**31),
        ("four_byte_counts", "size", 2**63),
    ],
)
def test_a_number_that_does_not_fit_is_refused(name: str, column: str, too_large: int) -> None:
    with pytest.raises(UnsupportedExtraction, match=rf"{name}\.{column} does not fit"):
        conformed(cryo_table(name, {column: too_large}), name)


@pytest.mark.parametrize(("column", "largest"), [("nonce", 2**63 - 1), ("transaction_index", 2**31 - 1)])
def test_the_largest_numbers_survive(column: str, largest: int) -> None:
    table = conformed(cryo_table("transactions", {column: largest}), "transactions")
    assert table.column(column).to_pylist() == [largest]


@pytest.mark.parametrize(
    ("name", "column"), [("blocks", "logs_bloom"), ("transactions", "block_number"), ("geth_calls", "transaction_hash")]
)
def test_null_where_none_may_be_is_the_providers_fault(name: str, column: str) -> None:
    with pytest.raises(SourceUnavailable, match=f"1 rows of {name} have no {column}"):
        conformed(cryo_table(name, {}, {column: None}), name)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("logs", "address", ADDRESS[:19]),
        ("logs", "topic2", HASH + b"\0"),
        ("blocks", "block_hash", b""),
        ("blocks", "logs_bloom", bytes(255)),
        ("native_transfers", "to_address", HASH),
        ("erc20_transfers", "value_binary", b"\1"),
    ],
)
def test_bytes_of_a_wrong_length_are_refused(name: str, column: str, value: bytes) -> None:
    with pytest.raises(SourceUnavailable, match=rf"{name}\.{column} does not hold \d+ bytes"):
        conformed(cryo_table(name, {}, {column: value}), name)


def test_a_column_beyond_what_one_table_can_hold_asks_for_smaller_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap itself is 2 GiB; a lower one shows the same."""
    table = cryo_table("contracts", {"code": bytes(1000)})
    assert conformed(table, "contracts").num_rows == 1
    monkeypatch.setattr("trace_ray.extract.conform.MAX_COLUMN_BYTES", 999)
    with pytest.raises(PublicationTooLarge, match=r"contracts\.code of one range .* lower chunk_size"):
        conformed(table, "contracts")


def test_rows_of_another_chain_are_refused() -> None:
    with pytest.raises(SourceUnavailable, match="answered for chain 10"):
        conformed(cryo_table("blocks", {}, {"chain_id": 10}), "blocks")


@given(st.integers(0, MAX_U256))
def test_a_traces_value_is_both_binary_and_decimal(value: int) -> None:
    table = conformed(cryo_table("traces", {"action_value": str(value)}), "traces")
    assert table.column("action_value_binary").to_pylist() == [value.to_bytes(32, "big")]
    assert table.column("action_value_string").to_pylist() == [str(value)]


@pytest.mark.parametrize("value", [str(MAX_U256 + 1), "-1", "0x5"])
def test_a_traces_value_that_is_no_256_bit_number_is_refused(value: str) -> None:
    with pytest.raises(SourceUnavailable, match="no 256-bit number"):
        conformed(cryo_table("traces", {"action_value": value}), "traces")


def test_code_hashes_of_contracts_are_exchanged_back() -> None:
    other = bytes(reversed(HASH))
    table = conformed(cryo_table("contracts", {"code_hash": HASH, "init_code_hash": other}), "contracts")
    assert table.column("code_hash").to_pylist() == [other]
    assert table.column("init_code_hash").to_pylist() == [HASH]


def test_a_failed_creation_receives_at_no_address() -> None:
    table = conformed(
        cryo_table("native_transfers", {"to_address": bytes(32)}, {"to_address": ADDRESS}), "native_transfers"
    )
    assert table.column("to_address").to_pylist() == [None, ADDRESS]


def test_a_transaction_without_a_type_is_a_legacy_one() -> None:
    table = conformed(cryo_table("transactions", {"transaction_type": None}, {"transaction_type": 3}), "transactions")
    assert table.column("transaction_type").to_pylist() == [0, 3]


def test_without_receipts_their_columns_are_null() -> None:
    table = cryo_table("transactions", {}).drop_columns(["gas_used", "success"])
    conform_none = conformed(table, "transactions", Receipts.NONE)
    assert conform_none.column("gas_used").to_pylist() == [None]
    assert conform_none.column("success").to_pylist() == [None]
    with pytest.raises(UnsupportedExtraction, match="missing: gas_used, success"):
        conformed(table, "transactions")


def test_gas_of_geth_calls_is_an_ordinary_number_that_must_fit() -> None:
    rows = cryo_table("geth_calls", {"gas_string": str(2**63 - 1), "gas_used_string": "21000"})
    table = conformed(rows, "geth_calls")
    assert (table.column("gas").to_pylist(), table.column("gas_used").to_pylist()) == ([2**63 - 1], [21000])
    with pytest.raises(UnsupportedExtraction, match=r"geth_calls\.gas_used does not fit"):
        conformed(cryo_table("geth_calls", {"gas_used_string": str(2**63)}), "geth_calls")


def test_paths_of_geth_calls_are_joined_as_those_of_traces() -> None:
    table = conformed(cryo_table("geth_calls", {"trace_address": "0 10 2"}), "geth_calls")
    assert table.column("trace_address").to_pylist() == ["0_10_2"]


@given(st.permutations(["", "0", "0_0", "0_0_3", "0_2", "0_10", "1", "2", "9_1", "10", "10_0"]))
def test_traces_are_in_the_order_of_execution_and_rewards_last(paths: list[str]) -> None:
    rows = [{"trace_address": path, "transaction_index": 4} for path in paths]
    reward = {"trace_address": "", "transaction_index": None, "transaction_hash": None}
    table = conformed(cryo_table("traces", reward, *rows), "traces")
    expected = ["", "0", "0_0", "0_0_3", "0_2", "0_10", "1", "2", "9_1", "10", "10_0", ""]
    assert table.column("trace_address").to_pylist() == expected
    assert table.column("transaction_index").to_pylist() == [4] * 11 + [None]
