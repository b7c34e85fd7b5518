"""Frozen values that operators read of the ledgers: tasks and their attempts, events, dead letters, and the history of
a range. Instants are UTC. No lease token and no receipt is ever in one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from trace_ray.contracts import BlockRange, Certificate, DataFile, DatasetUuid, TaskId, VersionId


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an attempt failed. `message` is redacted text for people; `provider` is pool and number, or None."""

    kind: str
    message: str
    at: datetime | None
    provider: str | None


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task. `attempt` counts from 1, 0 before the first; `run_at` is when a queued task may be leased."""

    task_id: TaskId
    job: str
    dataset: str
    blocks: BlockRange
    generation: int
    state: str
    attempt: int
    task_failures: int
    infra_failures: int
    rpc_pool: str
    worker_id: str | None
    created_at: datetime
    run_at: datetime
    lease_expires_at: datetime | None
    finished_at: datetime | None
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a task. `outcome` and `ended_at` are None while it runs; `seconds` by stage are those of a success."""

    attempt: int
    worker_id: str | None
    epoch: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    problem: Problem | None
    seconds: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """One event of the outbox that is not handled yet. `failed`: its attempts are used up, an operator has to act."""

    event_id: int
    topic: str
    idempotency_key: str
    payload: Mapping[str, Any]
    available_at: datetime
    attempts: int
    failed: bool
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message of the buffer queue whose deliveries are used up. `last_error`: what a consumer said last."""

    message_id: UUID
    queue: str
    idempotency_key: str
    payload: Mapping[str, Any]
    published_at: datetime
    dead_at: datetime
    deliveries: int
    max_deliveries: int
    replays: int
    reason: str
    last_error: str | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages of a buffer queue by where they are.

    `ready` can be delivered now, `delivered` are with a consumer, `waiting` back off, `spent` are buried next.
    `oldest`: when the oldest message that is not dead was published.
    """

    queue: str
    ready: int
    delivered: int
    waiting: int
    spent: int
    dead: int
    oldest: datetime | None


# --- the history of a range ---------------------------------------------------------------------------------------


class Standing(StrEnum):
    """Where a range stands."""

    PUBLISHED = "published"
    REPLACED = "replaced"  # a later generation is shown instead
    WITHDRAWN = "withdrawn"  # taken out of sight without a successor
    QUEUED = "queued"
    RUNNING = "running"
    DEAD = "dead"
    CANCELLED = "cancelled"
    NEVER_PLANNED = "never_planned"


@dataclass(frozen=True, slots=True)
class PublishedView:
    """What an attempt published: objects, proof, the attempt's number, and the snapshots that show it."""

    dataset_version: VersionId
    rows: int
    digest: str
    attempt: int
    published_at: datetime
    published_snapshot: int
    replaced_snapshot: int | None
    certificate: Certificate
    objects: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class RangeView:
    """One range and how it came to stand where it stands; `reason` says so in words.

    `published` is None for a range that is not published, `task` for one that was never planned.
    """

    blocks: BlockRange
    generation: int
    standing: Standing
    reason: str
    task: TaskView | None
    attempts: tuple[AttemptView, ...]
    published: PublishedView | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The ranges that an operator asked about, in order of their blocks; `truncated`: there are more of them."""

    dataset: str
    dataset_uuid: DatasetUuid
    chain_id: int
    cryo_dataset_name: str
    blocks: BlockRange
    ranges: tuple[RangeView, ...]
    truncated: bool
