"""What must follow: events, committed with their cause. Delivered at least once, so consumers tolerate doubles."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

import psycopg
from psycopg import Cursor
from psycopg.types.json import Jsonb

from state.db import FENCED, Connection, ask, statements, storable
from trace_ray.contracts import Epoch
from trace_ray.errors import DatabaseUnavailable, FencedError, NotFound, TraceError
from trace_ray.ledger_reports import PendingEvent
from trace_ray.retry import RetryPolicy

logger = logging.getLogger(__name__)

SQL: Final = statements("outbox")

SAVE: Final = b"SAVEPOINT outbox"  # never released: the end of the transaction does it, and a newer one hides it
UNDO: Final = b"ROLLBACK TO SAVEPOINT outbox"


@dataclass(frozen=True, slots=True)
class Event:
    """One effect to bring about. `idempotency_key` is made from its cause."""

    topic: str
    idempotency_key: str
    payload: Mapping[str, Any]


Handler = Callable[[Connection, Sequence[Event]], None]
"""Brings the effects of events of one topic about, oldest first. What it writes through the connection commits together
with the events' removal; what it does elsewhere it may do twice. It raises when it could not."""


@dataclass(frozen=True, slots=True)
class Unhandled:
    """An event whose handler failed. `attempts` counts this one too; `failed`: they are used up."""

    event: Event
    attempts: int
    failed: bool
    error: str


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain did, by topic."""

    handled: tuple[Event, ...]
    unhandled: tuple[Unhandled, ...]


def append(conn: Connection, event: Event) -> None:
    """Add an event; one with the same key is already there and stays."""
    parameters = {"topic": event.topic, "key": event.idempotency_key, "payload": Jsonb(dict(event.payload))}
    conn.execute(SQL["append"], parameters)


# --- draining -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taken:
    """An event that was taken out, to be put back as it was; one that shared its row has no number."""

    event_id: int | None
    event: Event
    attempts: int


def drain(
    conn: Connection,
    epoch: Epoch,
    handlers: Mapping[str, Handler],
    *,
    limit: int,
    policy: RetryPolicy,
    now: datetime | None = None,
) -> Drained:
    """Hand at most `limit` available events, oldest first, to the handler of their topic, and remove what was handled.

    Events that were committed together share a row and come together, even if that row has more than `limit` of them.

    All events of a topic are handled at once. When that raises, what was written for them is undone and they are
    handled one by one; those that raise again come back after a back-off, until their attempts are used up. Then they
    stay, as failed, for an operator. Either way the later ones go on. When the transaction fails, every event comes
    back.

    Args:
        handlers: By topic; events of other topics are left alone.

    Raises:
        FencedError, DatabaseUnavailable: nothing can be handled now; the events keep their attempts.
    """
    return handle(
        conn, epoch, take(conn, epoch, list(handlers), limit=limit, now=now), handlers, policy=policy, now=now
    )


Taken = Cursor[tuple[Any, ...]]
"""Rows that were taken out, read when they are needed."""


def take(conn: Connection, epoch: Epoch, topics: Sequence[str], *, limit: int, now: datetime | None = None) -> Taken:
    """Begin a drain: take events out, to be handed to `handle` in the same transaction, with nothing written between.

    In a pipeline the server does so while other answers are read.
    """
    taken = ask(conn, SQL["drain"], {"epoch": epoch, "topics": list(topics), "limit": limit, "now": now})
    conn.execute(SAVE)  # sent along, for the first topic: most ticks have no other
    return taken


def handle(
    conn: Connection,
    epoch: Epoch,
    rows: Taken,
    handlers: Mapping[str, Handler],
    *,
    policy: RetryPolicy,
    now: datetime | None = None,
) -> Drained:
    """End a drain, outside of any pipeline: hand over what was taken, as `drain` says."""
    taken = sorted(
        map(_taken, rows.fetchall()), key=lambda one: one.event.topic
    )  # stable: events of a topic stay in order
    handled: list[Event] = []
    errors: list[tuple[_Taken, str]] = []
    for number, (topic, group) in enumerate(groupby(taken, key=lambda one: one.event.topic)):
        events = list(group)
        if number:
            conn.execute(SAVE)
        if _handle(conn, handlers[topic], events) is None:
            handled += [one.event for one in events]
            continue
        for one in events:
            conn.execute(SAVE)
            error = _handle(conn, handlers[topic], [one])
            if error is None:
                handled.append(one.event)
            else:
                errors.append((one, error))
    if errors:
        _put_back(conn, epoch, errors, policy, now)
    unhandled = [
        Unhandled(one.event, one.attempts + 1, one.attempts + 1 >= policy.max_attempts, error) for one, error in errors
    ]
    return Drained(tuple(handled), tuple(unhandled))


def _taken(row: tuple[Any, ...]) -> _Taken:
    event_id, topic, key, payload, attempts = row
    return _Taken(event_id, Event(topic, key, payload), attempts)


def _handle(conn: Connection, handler: Handler, taken: Sequence[_Taken]) -> str | None:
    """Handle events after a savepoint; return None, or undo it and say what went wrong in words that may be stored."""
    try:
        handler(conn, [one.event for one in taken])
    except (DatabaseUnavailable, FencedError):
        raise
    except Exception as error:
        if _concerns_all(conn, error):
            raise
        conn.execute(UNDO)
        if isinstance(error, TraceError):
            return storable(str(error))
        kind = type(error).__name__
        logger.warning("event handler failed", extra={"topic": taken[0].event.topic}, exc_info=error)
        return f"unexpected {kind}: see the Dispatcher's log"
    return None


def _concerns_all(conn: Connection, error: Exception) -> bool:
    """Whether the connection or the term is gone, so that no event is at fault: `Database.transaction` says which."""
    return conn.closed or (isinstance(error, psycopg.Error) and error.sqlstate == FENCED)


def _put_back(
    conn: Connection, epoch: Epoch, errors: Sequence[tuple[_Taken, str]], policy: RetryPolicy, now: datetime | None
) -> None:
    taken = [one for one, _ in errors]
    conn.execute(
        SQL["put_back"],
        {
            "ids": [one.event_id for one in taken],
            "topics": [one.event.topic for one in taken],
            "keys": [one.event.idempotency_key for one in taken],
            "payloads": [Jsonb(dict(one.event.payload)) for one in taken],
            "attempts": [one.attempts + 1 for one in taken],
            "errors": [error for _, error in errors],
            "epoch": epoch,
            "max_attempts": policy.max_attempts,
            "base": timedelta(seconds=policy.base_s),
            "cap": timedelta(seconds=policy.cap_s),
            "now": now,
        },
    )


# --- operators ----------------------------------------------------------------------------------------------------


def replay(conn: Connection, event_id: int | None = None, *, now: datetime | None = None) -> int:
    """Give failed events fresh attempts, one or all, and return how many.

    Raises:
        NotFound: no failed event has this id.
    """
    replayed = conn.execute(SQL["replay"], {"id": event_id, "now": now}).fetchall()
    if event_id is not None and not replayed:
        raise NotFound(f"there is no failed event {event_id}: `trace-ray ledger outbox --failed` lists them")
    return len(replayed)


def listing(conn: Connection, *, failed_only: bool = False, limit: int = 100) -> list[PendingEvent]:
    """Return events that are not handled yet: failed ones first, then those that failed most often, then the oldest."""
    rows = conn.execute(SQL["listing"], {"failed_only": failed_only, "limit": limit})
    return [
        PendingEvent(
            event_id=row["id"],
            topic=row["topic"],
            idempotency_key=row["idempotency_key"],
            payload=row["payload"],
            available_at=row["available_at"],
            attempts=row["attempts"],
            failed=row["failed"],
            last_error=row["last_error"],
        )
        for row in rows
    ]
