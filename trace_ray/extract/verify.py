"""Judges what an engine brought: a proof for each dataset, or the problem that refuses it. Pure.

Headers are the witnesses: each block commits to its parent, its transactions, its receipts and, in a filter, to its
logs. Silence proves nothing. The strongest check recomputes `receipts_root` from the rows.

Transactions and logs of a chain with Ethereum's receipts are proven together and refused together, since nobody can
know which of them lied. Each other dataset has its own verdict; a witness that is absent makes the proof weaker.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Final, Generic, TypeVar, cast

import pyarrow as pa

from trace_ray.contracts import BlockRange, Level, Receipts
from trace_ray.extract import derived, witnesses
from trace_ray.extract.derived import Check
from trace_ray.extract.receipts import BLOOM_BYTES, encode_receipt, union
from trace_ray.extract.roots import EMPTY_ROOT, ordered_root
from trace_ray.extract.witnesses import Headers, Logs, Transactions

Rows = TypeVar("Rows")

HEADER_CHECKS: Final = ("block_count", "parent_hash")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the published neighbours of a dataset demand: the hash of block `start - 1`, the parent hash of `end`."""

    parent_hash: bytes | None = None
    child_parent_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """The checks that passed, in order, how strong they are together, and the ends of the range for its neighbours."""

    level: Level
    checks: tuple[str, ...]
    parent_hash: bytes
    end_hash: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a dataset is refused: the check that failed, and a sentence that names the block."""

    check: str
    message: str


@dataclass(frozen=True, slots=True)
class _Passed(Generic[Rows]):
    """Rows that may serve as a witness for other datasets."""

    rows: Rows
    level: Level
    checks: tuple[str, ...]


_Finding = _Passed[Rows] | Problem


def verify(
    tables: Mapping[str, pa.Table],
    *,
    blocks: BlockRange,
    receipts: Receipts,
    datasets: Collection[str],
    neighbours: Mapping[str, Neighbours],
    proofs: Collection[str],
) -> dict[str, Proof | Problem]:
    """Return one verdict per dataset.

    Args:
        tables: Rows by dataset, in the stable schema and order. `blocks` is required; any other may be a witness.
        datasets: The ones to judge.
        neighbours: By dataset; a missing entry means that none is published.
        proofs: Checks that the engine made on fields that no table keeps. They passed, and open the list.
    """
    headers = _headers(tables.get("blocks"), blocks)
    if isinstance(headers, Problem):
        return dict.fromkeys(datasets, headers)
    core = _core(headers, tables, receipts)
    findings: Mapping[str, _Finding[Headers] | _Finding[Transactions] | _Finding[Logs] | _Finding[None] | None] = {
        "blocks": core.blocks,
        "transactions": core.transactions,
        "logs": core.logs,
        "traces": _derived("traces", tables, headers, core) if "traces" in tables else None,
    }
    verdicts: dict[str, Proof | Problem] = {}
    for name in datasets:
        if name not in tables:
            verdicts[name] = Problem("rows", f"the engine brought no table of {name}")
            continue
        finding = findings.get(name) or _derived(name, tables, headers, core)
        if name in derived.FROM_TRACES and isinstance(traces := findings["traces"], Problem):
            finding = traces
        verdicts[name] = _verdict(finding, headers, neighbours.get(name, Neighbours()), tuple(proofs))
    return verdicts


def _verdict(
    finding: _Passed[Headers] | _Passed[Transactions] | _Passed[Logs] | _Passed[None] | Problem,
    headers: Headers,
    neighbours: Neighbours,
    proofs: tuple[str, ...],
) -> Proof | Problem:
    if isinstance(finding, Problem):
        return finding
    parent_hash, end_hash = headers.parents[0], headers.hashes[-1]
    start, end = headers.blocks.start, headers.blocks.end
    if neighbours.parent_hash not in (None, parent_hash):
        return Problem("neighbours", f"block {start} does not follow the published block {start - 1}")
    if neighbours.child_parent_hash not in (None, end_hash):
        return Problem("neighbours", f"block {end - 1} is not the parent that the published block {end} names")
    linked = () if neighbours == Neighbours() else ("neighbours",)
    return Proof(finding.level, (*proofs, *finding.checks, *linked), parent_hash, end_hash)


def _run(checks: Sequence[Check]) -> Problem | tuple[str, ...]:
    """Return the first problem, or the names of all checks."""
    for name, check in checks:
        if (message := check()) is not None:
            return Problem(name, message)
    return tuple(name for name, _ in checks)


# --- headers ------------------------------------------------------------------------------------------------------


def _headers(table: pa.Table | None, blocks: BlockRange) -> Headers | Problem:
    if table is None:
        return Problem("block_count", "the engine brought no headers")
    if message := witnesses.misfit(table, "blocks"):
        return Problem("schema", message)
    numbers = witnesses.ints(table, "block_number")
    for number, expected in zip(numbers, range(blocks.start, blocks.end), strict=False):
        if number != expected:
            return Problem("block_count", f"block {number} stands where block {expected} belongs")
    if len(numbers) != len(blocks):
        return Problem("block_count", f"{blocks} has {len(blocks)} blocks, {len(numbers)} came")
    headers = witnesses.read_headers(table, blocks)
    for number, (parent, before) in enumerate(zip(headers.parents[1:], headers.hashes, strict=False), blocks.start + 1):
        if parent != before:
            return Problem("parent_hash", f"block {number} does not follow block {number - 1}")
    return headers


def _layout(name: str, table: pa.Table, headers: Headers, position: str | None) -> list[int] | Problem:
    """Return where each block's rows begin, once the table has its schema and order."""
    if message := witnesses.misfit(table, name):
        return Problem("schema", message)
    offsets = witnesses.offsets_of(table, headers.blocks, position=position)
    return Problem(position or "block_number", offsets) if isinstance(offsets, str) else offsets


