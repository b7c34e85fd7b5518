"""Acceptance checks of datasets that headers do not commit to: token transfers and traces. Pure.

Transfers are compared with the logs that they come from. Traces have no root in any header: they are held against the
transactions of their blocks and must form whole trees. What is made from traces is held against them.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import pairwise, zip_longest
from typing import Any, Final, cast

import pyarrow as pa
from eth_hash.auto import keccak

from trace_ray.extract.receipts import bloom_of
from trace_ray.extract.roots import EMPTY_ROOT
from trace_ray.extract.witnesses import Headers, Logs, Transactions, ints, raws

TRANSFER_EVENT: Final = keccak(b"Transfer(address,address,uint256)")
# topics and bytes of data that tell a Transfer of each standard from the other, and from look-alikes
TRANSFER_FORM: Final = {"erc20_transfers": (3, 32), "erc721_transfers": (4, 0)}
VALUE_COLUMN: Final = {"erc20_transfers": "value_binary", "erc721_transfers": "token_id_binary"}
POSITION: Final = {"native_transfers": "transfer_index", "contracts": "create_index"}
COVERING: Final = frozenset({"traces", "native_transfers", "geth_calls"})  # at least one row per transaction
ROOTED: Final = frozenset({"traces", "geth_calls"})  # that row has the empty trace address
FROM_TRACES: Final = frozenset({"native_transfers", "contracts"})
SELECTOR_BYTES: Final = 4
PLAIN_TYPES: Final = frozenset(range(5))  # system transactions of other chains are no calls: their tracers are silent
PRECOMPILED: Final = bytes(18)  # addresses that begin so; tracers may leave out calls of them

Transfer = tuple[int, int, int, bytes, bytes, bytes, bytes, bytes]
Check = tuple[str, partial[str | None]]


def transfer_checks(name: str, table: pa.Table, headers: Headers, logs: Logs | None) -> list[Check]:
    """Return the checks of token transfers, in order. Without logs only the blooms can be asked."""
    if logs is None:
        return [("bloom_has_transfers", partial(_unannounced, name, table, headers))]
    return [("transfer_logs", partial(_against_logs, name, table, headers, logs))]


def trace_checks(
    name: str,
    tables: Mapping[str, pa.Table],
    headers: Headers,
    offsets: list[int],
    transactions: Transactions | None,
) -> list[Check]:
    """Return the checks of datasets that come from traces, in order. `traces` may be at hand as a witness."""
    table = tables[name]
    checks: list[Check] = []
    if transactions is not None:
        checks.append(("transaction_hash", partial(_foreign, table, headers, offsets, transactions)))
    if name in COVERING and transactions is None:
        checks.append(("empty_blocks", partial(_silent, headers, offsets)))
    elif name in COVERING and transactions is not None:
        checks.append(("root_trace", partial(_uncovered, name, table, headers, offsets, transactions)))
    if name in ROOTED:
        checks.append(("trace_tree", partial(_torn, table, headers, offsets)))
    if name in FROM_TRACES and "traces" in tables:
        checks.append(("same_traces", partial(_unlike_traces, name, table, tables["traces"])))
    if name == "four_byte_counts" and transactions is not None:
        checks.append(("call_data", partial(_uncounted, table, tables["transactions"])))
    return checks


# --- transfers ----------------------------------------------------------------------------------------------------


def _against_logs(name: str, table: pa.Table, headers: Headers, logs: Logs) -> str | None:
    for expected, found in zip_longest(_expected(name, headers, logs), _found(name, table)):
        if expected != found:
            number, log_index = (found or expected)[:2]
            return f"block {number} has transfers that differ from its Transfer logs at log {log_index}"
    return None


def _expected(name: str, headers: Headers, logs: Logs) -> list[Transfer]:
    topic_count, data_bytes = TRANSFER_FORM[name]
    transfers: list[Transfer] = []
    for at, (first, last) in enumerate(pairwise(logs.offsets)):
        for row in range(first, last):
            topics, data = logs.topics[row], logs.data[row]
            if len(topics) == topic_count and len(data) == data_bytes and topics[0] == TRANSFER_EVENT:
                place = (headers.blocks.start + at, row - first, logs.transaction_index[row])
                origin = (logs.transaction_hash[row], logs.address[row])
                value = (*topics, data)[3]  # the last topic of ERC-721, the data of ERC-20
                transfers.append((*place, *origin, topics[1][12:], topics[2][12:], value))
    return transfers


def _found(name: str, table: pa.Table) -> list[Transfer]:
    places = ("block_number", "log_index", "transaction_index")
    values = ("transaction_hash", "erc20", "from_address", "to_address", VALUE_COLUMN[name])
    columns = (*(ints(table, column) for column in places), *(raws(table, column) for column in values))
    return cast(list[Transfer], list(zip(*columns, strict=True)))


def _unannounced(name: str, table: pa.Table, headers: Headers) -> str | None:
    """Name a block whose bloom lacks a transfer. The bloom cannot say that one is missing from the table."""
    for number, _, _, _, token, sender, receiver, value in _found(name, table):
        topics = [TRANSFER_EVENT, sender.rjust(32, b"\0"), receiver.rjust(32, b"\0"), value]
        bits = bloom_of((token, *topics[: TRANSFER_FORM[name][0]]))
        header = int.from_bytes(headers.blooms[number - headers.blocks.start], "big")
        if bits & ~header:
            return f"block {number} has a transfer that the header does not announce"
    return None


# --- traces -------------------------------------------------------------------------------------------------------


def _foreign(table: pa.Table, headers: Headers, offsets: list[int], transactions: Transactions) -> str | None:
    hashes = cast(list[bytes | None], table.column("transaction_hash").to_pylist())
    for at, (first, last) in enumerate(pairwise(offsets)):
        known = {*transactions.hashes[transactions.offsets[at] : transactions.offsets[at + 1]], None}  # None: a reward
        if not known.issuperset(hashes[first:last]):
            return f"block {headers.blocks.start + at} has a trace of a transaction that is not in the block"
    return None


def _uncovered(
    name: str, table: pa.Table, headers: Headers, offsets: list[int], transactions: Transactions
) -> str | None:
    hashes = cast(list[bytes | None], table.column("transaction_hash").to_pylist())
    if name in ROOTED:
        addresses = cast(list[str], table.column("trace_address").to_pylist())
        hashes = [own if address == "" else None for own, address in zip(hashes, addresses, strict=True)]
    for at, (first, last) in enumerate(pairwise(offsets)):
        traced = set(hashes[first:last])
        if not traced.issuperset(transactions.hashes[transactions.offsets[at] : transactions.offsets[at + 1]]):
            return f"block {headers.blocks.start + at} has a transaction without its root trace"
    return None


def _silent(headers: Headers, offsets: list[int]) -> str | None:
    for at, (first, last) in enumerate(pairwise(offsets)):
        if first == last and headers.transactions_roots[at] != EMPTY_ROOT:
            return f"block {headers.blocks.start + at} has transactions and no rows"
    return None


def _torn(table: pa.Table, headers: Headers, offsets: list[int]) -> str | None:
    """Name a block with a trace that is there twice, lacks its parent, or lacks one of its children."""
    hashes = cast(list[bytes | None], table.column("transaction_hash").to_pylist())
    addresses = cast(list[str], table.column("trace_address").to_pylist())
    announced = ints(table, "subtraces") if "subtraces" in table.schema.names else None
    for at, (first, last) in enumerate(pairwise(offsets)):
        number = headers.blocks.start + at
        rows = [row for row in range(first, last) if hashes[row] is not None]  # a reward is no call
        frames = {(hashes[row], addresses[row]) for row in rows}
        if len(frames) != len(rows):
            return f"block {number} has a trace twice"
        steps: dict[tuple[bytes | None, str], set[str]] = defaultdict(set)
        for transaction, address in frames:
            if address:
                parent, _, step = address.rpartition("_")
                steps[transaction, parent].add(step)
        if not steps.keys() <= frames:
            return f"block {number} has a trace without its parent"
        for row in rows:
            own = steps.get((hashes[row], addresses[row]), set())
            count = len(own) if announced is None else announced[row]
            if len(own) != count or own != set(map(str, range(count))):
                return f"block {number} has a trace that lacks some of its inner traces"
    return None


def _unlike_traces(name: str, table: pa.Table, traces: pa.Table) -> str | None:
    """Name a block whose rows are not those that its traces give; Cryo makes both from one answer."""
    if name == "contracts":
        found = _counted(table, "contract_address", "init_code", "code")
        expected = _counted(traces, "result_address", "action_init", "result_code", "action_type")
        expected = Counter({key[:-1]: n for key, n in expected.items() if key[-1] == "create" and key[2] is not None})
    else:  # one row for each trace of any kind
        found, expected = _counted(table), _counted(traces)
    strays = (found - expected) + (expected - found)
    return f"block {min(key[0] for key in strays)} has {name} that differ from its traces" if strays else None


def _counted(table: pa.Table, *columns: str) -> Counter[tuple[Any, ...]]:
    names = ("block_number", "transaction_hash", *columns)
    return Counter(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _uncounted(table: pa.Table, transactions: pa.Table) -> str | None:
    """Name a block with a transaction whose own call data is not counted, or with a count that is there twice."""
    found = _counted(table, "signature", "size")
    for (number, *_), times in found.items():
        if times > 1:
            return f"block {number} counts a signature of one transaction twice"
    for number, own, kind, to, data in _counted(transactions, "transaction_type", "to_address", "input"):
        if kind not in PLAIN_TYPES or to is None or to.startswith(PRECOMPILED) or len(data) < SELECTOR_BYTES:
            continue
        if (number, own, data[:SELECTOR_BYTES], len(data) - SELECTOR_BYTES) not in found:
            return f"block {number} has a transaction whose call data is not counted"
    return None
