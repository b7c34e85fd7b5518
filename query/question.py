"""The values of one question: what is asked, what it may use, what is answered. Pure."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import pyarrow as pa

from trace_ray.contracts import BlockRange

MIN_LIMIT: Final = 1
MAX_LIMIT: Final = 10_000
DEFAULT_LIMIT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Question:
    """SQL and how many rows are wanted at most; `limit` is clamped to 1..10,000.

    `asker`: who shares the processes with the others of an organisation; tasks share them as one.
    """

    sql: str = field(repr=False)
    limit: int = DEFAULT_LIMIT
    asker: str = ""

    @property
    def rows(self) -> int:
        return max(MIN_LIMIT, min(MAX_LIMIT, self.limit))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may use. Measured in docs/adr/0004.

    `grace_s` is the time between the interrupt and the kill; `rows` and `bytes` cap the answer, `export_bytes` what
    goes into a file beyond it (counted as Arrow, before compression). From `threads` on the limits are those of a
    process: a pool gives them to each of its workers. `rss_mb` is what an idle worker may keep. `without_landlock` lets
    it run on a kernel that cannot confine files and TCP; then the gate, the lock and the rlimits remain.
    """

    timeout_s: float = 60.0
    grace_s: float = 0.5
    rows: int = MAX_LIMIT
    bytes: int = 10 * 1024**2
    export_bytes: int = 512 * 1024**2
    threads: int = 2
    memory_mb: int = 512
    spill_mb: int = 256
    address_space_mb: int = 2048
    rss_mb: int = 768
    without_landlock: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is DuckDB's name of the type: HUGEINT and DECIMAL(38,0) look the same in Arrow."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """What was readable of one dataset that the question names."""

    name: str
    snapshot: int
    from_block: int
    to_block: int
    gaps: tuple[BlockRange, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and what they were read from. `files_total` counts the files of the relations that the question names.

    `bytes_read` is the size of the files selected. `warm` says that the process was bound to them before.
    """

    query_id: UUID
    columns: tuple[Column, ...]
    table: pa.Table = field(repr=False)
    truncated: bool
    snapshot: tuple[SnapshotEntry, ...]
    files_read: int
    files_total: int
    seconds: float
    bytes_read: int = 0
    warm: bool = False
    export: "Export | None" = None
    location: str | None = None

    @property
    def rows(self) -> int:
        """How many rows there are in all: here, or in the export."""
        return self.table.num_rows if self.export is None else self.export.rows

    @property
    def bytes(self) -> int:
        """How large the rows are: in memory, or in the export."""
        return self.table.nbytes if self.export is None else self.export.bytes


@dataclass(frozen=True, slots=True)
class Export:
    """A Parquet file of all the rows, on local disk until it is stored."""

    path: Path
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """What a question would read of one dataset. `rows` is an upper bound: those of the files read."""

    name: str
    snapshot: int
    files_read: int
    files_total: int
    bytes_read: int
    bytes_total: int
    rows: int
    blocks: tuple[BlockRange, ...]


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a question would read."""

    datasets: tuple[DatasetPlan, ...]