def _block_hash(table: pa.Table, headers: Headers, offsets: list[int]) -> str | None:
    hashes = witnesses.raws(table, "block_hash")
    for at, (first, last) in enumerate(pairwise(offsets)):
        if hashes[first:last].count(headers.hashes[at]) != last - first:
            return f"block {headers.blocks.start + at} has rows of another fork"
    return None


# --- transactions and logs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Core:
    """None where the engine brought no table."""

    blocks: _Finding[Headers]
    transactions: _Finding[Transactions] | None
    logs: _Finding[Logs] | None


def _core(headers: Headers, tables: Mapping[str, pa.Table], receipts: Receipts) -> _Core:
    blocks = _Passed(headers, Level.HEADER_CHAIN, HEADER_CHECKS)
    transactions = _transactions(headers, tables, receipts)
    logs = _logs(headers, tables, transactions)
    if transactions is None or receipts is not Receipts.ETHEREUM:
        return _Core(blocks, transactions, logs)
    if isinstance(transactions, Problem) or isinstance(logs, Problem):
        problem = transactions if isinstance(transactions, Problem) else cast(Problem, logs)
        return _Core(blocks, problem, None if logs is None else problem)
    proven: tuple[str, ...] | Problem = ()
    if logs is not None:
        proven = _run([("receipts_root", partial(_receipts_root, headers, transactions.rows, logs.rows))])
        if isinstance(proven, Problem):
            return _Core(blocks, proven, proven)
        transactions = replace(transactions, level=Level.RECEIPTS_ROOT)
        logs = replace(logs, level=Level.RECEIPTS_ROOT, checks=logs.checks + proven)
    used = _run([("gas_used", partial(_gas_used, headers, transactions.rows))])
    if isinstance(used, Problem):  # behind the receipts root it is the header that contradicts itself
        return _Core(blocks, used, None) if logs is None else _Core(used, used, used)
    transactions = replace(transactions, checks=(*transactions.checks, *proven, *used))
    return _Core(replace(blocks, checks=(*blocks.checks, *used)), transactions, logs)


def _transactions(
    headers: Headers, tables: Mapping[str, pa.Table], receipts: Receipts
) -> _Finding[Transactions] | None:
    table = tables.get("transactions")
    if table is None:
        return None
    offsets = _layout("transactions", table, headers, "transaction_index")
    if isinstance(offsets, Problem):
        return offsets
    rows = witnesses.read_transactions(table, offsets)
    checks: list[Check] = [
        ("empty_blocks", partial(_empty_blocks, headers, rows)),
        ("block_hash", partial(_block_hash, table, headers, offsets)),
        ("transaction_hash", partial(_unique_hashes, headers, rows)),
    ]
    if receipts is not Receipts.NONE:
        checks.append(("receipt_fields", partial(_receipt_fields, headers, rows)))
    passed = _run(checks)
    if isinstance(passed, Problem):
        return passed
    return _Passed(rows, Level.HEADER_CHAIN, (*HEADER_CHECKS, "transaction_index", *passed))


def _logs(
    headers: Headers, tables: Mapping[str, pa.Table], transactions: _Finding[Transactions] | None
) -> _Finding[Logs] | None:
    table = tables.get("logs")
    if table is None:
        return None
    offsets = _layout("logs", table, headers, "log_index")
    if isinstance(offsets, Problem):
        return offsets
    rows = witnesses.read_logs(table, offsets)
    checks: list[Check] = [
        ("topics", partial(_topics, table, headers, offsets)),
        ("logs_bloom", partial(_logs_bloom, headers, rows)),
        ("block_hash", partial(_block_hash, table, headers, offsets)),
    ]
    if isinstance(transactions, _Passed):
        checks.append(("log_transaction", partial(_log_transaction, headers, rows, transactions.rows)))
    passed = _run(checks)
    if isinstance(passed, Problem):
        return passed
    return _Passed(rows, Level.LOGS_BLOOM, (*HEADER_CHECKS, "log_index", *passed))


def _topics(table: pa.Table, headers: Headers, offsets: list[int]) -> str | None:
    """Topics are read in order up to the first NULL; one behind a NULL would be published and proven as another."""
    row = witnesses.topic_hole(table)
    if row is None:
        return None
    return f"block {headers.blocks.start + bisect_right(offsets, row) - 1} has a log whose topics have a hole"


