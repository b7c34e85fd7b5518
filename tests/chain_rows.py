"""Builds small consistent chains as tables: headers, transactions and logs that commit to each other.

Roots come from the `trie` and `rlp` libraries, blooms from the definition: nothing here shares code with what it tests.
Addresses and events are those of mainnet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import rlp
from eth_hash.auto import keccak
from trie.hexary import HexaryTrie

from trace_ray.contracts import BlockRange
from trace_ray.extract.schema import SCHEMAS

CHAIN_ID = 1
START = 1200
USDC = bytes.fromhex("a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48")
BORED_APE = bytes.fromhex("bc4ca0eda7647a8ab7c2061c2e118a18a936f13d")
WETH = bytes.fromhex("c02aaa39b223fe8d0a0e5c4f27ead9083c756cc2")
ALICE = bytes.fromhex("d8da6bf26964af9d7eed9e03e53415d37aa96045")
BOB = bytes.fromhex("ab5801a7d398351b8be11c439e05c5b3259aec9b")
TRANSFER = keccak(b"Transfer(address,address,uint256)")
APPROVAL = keccak(b"Approval(address,address,uint256)")
DEPOSIT = keccak(b"Deposit(address,uint256)")


def word(value: bytes | int) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


@dataclass(frozen=True)
class Log:
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes = b""


@dataclass(frozen=True)
class Transaction:
    gas_used: int = 21_000
    success: bool = True
    transaction_type: int = 2
    logs: tuple[Log, ...] = ()


TOKEN_SENT = Log(USDC, (TRANSFER, word(ALICE), word(BOB)), word(250_000_000))
APE_SENT = Log(BORED_APE, (TRANSFER, word(ALICE), word(BOB), word(8817)))
APPROVED = Log(USDC, (APPROVAL, word(ALICE), word(BOB)), word(2**256 - 1))
WRAPPED = Log(WETH, (DEPOSIT, word(BOB)), word(10**18))
ANONYMOUS = Log(WETH, (), b"note")

# four blocks: all kinds of logs and types, an empty block, failed and silent transactions, and again a transfer
SAMPLE: tuple[tuple[Transaction, ...], ...] = (
    (
        Transaction(65_000, logs=(TOKEN_SENT, APPROVED)),
        Transaction(21_000, transaction_type=0),
        Transaction(120_000, transaction_type=3, logs=(APE_SENT, ANONYMOUS, WRAPPED)),
    ),
    (),
    (Transaction(30_000, success=False, transaction_type=1), Transaction(40_000, transaction_type=4)),
    (Transaction(52_000, logs=(replace(TOKEN_SENT, data=word(7)), TOKEN_SENT)),),
)


@dataclass
class Rows:
    """Rows of each dataset as dictionaries; a test changes one and asks for the tables."""

    blocks: BlockRange
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def tables(self, *names: str) -> dict[str, pa.Table]:
        """Tables of the named datasets, or of all, in the stable schema."""
        wanted = names or tuple(self.rows)
        return {name: table(self.rows[name], name) for name in wanted}


def table(rows: Sequence[dict[str, Any]], name: str) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[name].columns)


def build(chain: Sequence[Sequence[Transaction]] = SAMPLE, start: int = START) -> Rows:
    """Rows of blocks, transactions and logs, every commitment right."""
    made = Rows(BlockRange(start, start + len(chain)), {"blocks": [], "transactions": [], "logs": []})
    parent = keccak(b"the block before")
    for number, transactions in enumerate(chain, start):
        parent = _add_block(made.rows, number, transactions, parent)
    return made


def _add_block(rows: dict[str, Any], number: int, transactions: Sequence[Transaction], parent: bytes) -> bytes:
    hashes = [keccak(f"transaction {number}/{index}".encode()) for index in range(len(transactions))]
    header: dict[str, Any] = {
        "block_number": number,
        "parent_hash": parent,
        "author": ALICE,
        "transactions_root": trie_root(hashes),
        "receipts_root": trie_root(receipts_of(transactions)),
        "gas_used": sum(transaction.gas_used for transaction in transactions),
        "extra_data": b"",
        "logs_bloom": bloom_of([log for transaction in transactions for log in transaction.logs]),
        "timestamp": 1_700_000_000 + 12 * number,
        "base_fee_per_gas": 10**9,
        "chain_id": CHAIN_ID,
    }
    header["block_hash"] = keccak(repr(sorted(header.items())).encode())
    rows["blocks"].append(header)
    place = {"block_number": number, "block_hash": header["block_hash"], "chain_id": CHAIN_ID}
    log_index = 0
    for index, (own, transaction) in enumerate(zip(hashes, transactions, strict=True)):
        origin = {**place, "transaction_index": index, "transaction_hash": own}
        rows["transactions"].append({**origin, **_transaction(transaction)})
        for log in transaction.logs:
            topics = {f"topic{n}": topic for n, topic in enumerate(log.topics)}
            rows["logs"].append({**origin, "log_index": log_index, "address": log.address, "data": log.data, **topics})
            log_index += 1
    return header["block_hash"]


def _transaction(transaction: Transaction) -> dict[str, Any]:
    return {
        "nonce": 3,
        "from_address": ALICE,
        "to_address": BOB,
        "value_binary": word(5),
        "value_string": "5",
        "input": b"",
        "gas_limit": 200_000,
        "gas_used": transaction.gas_used,
        "gas_price": 2 * 10**9,
        "transaction_type": transaction.transaction_type,
        "success": transaction.success,
    }


# --- commitments, through the libraries ---------------------------------------------------------------------------


def trie_root(values: Sequence[bytes]) -> bytes:
    trie = HexaryTrie({})
    for index, value in enumerate(values):
        trie[rlp.encode(index)] = value
    return trie.root_hash


def receipts_of(transactions: Sequence[Transaction]) -> list[bytes]:
    encoded: list[bytes] = []
    gas = 0
    for transaction in transactions:
        gas += transaction.gas_used
        logs = [[log.address, list(log.topics), log.data] for log in transaction.logs]
        body: Any = rlp.encode([int(transaction.success), gas, bloom_of(transaction.logs), logs])
        encoded.append(bytes([transaction.transaction_type] if transaction.transaction_type else []) + body)
    return encoded


def bloom_of(logs: Sequence[Log]) -> bytes:
    bits = bytearray(256)
    for entry in (entry for log in logs for entry in (log.address, *log.topics)):
        digest = keccak(entry)
        for at in (0, 2, 4):
            bit = int.from_bytes(digest[at : at + 2], "big") % 2048
            bits[255 - bit // 8] |= 1 << bit % 8
    return bytes(bits)


# --- what follows from the logs -----------------------------------------------------------------------------------


def transfers(made: Rows, name: str) -> list[dict[str, Any]]:
    """Rows of erc20_transfers or erc721_transfers that belong to the logs of `made`."""
    origin = ("block_number", "block_hash", "transaction_index", "log_index", "transaction_hash", "chain_id")
    found: list[dict[str, Any]] = []
    for log in made.rows["logs"]:
        is_nft = "topic3" in log
        if log.get("topic0") == TRANSFER and is_nft == (name == "erc721_transfers"):
            value = log["topic3"] if is_nft else log["data"]
            kind = "token_id" if is_nft else "value"
            ends = {"from_address": log["topic1"][12:], "to_address": log["topic2"][12:], "erc20": log["address"]}
            amount = {f"{kind}_binary": value, f"{kind}_string": str(int.from_bytes(value, "big"))}
            found.append({**{key: log[key] for key in origin}, **ends, **amount})
    return found


def traces(made: Rows) -> list[dict[str, Any]]:
    """One root call per transaction, with one inner call."""
    origin = ("block_number", "block_hash", "transaction_index", "transaction_hash", "chain_id")
    call = {"action_type": "call", "action_call_type": "call", "action_from": ALICE, "action_to": BOB}
    amount = {"action_value_binary": word(0), "action_value_string": "0"}
    return [
        {**{key: row[key] for key in origin}, **call, **amount, "trace_address": address, "subtraces": subtraces}
        for row in made.rows["transactions"]
        for address, subtraces in (("", 1), ("0", 0))
    ]


def native_transfers(made: Rows) -> list[dict[str, Any]]:
    origin = ("block_number", "block_hash", "transaction_index", "transaction_hash", "chain_id")
    ends = {"from_address": ALICE, "to_address": BOB, "value_binary": word(5), "value_string": "5"}
    return [
        {**{key: row[key] for key in origin}, **ends, "transfer_index": row["transaction_index"]}
        for row in made.rows["transactions"]
    ]
