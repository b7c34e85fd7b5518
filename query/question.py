"""The values of one question: what is asked, what it may use, what is answered. Pure."""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import pyarrow as pa

from trace_ray.contracts import BlockRange

MIN_LIMIT: Final = 1
MAX_LIMIT: Final = 10_000
DEFAULT_LIMIT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Question:
    """SQL and how many rows are wanted at most; `limit` is clamped to 1..10,000."""

    sql: str = field(repr=False)
    limit: int = DEFAULT_LIMIT

    @property
    def rows(self) -> int:
        return max(MIN_LIMIT, min(MAX_LIMIT, self.limit))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may use. Measured in docs/adr/0004.

    `grace_s` is the time between the interrupt and the kill; `rows` and `bytes` cap the answer. `without_landlock`
    lets it run on a kernel that cannot confine files and TCP; then the gate, the lock and the rlimits remain.
    """

    timeout_s: float = 60.0
    threads: int = 2
    memory_mb: int = 512
    spill_mb: int = 256
    rows: int = MAX_LIMIT
    bytes: int = 10 * 1024**2
    grace_s: float = 0.5
    address_space_mb: int = 2048
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
    """Rows, and what they were read from. `files_total` counts the files of the relations that the question names."""

    query_id: UUID
    columns: tuple[Column, ...]
    table: pa.Table = field(repr=False)
    truncated: bool
    snapshot: tuple[SnapshotEntry, ...]
    files_read: int
    files_total: int
    seconds: float
