"""Answers of a node -> rows: right ones become the stable schema, wrong ones an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from trace_ray.errors import SourceLied
from trace_ray.extract import answers
from trace_ray.extract.schema import SCHEMAS

OBJECTS = json.loads((Path(__file__).parents[1] / "data" / "mainnet_objects.json").read_text())
BLOCK: dict[str, Any] = OBJECTS["block"]
LEGACY, _, CAPPED, *_ = OBJECTS["transactions"]
RECEIPT = {"gasUsed": "0x5208", "status": "0x1", "transactionHash": LEGACY["hash"], "blockHash": LEGACY["blockHash"]}
LOG = {
    "blockNumber": "0x1564572",
    "blockHash": LEGACY["blockHash"],
    "transactionIndex": "0x69",
    "logIndex": "0x1f",
    "transactionHash": LEGACY["hash"],
    "address": LEGACY["to"],
    "topics": ["0x" + "11" * 32, "0x" + "22" * 32],
    "data": "0x0102",
}


def one_row(row: answers.Row, dataset: str) -> dict[str, Any]:
    table = answers.table_of([row], dataset)
    assert table.schema == SCHEMAS[dataset].columns
    return table.to_pylist()[0]


def test_block_becomes_a_row() -> None:
    row = one_row(answers.block_row(BLOCK, chain_id=1), "blocks")
    assert row["block_number"] == 22_431_085
    assert row["block_hash"].hex() == BLOCK["hash"][2:]
    assert row["author"].hex() == BLOCK["miner"][2:]
    assert row["base_fee_per_gas"] == int(BLOCK["baseFeePerGas"], 16)
    assert row["extra_data"] == bytes.fromhex(BLOCK["extraData"][2:])
    assert row["chain_id"] == 1


def test_block_before_london_has_no_base_fee() -> None:
    old = {name: value for name, value in BLOCK.items() if name != "baseFeePerGas"}
    assert one_row(answers.block_row(old, chain_id=1), "blocks")["base_fee_per_gas"] is None


def test_transaction_with_its_receipt_becomes_a_row() -> None:
    row = one_row(answers.transaction_row(CAPPED, RECEIPT, chain_id=1), "transactions")
    assert (row["gas_used"], row["success"], row["transaction_type"]) == (21_000, True, 2)
    assert row["max_fee_per_gas"] == int(CAPPED["maxFeePerGas"], 16)
    assert row["value_binary"] == bytes(32)
    assert row["value_string"] == "0"


def test_transaction_without_receipt_leaves_its_fields_open() -> None:
    row = one_row(answers.transaction_row(LEGACY, None, chain_id=1), "transactions")
    assert row["gas_used"] is row["success"] is row["max_fee_per_gas"] is None


def test_largest_value_is_kept_exactly() -> None:
    row = one_row(answers.transaction_row({**LEGACY, "value": hex(2**256 - 1)}, None, chain_id=1), "transactions")
    assert row["value_binary"] == b"\xff" * 32
    assert row["value_string"] == str(2**256 - 1)


def test_creation_and_untyped_transaction_become_a_row() -> None:
    old = {name: value for name, value in LEGACY.items() if name != "type"} | {"to": None}
    row = one_row(answers.transaction_row(old, None, chain_id=1), "transactions")
    assert row["to_address"] is None
    assert row["transaction_type"] == 0


@pytest.mark.parametrize("count", range(5))
def test_log_with_any_number_of_topics_becomes_a_row(count: int) -> None:
    row = one_row(answers.log_row({**LOG, "topics": ["0x" + "11" * 32] * count}, chain_id=1), "logs")
    topics = [row[f"topic{n}"] for n in range(4)]
    assert topics == [b"\x11" * 32] * count + [None] * (4 - count)
    assert (row["log_index"], row["transaction_index"], row["data"]) == (31, 105, b"\x01\x02")


def test_no_rows_are_a_table_of_the_schema() -> None:
    for dataset in ("blocks", "transactions", "logs"):
        table = answers.table_of([], dataset)
        assert table.num_rows == 0
        assert table.schema == SCHEMAS[dataset].columns


WRONG_BLOCK: list[tuple[str, Any]] = [
    ("hash", "0x11"),
    ("parentHash", None),
    ("miner", "0x" + "11" * 21),
    ("logsBloom", "0x"),
    ("gasUsed", hex(2**63)),
    ("gasUsed", "-0x1"),
    ("timestamp", 5),
    ("extraData", "zz11"),
    ("extraData", "0xzz"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_BLOCK)
def test_malformed_block_is_an_error(name: str, value: Any) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        answers.block_row({**BLOCK, name: value}, chain_id=1)


@pytest.mark.parametrize(
    ("name", "value"), [("value", hex(2**256)), ("value", "-0x1"), ("input", "0x1"), ("nonce", "")]
)
def test_malformed_transaction_is_an_error(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        answers.transaction_row({**LEGACY, name: value}, None, chain_id=1)


def test_malformed_receipt_and_log_are_errors() -> None:
    with pytest.raises(ValueError, match="status"):
        answers.transaction_row(LEGACY, {**RECEIPT, "status": "0x2"}, chain_id=1)
    with pytest.raises(KeyError, match="status"):  # before Byzantium: the job has to say receipts: none
        answers.transaction_row(LEGACY, {"gasUsed": "0x1"}, chain_id=1)
    with pytest.raises(ValueError, match="four topics"):
        answers.log_row({**LOG, "topics": LOG["topics"] * 3}, chain_id=1)
    with pytest.raises(ValueError, match="number of bytes"):
        answers.log_row({**LOG, "topics": ["0x11"]}, chain_id=1)


def receipt_of(transaction: dict[str, Any]) -> dict[str, Any]:
    return {"transactionHash": transaction["hash"], "blockHash": "0xaa"}


PAIR = {"hash": "0xaa", "transactions": [LEGACY, CAPPED]}


@pytest.mark.parametrize("as_hashes", [False, True])
def test_receipts_are_matched_by_hash_not_by_place(as_hashes: bool) -> None:
    block = {**PAIR, "transactions": [LEGACY["hash"], CAPPED["hash"]]} if as_hashes else PAIR
    first, second = receipt_of(LEGACY), receipt_of(CAPPED)
    assert answers.match_receipts(block, [second, first], 7) == [first, second]


@pytest.mark.parametrize(
    "receipts",
    [
        [],
        [receipt_of(LEGACY)],
        [receipt_of(LEGACY), receipt_of(LEGACY)],
        [receipt_of(LEGACY), receipt_of(CAPPED), receipt_of(CAPPED)],
        [receipt_of(LEGACY), {**receipt_of(CAPPED), "transactionHash": "0xbb"}],
        [receipt_of(LEGACY), {**receipt_of(CAPPED), "blockHash": "0xbb"}],
    ],
)
def test_receipts_that_are_missing_foreign_or_of_another_fork_are_refused(receipts: list[dict[str, Any]]) -> None:
    with pytest.raises(SourceLied, match=r"^receipts: block 7 has"):
        answers.match_receipts(PAIR, receipts, 7)
