"""The Cryo engine: one child process per call of `extract`, its Parquet files read into the stable schema.

Cryo's own verdict says only that no call failed; it loses rows without a word. `verify` decides what is accepted.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.contracts import Receipts
from trace_ray.errors import EngineCrashed, SourceLied, SourceUnavailable, TransientError, UnsupportedExtraction
from trace_ray.extract.conform import RECEIPT_COLUMNS, conform
from trace_ray.extract.cryo_process import Call, Verdict, run
from trace_ray.extract.engine import Build, Extraction, Provider, Request
from trace_ray.extract.redact import error_summary
from trace_ray.extract.rpc import JsonRpc
from trace_ray.extract.schema import SCHEMAS

logger = logging.getLogger(__name__)

VERSION: Final = "0.3.2"
NETWORK: Final = "chain"  # first word of Cryo's file names; whatever it is, Cryo asks the provider for its chain id
INCLUDED: Final = {  # columns of the stable schema that Cryo leaves out by default
    "blocks": ("parent_hash", "logs_bloom", "receipts_root", "transactions_root"),
    "transactions": ("block_hash",),
    "logs": ("block_hash",),
    "erc20_transfers": ("block_hash",),
    "erc721_transfers": ("block_hash",),
}
EXCLUDED: Final = {  # lengths of columns that are there
    "transactions": ("n_input_bytes", "n_input_zero_bytes", "n_input_nonzero_bytes"),
    "contracts": ("n_init_code_bytes", "n_code_bytes"),
}
TRACE_GROUP: Final = frozenset({"contracts", "native_transfers", "traces"})  # made from one trace_block
MAX_RETRIES: Final = 5  # of one JSON-RPC call, on HTTP 429 only
INITIAL_BACKOFF_MS: Final = 200
WANTED_PER_S: Final = 10_000  # requests of one range; times the latency, so many must be under way at once
# Cryo's default, and what a far provider bears: at 100 ms 200 blocks then take 0.65 s instead of 0.95 s, nearer ones
# gain nothing.
IN_FLIGHT: Final = (100, 400)
LISTED: Final = "listed"  # directory of transactions read without receipts
LATENCY_KEPT_S: Final = 15.0
LATENCY_TIMEOUT_S: Final = 1.0  # a provider that fails or hangs here is left to Cryo and to the deadline
# One block per eth_getLogs. 20 blocks save 20 % at 20 ms latency and nothing at 0 ms, but one window above the node's
# limit of logs fails the whole range, and Cryo does not split it.
LOG_WINDOW: Final = 1
PRIVATE_OPTIONS: Final = {"rpc", "output_dir"}  # a URL may hold a key, and a directory is gone afterwards
HEAD_TIMEOUT_S: Final = 5.0  # it only makes an error plainer


@dataclass(frozen=True, slots=True)
class Wheel:
    """The installed program. `library` is the directory that holds the package."""

    library: Path
    build: Build


@cache
def installed() -> Wheel:
    """Find the installed wheel, once per process.

    Raises:
        UnsupportedExtraction: it is missing or another version.
    """
    advice = f"install cryo=={VERSION} (there is none for this platform if that fails) or set TRACE_ENGINE=native"
    spec = find_spec("cryo")
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedExtraction(f"the engine cryo is not installed: {advice}")
    package = Path(next(iter(spec.submodule_search_locations)))
    programs = sorted(package.glob("_cryo_rust*"))
    try:
        found = version("cryo")
    except PackageNotFoundError:
        found = "of unknown origin"
    if found != VERSION or len(programs) != 1:
        raise UnsupportedExtraction(f"the installed cryo is {found}, {VERSION} is needed: {advice}")
    with programs[0].open("rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()
    return Wheel(package.parent, Build("cryo", VERSION, digest))


class CryoEngine:
    """Extracts with Cryo. Thread-safe: each call has its own child process and directory."""

    def __init__(self) -> None:
        self._wheel = installed()
        self._in_flight: dict[str, tuple[float, int]] = {}  # by URL: when it was measured, requests

    def extract(self, request: Request, provider: Provider, directory: Path, *, deadline: float) -> Extraction:
        """See `trace_ray.extract.engine.Engine`."""
        _check(request, provider)
        started = time.monotonic()
        calls = _calls(request, provider, directory, in_flight=self._requests_in_flight(provider, deadline))
        verdict = run(calls, library=self._wheel.library, directory=directory, url=provider.url, deadline=deadline)
        try:
            _accept(verdict, calls, request, provider)
        except TransientError:
            logger.warning(
                "cryo failed",
                extra={"provider": provider.name, "blocks": str(request.blocks), "output": verdict.output},
            )
            raise
        answered = time.monotonic()
        tables = {name: _table(name, request, directory) for name in request.datasets}
        if _needs_list(request):
            plain = replace(request, receipts=Receipts.NONE)
            _check_list(tables["transactions"], _table("transactions", plain, directory / LISTED), provider)
        seconds = {"cryo": answered - started, "conform": time.monotonic() - answered}
        return Extraction(tables, (), self._wheel.build, seconds, tuple(map(_told, calls)))

    def _requests_in_flight(self, provider: Provider, deadline: float) -> int:
        """Return how many requests at once a provider's distance asks for; measured now and then by one small call."""
        known = self._in_flight.get(provider.url)
        if known is not None and time.monotonic() - known[0] < LATENCY_KEPT_S:
            return known[1]
        deadline = min(deadline, time.monotonic() + LATENCY_TIMEOUT_S)
        try:
            with JsonRpc(provider) as rpc:
                rpc.call("eth_chainId", [], deadline=deadline)  # connects
                asked = time.monotonic()
                rpc.call("eth_chainId", [], deadline=deadline)
                latency_s = time.monotonic() - asked
        except TransientError:
            return IN_FLIGHT[0]  # the extraction itself will tell what is wrong
        per_s = min(WANTED_PER_S, provider.requests_per_s or WANTED_PER_S)
        requests = max(IN_FLIGHT[0], min(IN_FLIGHT[1], int(per_s * latency_s)))
        self._in_flight[provider.url] = (asked, requests)
        return requests


