"""The built-in engine: blocks, transactions and logs over JSON-RPC, in pure Python, on every platform.

A few threads read small batches of whole blocks with their receipts; logs are taken from the receipts, so that one
answer cannot mix forks. Each block is checked against what its header commits to before it becomes rows; `verify`
judges the rows.

Threads with one shared httpx client were chosen over aiohttp, which takes 0.06 s of CPU instead of 0.16 s for 404 rich
devnet blocks: decoding and hashing them takes 0.35 s in any case, and the client, its retries and its rate exist once.
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

import pyarrow as pa

from trace_ray.contracts import BlockRange, Receipts
from trace_ray.errors import MethodMissing, SourceUnavailable, TraceError, UnsupportedExtraction
from trace_ray.extract import answers
from trace_ray.extract.consensus import Json, prove
from trace_ray.extract.engine import Build, Extraction, Provider, Request
from trace_ray.extract.rpc import Call, JsonRpc

DATASETS: Final = frozenset({"blocks", "transactions", "logs"})
IN_FLIGHT: Final = 8  # batches at once: 100 ms of latency cost nothing up to 1,600 blocks/s
BATCH_BLOCKS: Final = 20  # more gained nothing at 20 ms latency, and providers refuse long batches
BATCH_ROWS: Final = 3_000  # about 5 MB of answers; bounds the memory on full chains
FIRST_BLOCKS: Final = 4  # before anything is known about their size
MODULES: Final = ("answers", "consensus", "native", "rlp", "roots", "rpc", "schema")


class NativeEngine:
    """Implements `Engine`. Thread-safe: each call has its own client and threads."""

    def extract(self, request: Request, provider: Provider, directory: Path, *, deadline: float) -> Extraction:
        """Return the rows of a request. Nothing is written into `directory`.

        Raises:
            SourceUnavailable: the provider failed, or has no such block yet.
            SourceLied: a block or its receipts contradict the header.
            DeadlineExceeded: the range was not read in time.
            UnsupportedExtraction: a dataset beyond blocks, transactions and logs.
        """
        foreign = sorted(set(request.datasets) - DATASETS)
        if foreign:
            raise UnsupportedExtraction(
                f"the native engine has no {foreign[0]}: set TRACE_ENGINE=cryo or take {foreign[0]} out of the job"
            )
        started = time.monotonic()
        with JsonRpc(provider) as rpc:
            parts = _read_all(_Reader(rpc, request, provider, deadline), request.blocks)
        read = time.monotonic()
        tables = {name: pa.concat_tables([part.tables[name] for part in parts]) for name in request.datasets}
        proofs = sorted(_common([part.proofs for part in parts]))
        seconds = {"read": read - started, "join": time.monotonic() - read}
        told = f"{' '.join(request.datasets)} blocks={request.blocks} receipts={request.receipts}"
        return Extraction(tables, tuple(proofs), _build(), seconds, (told,))


@lru_cache(maxsize=1)
def _build() -> Build:
    digest = hashlib.sha256()
    for name in MODULES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return Build("native", version("trace-ray"), digest.hexdigest())


def _common(proofs: Sequence[frozenset[str]]) -> frozenset[str]:
    """Return what all of them name; at least one is given."""
    common = proofs[0]
    for one in proofs:
        common &= one
    return common


# --- all batches of a range ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """What one batch brought. `proofs` are the checks that every block of it passed."""

    blocks: BlockRange
    tables: dict[str, pa.Table]
    proofs: frozenset[str]

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.tables.values())


class _Batches:
    """Cuts a range into batches whose size follows the rows of the last one. Thread-safe."""

    def __init__(self, blocks: BlockRange) -> None:
        self._lock = threading.Lock()
        self._next = blocks.start
        self._end = blocks.end
        self._size = FIRST_BLOCKS

    def take(self) -> BlockRange | None:
        with self._lock:
            if self._next >= self._end:
                return None
            blocks = BlockRange(self._next, min(self._end, self._next + self._size))
            self._next = blocks.end
            return blocks

    def learn(self, part: _Part) -> None:
        with self._lock:
            self._size = max(1, min(BATCH_BLOCKS, BATCH_ROWS * len(part.blocks) // max(1, part.rows)))

    def stop(self) -> None:
        with self._lock:
            self._next = self._end


def _read_all(reader: "_Reader", blocks: BlockRange) -> list[_Part]:
    """Read the batches side by side. The first error stops them; that of the lowest blocks is raised."""
    batches = _Batches(blocks)
    parts: list[_Part] = []
    errors: dict[int, TraceError] = {}

    def work() -> None:
        while (batch := batches.take()) is not None:
            try:
                part = reader.read(batch)
            except TraceError as error:
                errors[batch.start] = error
                batches.stop()
            else:
                batches.learn(part)
                parts.append(part)

    threads = min(IN_FLIGHT, -(-len(blocks) // FIRST_BLOCKS))
    with ThreadPoolExecutor(threads, thread_name_prefix="native") as pool:
        futures = [pool.submit(work) for _ in range(threads)]
    for future in futures:
        future.result()
    if errors:
        raise errors[min(errors)]
    return sorted(parts, key=lambda part: part.blocks)


# --- one batch ----------------------------------------------------------------------------------------------------

MALFORMED: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Answers about one block; None where the request does not need them."""

    block: Json
    receipts: list[Json] | None
    logs: list[Json] | None