def _empty_blocks(headers: Headers, rows: Transactions) -> str | None:
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        empty = headers.transactions_roots[at] == EMPTY_ROOT
        if empty and first < last:
            return f"block {headers.blocks.start + at} has transactions that the header does not announce"
        if not empty and first == last:
            return f"block {headers.blocks.start + at} lacks the transactions that the header announces"
    return None


def _unique_hashes(headers: Headers, rows: Transactions) -> str | None:
    seen: set[bytes] = set()
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        seen.update(rows.hashes[first:last])
        if len(seen) != last:
            return f"block {headers.blocks.start + at} repeats a transaction"
    return None


def _receipt_fields(headers: Headers, rows: Transactions) -> str | None:
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        if None in rows.gas_used[first:last] or None in rows.success[first:last]:
            return f"block {headers.blocks.start + at} has transactions without gas_used or success"
    return None


def _gas_used(headers: Headers, rows: Transactions) -> str | None:
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        gas = sum(cast(list[int], rows.gas_used[first:last]))
        if gas != headers.gas_used[at]:
            return f"block {headers.blocks.start + at} used {headers.gas_used[at]} gas, its transactions {gas}"
    return None


def _log_transaction(headers: Headers, rows: Logs, transactions: Transactions) -> str | None:
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        hashes = transactions.hashes[transactions.offsets[at] : transactions.offsets[at + 1]]
        for row in range(first, last):
            index = rows.transaction_index[row]
            if not 0 <= index < len(hashes) or hashes[index] != rows.transaction_hash[row]:
                number = headers.blocks.start + at
                return f"block {number} has no transaction {index} with the hash that log {row - first} names"
    return None


def _logs_bloom(headers: Headers, rows: Logs) -> str | None:
    for at, (first, last) in enumerate(pairwise(rows.offsets)):
        bloom = union(rows.blooms[first:last])
        if bloom.to_bytes(BLOOM_BYTES, "big") != headers.blooms[at]:
            number = headers.blocks.start + at
            if bloom & ~int.from_bytes(headers.blooms[at], "big"):
                return f"block {number} has logs that the header does not announce"
            return f"block {number} lacks logs that the header announces"
    return None


def _receipts_root(headers: Headers, transactions: Transactions, logs: Logs) -> str | None:
    for at, root in enumerate(headers.receipts_roots):
        number = headers.blocks.start + at
        receipts = _receipts(at, transactions, logs)
        if receipts is None:
            return f"block {number} has logs that are not in the order of its transactions"
        if ordered_root(receipts) != root:
            return f"block {number} has transactions or logs that differ from the receipts its header commits to"
    return None


def _receipts(at: int, transactions: Transactions, logs: Logs) -> list[bytes] | None:
    """Encode the receipts of one block, each with the logs that name its transaction; None when a log is left over."""
    first, last = transactions.offsets[at], transactions.offsets[at + 1]
    row, end = logs.offsets[at], logs.offsets[at + 1]
    encoded: list[bytes] = []
    cumulative_gas = 0
    for index, transaction in enumerate(range(first, last)):
        own = row
        while row < end and logs.transaction_index[row] == index:
            row += 1
        cumulative_gas += transactions.gas_used[transaction] or 0
        encoded.append(
            encode_receipt(
                transaction_type=transactions.types[transaction],
                success=bool(transactions.success[transaction]),
                cumulative_gas=cumulative_gas,
                bloom=union(logs.blooms[own:row]),
                logs=[[logs.address[log], logs.topics[log], logs.data[log]] for log in range(own, row)],
            )
        )
    return encoded if row == end else None


# --- the other datasets -------------------------------------------------------------------------------------------


def _derived(name: str, tables: Mapping[str, pa.Table], headers: Headers, core: _Core) -> _Finding[None]:
    """Judge a dataset that stands on logs or transactions; it is refused with them."""
    transactions, logs, table = core.transactions, core.logs, tables[name]
    ground = logs if name in derived.TRANSFER_FORM else transactions
    if isinstance(ground, Problem):
        return ground
    position = derived.POSITION.get(name)
    offsets = _layout(name, table, headers, position)
    if isinstance(offsets, Problem):
        return offsets
    checks: list[Check] = []
    if "block_hash" in table.schema.names:
        checks.append(("block_hash", partial(_block_hash, table, headers, offsets)))
    level = Level.HEADER_CHAIN
    if name in derived.TRANSFER_FORM:
        rows = logs.rows if isinstance(logs, _Passed) else None
        checks += derived.transfer_checks(name, table, headers, rows)
        level = logs.level if isinstance(logs, _Passed) else level
    else:
        rows = transactions.rows if isinstance(transactions, _Passed) else None
        checks += derived.trace_checks(name, tables, headers, offsets, rows)
    passed = _run(checks)
    if isinstance(passed, Problem):
        return passed
    return _Passed(None, level, (*HEADER_CHECKS, position or "block_number", *passed))