# --- before the call ----------------------------------------------------------------------------------------------


def _check(request: Request, provider: Provider) -> None:
    unknown = sorted(set(request.datasets) - SCHEMAS.keys())
    if unknown:
        raise UnsupportedExtraction(f"the engine cryo has no dataset {unknown[0]} here: take it out of the job")
    if urlsplit(provider.url).scheme not in ("http", "https"):
        raise UnsupportedExtraction(
            f"Cryo retries over http and https only: give {provider.name} such a URL or set TRACE_ENGINE=native"
        )


def _calls(request: Request, provider: Provider, directory: Path, *, in_flight: int) -> list[Call]:
    """Return one call for all datasets: blocks and transactions then come from one answer.

    An excluded column is excluded from every dataset of a call, and blocks need their gas_used: without receipts the
    transactions get a call of their own. With receipts Cryo pairs both lists and drops what has no partner; where no
    root can tell, the transactions are read once more without them.
    """
    if request.receipts is not Receipts.NONE or "transactions" not in request.datasets:
        calls = [_call(_whole_group(request.datasets), (), request, provider, directory, in_flight=in_flight)]
        if _needs_list(request):
            (directory / LISTED).mkdir()
            listed = _call(
                ("transactions",), RECEIPT_COLUMNS, request, provider, directory / LISTED, in_flight=in_flight
            )
            calls.append(listed)
        return calls
    others = tuple(name for name in request.datasets if name != "transactions")
    return [
        _call(_whole_group(others), (), request, provider, directory, in_flight=in_flight),
        _call(("transactions",), RECEIPT_COLUMNS, request, provider, directory, in_flight=in_flight),
    ]


def _whole_group(datasets: tuple[str, ...]) -> tuple[str, ...]:
    """Cryo fails on two of the three datasets of one answer; the third costs no call."""
    missing = sorted(TRACE_GROUP.difference(datasets))
    return (*datasets, *missing) if len(missing) == 1 else datasets


def _needs_list(request: Request) -> bool:
    """Say whether a lost transaction would go unseen: neither a receipts root nor the block's gas can be asked."""
    return request.receipts is Receipts.NONSTANDARD and "transactions" in request.datasets


