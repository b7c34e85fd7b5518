"""The buffer queue: batches on their way to a sink, delivered at least once.

An attempt's batch enters it through the Dispatcher, fenced by epoch and lease token. Consumers are fenced by receipt
only: each delivery has its own, and only the newest one of a message can extend, acknowledge or refuse it. The caller
owns the transaction; `now` moves time in tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from state import tasks
from state.db import Connection, Row, statements, storable
from state.judge import Reason
from state.tasks import Settlement
from trace_ray.contracts import AttemptKey, Epoch, TaskId
from trace_ray.errors import NotFound
from trace_ray.ledger_reports import DeadLetter, QueueDepth
from trace_ray.retry import RetryPolicy

SQL: Final = statements("buffer")


@dataclass(frozen=True, slots=True)
class Batch:
    """What an attempt wants to send: where its rows lie and what a sink needs to know of them."""

    attempt: AttemptKey
    queue: str
    batch_uri: str
    payload: Mapping[str, Any]

    @property
    def idempotency_key(self) -> str:
        return idempotency_key(self.attempt.task_id, self.attempt.attempt, self.batch_uri)

    @property
    def message_id(self) -> UUID:
        return uuid5(self.attempt.task_id, self.idempotency_key)


def idempotency_key(task_id: TaskId, attempt: int, batch_uri: str) -> str:
    """Return the name of the message that an attempt's batch becomes."""
    return f"{task_id}:{attempt}:{batch_uri}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message; `receipt` is its own. `deliveries` counts this one too."""

    message_id: UUID
    receipt: UUID
    queue: str
    idempotency_key: str
    payload: Mapping[str, Any]
    deliveries: int
    max_deliveries: int


# --- in -----------------------------------------------------------------------------------------------------------


def publish(
    conn: Connection, epoch: Epoch, batches: Sequence[Batch], *, max_deliveries: int, now: datetime | None = None
) -> list[Settlement]:
    """Put batches of running attempts into their queues; one settlement per batch, in order.

    The same batch again is accepted and changes nothing. A batch whose attempt does not hold its task is refused, and
    so is another content under a known key (`mismatch`).
    """
    if not batches:
        return []
    rows = conn.execute(
        SQL["publish"],
        {
            "tasks": [batch.attempt.task_id for batch in batches],
            "attempts": [batch.attempt.attempt for batch in batches],
            "tokens": [batch.attempt.lease_token for batch in batches],
            "messages": [batch.message_id for batch in batches],
            "queues": [batch.queue for batch in batches],
            "keys": [batch.idempotency_key for batch in batches],
            "payloads": [Jsonb(dict(batch.payload)) for batch in batches],
            "epoch": epoch,
            "max_deliveries": max_deliveries,
            "now": now,
        },
    ).fetchall()
    held = {row["position"]: bool(row["other"]) for row in rows}
    why = tasks.refusals(conn, [batch.attempt for place, batch in enumerate(batches, 1) if place not in held])
    return [
        Settlement(
            batch.attempt, held.get(place) is False, Reason.MISMATCH if held.get(place) else why.get(batch.attempt)
        )
        for place, batch in enumerate(batches, 1)
    ]


# --- out ----------------------------------------------------------------------------------------------------------


def receive(
    conn: Connection, queue: str, limit: int, visibility_s: float, *, now: datetime | None = None
) -> list[Delivery]:
    """Deliver at most `limit` visible messages, oldest first; each is invisible to others for `visibility_s`."""
    parameters = {"queue": queue, "limit": limit, "visibility": timedelta(seconds=visibility_s), "now": now}
    return [_delivery(row) for row in conn.execute(SQL["receive"], parameters)]


def extend(
    conn: Connection, message_id: UUID, receipt: UUID, visibility_s: float, *, now: datetime | None = None
) -> bool:
    """Keep a delivery for `visibility_s` from now on. False: it is no longer the newest one, so stop working on it."""
    visibility = timedelta(seconds=visibility_s)
    parameters = {"message": message_id, "receipt": receipt, "visibility": visibility, "now": now}
    return conn.execute(SQL["extend"], parameters).fetchone() is not None


def ack(conn: Connection, message_id: UUID, receipt: UUID) -> bool:
    """Remove a message that is handled. False: this delivery is no longer the newest one, and the message stays."""
    return conn.execute(SQL["ack"], {"message": message_id, "receipt": receipt}).fetchone() is not None


def nack(
    conn: Connection, message_id: UUID, receipt: UUID, *, error: str, policy: RetryPolicy, now: datetime | None = None
) -> bool:
    """Give a message back after a failure; it is delivered again after a back-off.

    Args:
        error: Redacted text for people.
        policy: Only its back-off counts: how many deliveries a message has was settled when it was published.
    """
    parameters = {
        "message": message_id,
        "receipt": receipt,
        "error": storable(error),
        "base": timedelta(seconds=policy.base_s),
        "cap": timedelta(seconds=policy.cap_s),
        "now": now,
    }
    return conn.execute(SQL["nack"], parameters).fetchone() is not None


def reject(conn: Connection, message_id: UUID, receipt: UUID, *, error: str) -> bool:
    """Make a message a dead letter at once, since no later delivery can succeed. `error` is redacted text for people.

    False: this delivery is no longer the newest one, and the message stays.
    """
    parameters = {"message": message_id, "receipt": receipt, "error": storable(error)}
    return conn.execute(SQL["reject"], parameters).fetchone() is not None


# --- dead letters -------------------------------------------------------------------------------------------------


def bury(conn: Connection, *, now: datetime | None = None) -> list[UUID]:
    """Make dead letters of the messages whose deliveries are used up, and return their ids."""
    return [row["message_id"] for row in conn.execute(SQL["bury"], {"now": now})]


def replay(conn: Connection, *, message_id: UUID | None = None, queue: str | None = None) -> int:
    """Put dead letters back with fresh deliveries and return how many: one, those of a queue, or without both all.

    Raises:
        NotFound: no dead letter has this id.
    """
    replayed = conn.execute(SQL["replay"], {"message": message_id, "queue": queue}).fetchall()
    if message_id is not None and not replayed:
        raise NotFound(f"there is no dead letter {message_id}: `trace-ray ledger dead-letters` lists them")
    return len(replayed)


def dead_letters(conn: Connection, *, queue: str | None = None, limit: int = 100) -> list[DeadLetter]:
    """Return dead letters, newest first."""
    rows = conn.execute(SQL["dead_letters"], {"queue": queue, "limit": limit})
    return [
        DeadLetter(
            message_id=row["message_id"],
            queue=row["queue"],
            idempotency_key=row["idempotency_key"],
            payload=row["payload"],
            published_at=row["published_at"],
            dead_at=row["dead_at"],
            deliveries=row["deliveries"],
            max_deliveries=row["max_deliveries"],
            replays=row["replays"],
            reason=row["reason"],
            last_error=row["last_error"],
        )
        for row in rows
    ]


def depths(conn: Connection, *, now: datetime | None = None) -> list[QueueDepth]:
    """Return how much is in each queue that holds anything, dead letters too."""
    rows = conn.execute(SQL["depths"], {"now": now})
    return [
        QueueDepth(
            row["queue"], row["ready"], row["delivered"], row["waiting"], row["spent"], row["dead"], row["oldest"]
        )
        for row in rows
    ]


def _delivery(row: Row) -> Delivery:
    return Delivery(
        message_id=row["message_id"],
        receipt=row["receipt"],
        queue=row["queue"],
        idempotency_key=row["idempotency_key"],
        payload=row["payload"],
        deliveries=row["deliveries"],
        max_deliveries=row["max_deliveries"],
    )
