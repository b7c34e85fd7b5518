"""The border between trace_ray and whatever reads a chain: one request in, tables in the stable schema out.

Two engines from day one: Cryo in a child process (`cryo.py`) and the built-in one (`native.py`). An engine proves
nothing by itself; `verify` judges what it brings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from trace_ray.contracts import BlockRange, Receipts


@dataclass(frozen=True, slots=True)
class Provider:
    """One RPC endpoint of a pool. The URL may hold a key: it is never printed and never part of a message.

    `requests_per_s` is this caller's share of the pool's budget; None means unlimited.
    """

    rpc_pool: str
    index: int
    url: str = field(repr=False)
    requests_per_s: float | None = None

    @property
    def name(self) -> str:
        """What people and the ledger see, e.g. `standard/0`."""
        return f"{self.rpc_pool}/{self.index}"


@dataclass(frozen=True, slots=True)
class Request:
    """What to extract: Cryo dataset names of one range, in one call. `blocks` is always among `datasets`."""

    chain_id: int
    datasets: tuple[str, ...]
    blocks: BlockRange
    receipts: Receipts


@dataclass(frozen=True, slots=True)
class Build:
    """Which program made the rows. `digest` is the SHA-256 of the engine's code as it is installed, in hex."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Extraction:
    """Rows of one range by Cryo dataset name, in the stable schema and order of `schema`.

    `proofs` names the checks that only the engine could make, on fields that no table keeps (`transactions_root`,
    `block_hash`); they passed. `seconds` are durations by stage. `arguments` says for people what the program was
    called with, one text per call, without URL and directory.
    """

    tables: Mapping[str, pa.Table]
    proofs: tuple[str, ...]
    build: Build
    seconds: Mapping[str, float]
    arguments: tuple[str, ...]


class Engine(Protocol):
    """Extracts one range into tables. Thread-safe."""

    def extract(self, request: Request, provider: Provider, directory: Path, *, deadline: float) -> Extraction:
        """Return the rows of a request; `directory` is fresh, private and deleted by the caller.

        Args:
            deadline: Instant of `time.monotonic()` at which the work is killed.

        Raises:
            SourceUnavailable: the provider failed, or has no such block yet.
            EngineCrashed, DeadlineExceeded: try again.
            UnsupportedExtraction: this engine or this node cannot produce a dataset.
        """
        ...