def _call(
    datasets: tuple[str, ...],
    without: Sequence[str],
    request: Request,
    provider: Provider,
    directory: Path,
    *,
    in_flight: int,
) -> Call:
    rate = provider.requests_per_s
    options: dict[str, object] = {
        "blocks": [f"{request.blocks.start}:{request.blocks.end}"],
        "chunk_size": len(request.blocks),
        "rpc": provider.url,
        "network_name": NETWORK,
        "output_dir": str(directory),
        "overwrite": True,
        "no_report": True,
        "verbose": True,  # its error summary is the only text of an error
        "max_retries": MAX_RETRIES,
        "initial_backoff": INITIAL_BACKOFF_MS,
        "requests_per_second": None if rate is None else max(1, int(rate)),
        "max_concurrent_requests": in_flight,
        "max_concurrent_chunks": 1,
        "inner_request_size": LOG_WINDOW,
        "u256_types": ["binary", "string"],
        "include_columns": sorted({column for name in datasets for column in INCLUDED.get(name, ())}),
        "exclude_columns": sorted({column for name in datasets for column in EXCLUDED.get(name, ())} | set(without)),
    }
    return Call(datasets, {name: value for name, value in options.items() if value is not None and value != []})


def _told(call: Call) -> str:
    """Return a call as its certificate tells it."""
    options = {name: value for name, value in sorted(call.options.items()) if name not in PRIVATE_OPTIONS}
    return " ".join([*call.datasets, *(f"{name}={json.dumps(value)}" for name, value in options.items())])


# --- after the call -----------------------------------------------------------------------------------------------


def _accept(verdict: Verdict, calls: Sequence[Call], request: Request, provider: Provider) -> None:
    """Refuse what Cryo itself calls incomplete."""
    if verdict.error is not None:
        raise _setup_error(verdict.error, verdict.text, provider)
    counts = verdict.results
    if len(counts) == len(calls) and all(one["n_errored"] == one["n_skipped"] == 0 for one in counts):
        return
    raise _unread(request, provider, error_summary(verdict.output) or "it gives no reason")


def _setup_error(name: str, text: str, provider: Provider) -> Exception:
    """Sort an error that ended Cryo before or outside of its own counting; its only text is often `failed`."""
    if name in ("ImportError", "ModuleNotFoundError") or "unexpected keyword argument" in text:
        return UnsupportedExtraction(f"the installed cryo does not work: install cryo=={VERSION} again ({text})")
    if name == "TypeError":  # datasets, columns and the directory are ours, so it is the first request that failed
        return SourceUnavailable(f"Cryo cannot reach {provider.name}: check that the pool's URL is right and answers")
    return EngineCrashed(f"Cryo ended with {name}: if it happens again, set TRACE_ENGINE=native ({text[:200]})")


def _unread(request: Request, provider: Provider, summary: str) -> SourceUnavailable:
    """Return the error of a range that Cryo could not read, plainer where the provider only has no such blocks yet.

    The head is asked for here, not before each call: Cryo fails on blocks that do not exist, so success needs no look.
    """
    unread = SourceUnavailable(f"Cryo could not read blocks {request.blocks} from {provider.name}: {summary}")
    try:
        head = JsonRpc(provider, timeout_s=HEAD_TIMEOUT_S).head()
    except SourceUnavailable:
        return unread
    last = request.blocks.end - 1
    if head >= last:
        return unread
    return SourceUnavailable(f"the provider {provider.name} has no block {last} yet, its head is {head}: try later")


def _check_list(found: pa.Table, listed: pa.Table, provider: Provider) -> None:
    """Refuse transactions that are not all of those that their blocks list.

    The block's gas cannot tell: on other chains it is not the sum of the receipts, and a transaction may use none.
    """
    names = ("block_number", "block_hash", "transaction_hash")
    rows, expected = (
        list(zip(*(table.column(name).to_pylist() for name in names), strict=True)) for table in (found, listed)
    )
    for row, other in zip_longest(rows, expected):
        if row != other:
            number = min(one[0] for one in (row, other) if one is not None)
            raise SourceLied(f"receipts: block {number} of {provider.name} has other transactions than receipts")


def _table(name: str, request: Request, directory: Path) -> pa.Table:
    """Return one dataset's rows; Cryo must have written exactly one file for it."""
    pattern = re.compile(rf"{NETWORK}__{name}__\d+_to_\d+\.parquet")
    files = [path for path in directory.iterdir() if pattern.fullmatch(path.name)]
    if len(files) != 1:
        raise EngineCrashed(f"Cryo left {len(files)} files of {name}, one is expected: try again")
    try:
        table = pq.ParquetFile(files[0]).read()  # pyright: ignore[reportUnknownMemberType] - partial stub
    except (pa.ArrowInvalid, OSError) as error:
        raise EngineCrashed(f"Cryo's file of {name} cannot be read: try again") from error
    files[0].unlink()
    return conform(table, name, chain_id=request.chain_id, receipts=request.receipts)
