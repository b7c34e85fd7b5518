"""Frozen values that people and scripts read: the state of jobs, and what is published of a dataset."""

from dataclasses import dataclass
from enum import StrEnum

from trace_ray.contracts import BlockRange, Certificate, DatasetUuid, JobId, VersionId


class JobState(StrEnum):
    RUNNING = "running"
    COMPLETE = "complete"
    PAUSED = "paused"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class RangeCounts:
    """Ranges of a stream by the state of their task."""

    queued: int
    running: int
    succeeded: int
    dead: int


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """`to_block` is None while a following stream has no head; `last_error` is redacted text or None."""

    dataset_key: str
    dataset: str
    from_block: int
    to_block: int | None
    next_block: int
    ranges: RangeCounts
    blocks_done: int
    blocks_per_second: float | None
    eta_seconds: float | None
    head: int | None
    lag_blocks: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`reason` says why a job is blocked, else None."""

    job_id: JobId
    name: str
    chain_id: int
    mode: str
    enabled: bool
    state: JobState
    reason: str | None
    streams: tuple[StreamStatus, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: `created`, and one sentence for each change (empty: nothing changed)."""

    job_id: JobId
    created: bool
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionView:
    """One published dataset version in a coverage report."""

    dataset_version: VersionId
    blocks: BlockRange
    rows: int
    certificate: Certificate


class MissingReason(StrEnum):
    """Why blocks are not published."""

    NEVER_PLANNED = "never_planned"
    QUEUED = "queued"
    RUNNING = "running"
    DEAD = "dead"  # or cancelled: nothing happens before `retry` or `repair`
    REPLACED = "replaced"  # a version was withdrawn, and nothing makes the next one before `repair`


@dataclass(frozen=True, slots=True)
class Missing:
    """Blocks that should be published and are not. `detail` is redacted text for people, or None."""

    blocks: BlockRange
    reason: MissingReason
    detail: str | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is published of a dataset in one snapshot. `blocks` counts published blocks.

    `missing` explains the gaps and what a job wants beyond its cursor; listings and past snapshots leave it empty.
    """

    dataset: str
    dataset_uuid: DatasetUuid
    cryo_dataset_name: str
    snapshot: int
    from_block: int
    to_block: int
    blocks: int
    rows: int
    files: int
    bytes: int
    gaps: tuple[BlockRange, ...]
    versions: tuple[VersionView, ...]
    missing: tuple[Missing, ...] = ()
