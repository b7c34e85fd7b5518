"""Consensus hashes against real mainnet objects and published examples."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from tests.chain_rows import trie_root
from trace_ray.errors import SourceLied
from trace_ray.extract.consensus import prove, transaction_bytes
from trace_ray.extract.roots import EMPTY_ROOT

OBJECTS = json.loads((Path(__file__).parents[1] / "data" / "mainnet_objects.json").read_text())
BLOCK: dict[str, Any] = OBJECTS["block"]
NUMBER = int(BLOCK["number"], 16)
TRANSACTIONS: list[dict[str, Any]] = OBJECTS["transactions"]
EMPTY = "0x" + EMPTY_ROOT.hex()
ZERO = "0x" + "00" * 32

GENESIS = {  # mainnet block 0
    "number": "0x0",
    "hash": "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3",
    "parentHash": ZERO,
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x" + "00" * 20,
    "stateRoot": "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544",
    "transactionsRoot": EMPTY,
    "receiptsRoot": EMPTY,
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x400000000",
    "gasLimit": "0x1388",
    "gasUsed": "0x0",
    "timestamp": "0x0",
    "extraData": "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
    "mixHash": ZERO,
    "nonce": "0x0000000000000042",
    "totalDifficulty": "0x400000000",
    "size": "0x21c",
    "uncles": [],
    "transactions": [],
}


def block_with(*transactions: dict[str, Any]) -> dict[str, Any]:
    """A block of an unknown header form that commits to these transactions."""
    encoded = [transaction_bytes(one) or b"" for one in transactions]
    return {"transactions": list(transactions), "transactionsRoot": "0x" + trie_root(encoded).hex()}


@pytest.mark.parametrize("transaction", TRANSACTIONS, ids=lambda one: one["type"])
def test_mainnet_transaction_of_each_type_gives_its_hash(transaction: dict[str, Any]) -> None:
    assert "0x" + keccak(transaction_bytes(transaction) or b"").hex() == transaction["hash"]


def test_transaction_of_eip_155_is_encoded_as_published() -> None:
    transaction = {
        "nonce": "0x9",
        "gasPrice": hex(20 * 10**9),
        "gas": hex(21_000),
        "to": "0x" + "35" * 20,
        "value": hex(10**18),
        "input": "0x",
        "v": hex(37),
        "r": hex(18515461264373351373200002665853028612451056578545711640558177340181847433846),
        "s": hex(46948507304638947509940763649030358759909902576025900602547168820602576006531),
    }
    published = (
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195"
        "fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )
    assert (transaction_bytes(transaction) or b"").hex() == published


@pytest.mark.parametrize("change", ["0x7e", "0x64", "missing"])
def test_transaction_of_an_unknown_form_proves_nothing(change: str) -> None:
    transaction = dict(TRANSACTIONS[2])
    if change == "missing":
        del transaction["accessList"]
    else:
        transaction["type"] = change
    assert transaction_bytes(transaction) is None
    block = block_with(TRANSACTIONS[0]) | {"transactions": [TRANSACTIONS[0], transaction]}
    assert prove(block, 1, is_strict=True) == frozenset()


def test_creation_has_no_target() -> None:
    creation = transaction_bytes({**TRANSACTIONS[0], "to": None}) or b""
    call = transaction_bytes(TRANSACTIONS[0]) or b""
    assert len(call) - len(creation) == 20


def test_prague_block_proves_its_hash_and_withdrawals() -> None:
    assert prove(BLOCK, NUMBER, is_strict=True) == {"header_hash", "withdrawals_root"}


def test_genesis_proves_its_hash_and_that_it_is_empty() -> None:
    assert prove(GENESIS, 0, is_strict=True) == {"header_hash", "transactions_root"}


def test_whole_transactions_prove_their_root() -> None:
    assert prove(block_with(*TRANSACTIONS), 1, is_strict=True) == {"transactions_root"}


CHANGES: list[tuple[str, Any, str]] = [
    ("miner", "0x" + "11" * 20, "header_hash"),
    ("extraData", "0x00", "header_hash"),
    ("timestamp", "0x1", "header_hash"),
    ("baseFeePerGas", "0x1", "header_hash"),
    ("requestsHash", ZERO, "header_hash"),
    ("requestsHash", None, "header_hash"),  # as if the block were older than Prague
    ("hash", ZERO, "header_hash"),
    ("withdrawals", [], "withdrawals_root"),
    ("withdrawals", BLOCK["withdrawals"][:-1], "withdrawals_root"),
]


@pytest.mark.parametrize(("name", "value", "check"), CHANGES)
def test_changed_block_is_refused_on_a_strict_chain_and_unproven_on_another(name: str, value: Any, check: str) -> None:
    changed = {**BLOCK, name: value}
    with pytest.raises(SourceLied, match=f"^{check}: block {NUMBER} differs"):
        prove(changed, NUMBER, is_strict=True)
    assert prove(changed, NUMBER, is_strict=False) == {"header_hash", "withdrawals_root"} - {check}


@pytest.mark.parametrize("name", ["input", "value", "to", "nonce", "r", "hash", "gas", "accessList", "maxFeePerGas"])
def test_changed_transaction_is_refused(name: str) -> None:
    block = copy.deepcopy(block_with(*TRANSACTIONS))
    values = {"accessList": [{"address": "0x" + "11" * 20, "storageKeys": [ZERO]}], "to": "0x" + "11" * 20}
    values["hash"] = ZERO
    block["transactions"][2][name] = values.get(name, "0x1234")
    with pytest.raises(SourceLied, match=r"^transactions_root: block 1 differs"):
        prove(block, 1, is_strict=True)


@pytest.mark.parametrize("field", ["slotNumber", "extDataHash"])
def test_header_of_a_later_fork_proves_nothing(field: str) -> None:
    assert "header_hash" not in prove({**BLOCK, field: "0x1"}, NUMBER, is_strict=True)


def test_header_with_a_hole_proves_nothing() -> None:
    assert "header_hash" not in prove({**BLOCK, "blobGasUsed": None}, NUMBER, is_strict=True)
    assert "header_hash" not in prove({**BLOCK, "mixHash": None}, NUMBER, is_strict=True)
