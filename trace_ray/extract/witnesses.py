"""What the acceptance checks read: headers, transactions and logs as plain lists, block by block. Pure.

A block is named by its place in the range, so rows of block `blocks.start + at` are `offsets[at]` to
`offsets[at + 1]`. Each column is turned into a list once: the checks loop over values, not over Arrow scalars.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import pyarrow as pa

from trace_ray.contracts import BlockRange
from trace_ray.extract.receipts import bloom_of
from trace_ray.extract.schema import SCHEMAS


@dataclass(frozen=True, slots=True)
class Headers:
    """One entry per block of the range, in order."""

    blocks: BlockRange
    hashes: list[bytes]
    parents: list[bytes]
    transactions_roots: list[bytes]
    receipts_roots: list[bytes]
    blooms: list[bytes]
    gas_used: list[int]


@dataclass(frozen=True, slots=True)
class Transactions:
    offsets: list[int]
    hashes: list[bytes]
    types: list[int]
    gas_used: list[int | None]
    success: list[bool | None]


@dataclass(frozen=True, slots=True)
class Logs:
    """`blooms` are the filters of single logs, as integers."""

    offsets: list[int]
    transaction_index: list[int]
    transaction_hash: list[bytes]
    address: list[bytes]
    topics: list[list[bytes]]
    data: list[bytes]
    blooms: list[int]


def ints(table: pa.Table, name: str) -> list[int]:
    return cast(list[int], table.column(name).to_pylist())


def raws(table: pa.Table, name: str) -> list[bytes]:
    return cast(list[bytes], table.column(name).to_pylist())


def misfit(table: pa.Table, dataset: str) -> str | None:
    """Say in which column a table leaves the stable schema; a checked one holds no unexpected NULL."""
    expected = SCHEMAS[dataset].columns
    if table.schema.names != expected.names or table.schema.types != expected.types:
        return f"the columns of {dataset} are not those of the stable schema"
    for field in cast("list[pa.Field[Any]]", list(expected)):
        if table.column(field.name).null_count and not field.nullable:
            return f"{dataset} has rows without {field.name}"
    return None


def read_headers(table: pa.Table, blocks: BlockRange) -> Headers:
    return Headers(
        blocks=blocks,
        hashes=raws(table, "block_hash"),
        parents=raws(table, "parent_hash"),
        transactions_roots=raws(table, "transactions_root"),
        receipts_roots=raws(table, "receipts_root"),
        blooms=raws(table, "logs_bloom"),
        gas_used=ints(table, "gas_used"),
    )


def read_transactions(table: pa.Table, offsets: list[int]) -> Transactions:
    return Transactions(
        offsets=offsets,
        hashes=raws(table, "transaction_hash"),
        types=ints(table, "transaction_type"),
        gas_used=cast(list[int | None], table.column("gas_used").to_pylist()),
        success=cast(list[bool | None], table.column("success").to_pylist()),
    )


def read_logs(table: pa.Table, offsets: list[int]) -> Logs:
    address = raws(table, "address")
    places = zip(*(raws(table, f"topic{n}") for n in range(4)), strict=True)
    topics = [[topic for topic in four if topic is not None] for four in cast(list[tuple[bytes | None, ...]], places)]
    return Logs(
        offsets=offsets,
        transaction_index=ints(table, "transaction_index"),
        transaction_hash=raws(table, "transaction_hash"),
        address=address,
        topics=topics,
        data=raws(table, "data"),
        blooms=[bloom_of((emitter, *names)) for emitter, names in zip(address, topics, strict=True)],
    )


def offsets_of(table: pa.Table, blocks: BlockRange, *, position: str | None) -> list[int] | str:
    """Return where each block's rows begin, and at the end their number; a sentence when the rows are out of order.

    Args:
        position: Column that must count 0, 1, 2, ... in each block; None: any order inside a block.
    """
    offsets = [0]
    numbers = ints(table, "block_number")
    for row, number in enumerate(numbers):
        ahead = number - blocks.start + 1 - len(offsets)
        if ahead < 0 or number not in blocks:
            return f"a row of block {number} stands outside {blocks} or behind a later block"
        offsets.extend([row] * ahead)
    offsets.extend([len(numbers)] * (len(blocks) + 1 - len(offsets)))
    if position is None:
        return offsets
    positions = ints(table, position)
    for at, (first, last) in enumerate(pairwise(offsets)):
        if positions[first:last] != list(range(last - first)):
            return f"block {blocks.start + at} does not count {position} from 0 without gap or repeat"
    return offsets


def topic_hole(table: pa.Table) -> int | None:
    """Return the first row in which a topic follows a NULL one."""
    places = zip(*(raws(table, f"topic{n}") for n in range(4)), strict=True)
    for row, topics in enumerate(places):
        if None in topics and any(behind is not None for behind in topics[topics.index(None) :]):
            return row
    return None
