"""JSON-RPC answers -> rows in the stable schema. Pure.

Strangers wrote the answers: a field that is missing, of a wrong form or too wide raises KeyError, TypeError or
ValueError, which the engine turns into one sentence. Numbers are hexadecimal text in all answers.
"""

# pyright: reportUnknownMemberType=false
# (pyarrow-stubs leave the overloads of pa.array partly unknown)

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from trace_ray.errors import SourceLied
from trace_ray.extract.consensus import Json
from trace_ray.extract.schema import SCHEMAS

ADDRESS_BYTES: Final = 20
HASH_BYTES: Final = 32
BLOOM_BYTES: Final = 256
MAX_INT64: Final = 2**63 - 1

Row = tuple[Any, ...]


def table_of(rows: Sequence[Row], dataset: str) -> pa.Table:
    """Return a table of rows whose values stand in the order of the dataset's columns."""
    schema = SCHEMAS[dataset].columns
    columns = zip(*rows, strict=True) if rows else [()] * len(schema.names)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def transaction_hashes(block: Json) -> list[str]:
    """Return the hashes that a block lists, be it whole transactions or hashes alone."""
    return [one["hash"] if isinstance(one, dict) else one for one in block["transactions"]]


def match_receipts(block: Json, receipts: Sequence[Json], number: int) -> list[Json]:
    """Return one receipt per transaction, in their order.

    Raises:
        SourceLied: a receipt is missing, foreign, or of another fork.
    """
    hashes = transaction_hashes(block)
    by_hash = {receipt["transactionHash"]: receipt for receipt in receipts}
    if len(receipts) != len(hashes) or by_hash.keys() != set(hashes):
        raise SourceLied(f"receipts: block {number} has {len(hashes)} transactions, its receipts are of others")
    if any(receipt["blockHash"] != block["hash"] for receipt in receipts):
        raise SourceLied(f"receipts: block {number} has receipts of another fork")
    return [by_hash[one] for one in hashes]


def block_row(block: Json, *, chain_id: int) -> Row:
    base_fee = block.get("baseFeePerGas")
    return (
        _int(block["number"]),
        _fixed(block["hash"], HASH_BYTES),
        _fixed(block["parentHash"], HASH_BYTES),
        _fixed(block["miner"], ADDRESS_BYTES),
        _fixed(block["transactionsRoot"], HASH_BYTES),
        _fixed(block["receiptsRoot"], HASH_BYTES),
        _int(block["gasUsed"]),
        _raw(block["extraData"]),
        _fixed(block["logsBloom"], BLOOM_BYTES),
        _int(block["timestamp"]),
        None if base_fee is None else _int(base_fee),
        chain_id,
    )


def transaction_row(transaction: Json, receipt: Json | None, *, chain_id: int) -> Row:
    """Return the row of one transaction; without a receipt gas_used and success are None."""
    to, value = transaction["to"], int(transaction["value"], 16)
    return (
        _int(transaction["blockNumber"]),
        _fixed(transaction["blockHash"], HASH_BYTES),
        _int(transaction["transactionIndex"]),
        _fixed(transaction["hash"], HASH_BYTES),
        _int(transaction["nonce"]),
        _fixed(transaction["from"], ADDRESS_BYTES),
        None if to is None else _fixed(to, ADDRESS_BYTES),
        _word(value),
        str(value),
        _raw(transaction["input"]),
        _int(transaction["gas"]),
        None if receipt is None else _int(receipt["gasUsed"]),
        _optional(transaction, "gasPrice"),
        _optional(transaction, "type") or 0,
        _optional(transaction, "maxPriorityFeePerGas"),
        _optional(transaction, "maxFeePerGas"),
        None if receipt is None else _flag(receipt["status"]),
        chain_id,
    )


def log_row(log: Json, *, chain_id: int) -> Row:
    topics = [_fixed(topic, HASH_BYTES) for topic in log["topics"]]
    if len(topics) > 4:  # noqa: PLR2004 - LOG4 is the widest instruction
        raise ValueError("a log has at most four topics")
    return (
        _int(log["blockNumber"]),
        _fixed(log["blockHash"], HASH_BYTES),
        _int(log["transactionIndex"]),
        _int(log["logIndex"]),
        _fixed(log["transactionHash"], HASH_BYTES),
        _fixed(log["address"], ADDRESS_BYTES),
        *topics,
        *[None] * (4 - len(topics)),
        _raw(log["data"]),
        chain_id,
    )


# --- fields -------------------------------------------------------------------------------------------------------


def _int(text: str) -> int:
    value = int(text, 16)
    if not 0 <= value <= MAX_INT64:
        raise ValueError("a number does not fit 63 bits")
    return value


def _optional(item: Json, name: str) -> int | None:
    text = item.get(name)
    return None if text is None else _int(text)


def _flag(text: str) -> bool:
    value = int(text, 16)
    if value not in (0, 1):
        raise ValueError("a status is 0 or 1")
    return value == 1


def _raw(text: str) -> bytes:
    if not text.startswith("0x"):
        raise ValueError("bytes begin with 0x")
    return bytes.fromhex(text[2:])


def _fixed(text: str, size: int) -> bytes:
    value = _raw(text)
    if len(value) != size:
        raise ValueError("a value has the wrong number of bytes")
    return value


def _word(value: int) -> bytes:
    if not 0 <= value < 1 << 256:
        raise ValueError("a value does not fit 256 bits")
    return value.to_bytes(32, "big")