class _Reader:
    """Reads batches of one request. Thread-safe."""

    def __init__(self, rpc: JsonRpc, request: Request, provider: Provider, deadline: float) -> None:
        self._rpc = rpc
        self._request = request
        self._provider = provider
        self._deadline = deadline
        wanted = set(request.datasets)
        self._is_full = "transactions" in wanted
        self._has_receipts = request.receipts is not Receipts.NONE and bool(wanted & {"transactions", "logs"})
        self._asks_logs = request.receipts is Receipts.NONE and "logs" in wanted
        self._by_transaction = False

    def read(self, blocks: BlockRange) -> _Part:
        rows: dict[str, list[answers.Row]] = {name: [] for name in self._request.datasets}
        proofs: list[frozenset[str]] = []
        numbers = range(blocks.start, blocks.end)
        try:
            for number, fetched in zip(numbers, self._fetch(numbers), strict=True):
                proofs.append(self._add(rows, number, fetched))
            tables = {name: answers.table_of(rows[name], name) for name in rows}
        except MALFORMED as error:
            raise SourceUnavailable(
                f"provider {self._provider.name}: an answer about blocks {blocks} is malformed "
                f"({type(error).__name__}): use another provider"
            ) from error
        return _Part(blocks, tables, _common(proofs))

    def _add(self, rows: dict[str, list[answers.Row]], number: int, fetched: _Fetched) -> frozenset[str]:
        """Add the rows of one block, and return the checks that it passed."""
        block, chain_id = fetched.block, self._request.chain_id
        proofs = prove(block, number, is_strict=self._request.receipts is Receipts.ETHEREUM)
        logs = fetched.logs or []
        receipts: Sequence[Json | None] = [None] * len(block["transactions"])
        if fetched.receipts is not None:
            receipts = matched = answers.match_receipts(block, fetched.receipts, number)
            logs = [log for receipt in matched for log in receipt["logs"]]
        rows["blocks"].append(answers.block_row(block, chain_id=chain_id))
        if "transactions" in rows:
            pairs = zip(block["transactions"], receipts, strict=True)
            rows["transactions"] += [answers.transaction_row(*pair, chain_id=chain_id) for pair in pairs]
        if "logs" in rows:
            rows["logs"] += [answers.log_row(log, chain_id=chain_id) for log in logs]
        return proofs

    # --- calls ----------------------------------------------------------------------------------------------------

    def _fetch(self, numbers: range) -> list[_Fetched]:
        headers: list[Call] = [("eth_getBlockByNumber", [hex(number), self._is_full]) for number in numbers]
        if self._has_receipts and not self._by_transaction:
            whole: list[Call] = [("eth_getBlockReceipts", [hex(number)]) for number in numbers]
            try:
                results = self._batch([*headers, *whole])
            except MethodMissing:
                self._by_transaction = True
                return self._fetch(numbers)
            blocks = self._present(numbers, results[: len(numbers)])
            return [
                _Fetched(block, self._list(number, "receipts", result), None)
                for number, block, result in zip(numbers, blocks, results[len(numbers) :], strict=True)
            ]
        blocks = self._present(numbers, self._batch(headers))
        receipts = self._single_receipts(blocks) if self._has_receipts else [None] * len(blocks)
        logs = self._logs(numbers, blocks) if self._asks_logs else [None] * len(blocks)
        return [_Fetched(*answer) for answer in zip(blocks, receipts, logs, strict=True)]

    def _single_receipts(self, blocks: Sequence[Json]) -> list[list[Json]]:
        """Ask for each receipt alone, since the node has no `eth_getBlockReceipts`."""
        hashes = [answers.transaction_hashes(block) for block in blocks]
        results = iter(self._batch([("eth_getTransactionReceipt", [one]) for own in hashes for one in own]))
        return [[cast(Json, next(results)) for _ in own] for own in hashes]

    def _logs(self, numbers: range, blocks: Sequence[Json]) -> list[list[Json]]:
        """Ask for logs by block hash, which another fork cannot answer."""
        results = self._batch([("eth_getLogs", [{"blockHash": block["hash"]}]) for block in blocks])
        return [self._list(number, "logs", result) for number, result in zip(numbers, results, strict=True)]

    def _batch(self, calls: Sequence[Call]) -> list[object]:
        return self._rpc.batch(calls, deadline=self._deadline)

    def _present(self, numbers: range, results: Sequence[object]) -> list[Json]:
        for number, result in zip(numbers, results, strict=True):
            if not isinstance(result, dict):
                raise SourceUnavailable(
                    f"provider {self._provider.name}: it has no block {number}: it lags, or the block is not mined yet"
                )
        return cast(list[Json], results)

    def _list(self, number: int, what: str, result: object) -> list[Json]:
        if not isinstance(result, list):
            raise SourceUnavailable(f"provider {self._provider.name}: it has no {what} of block {number}")
        return cast(list[Json], result)
