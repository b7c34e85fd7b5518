"""What must follow: events, committed with their cause. Delivered at least once, so consumers tolerate doubles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from state.db import Connection, statements
from trace_ray.contracts import Epoch

SQL: Final = statements("outbox")


@dataclass(frozen=True, slots=True)
class Event:
    """One effect to bring about. `idempotency_key` is made from its cause."""

    topic: str
    idempotency_key: str
    payload: Mapping[str, Any]


def append(conn: Connection, event: Event) -> None:
    """Add an event; one with the same key is already there and stays."""
    parameters = {"topic": event.topic, "key": event.idempotency_key, "payload": Jsonb(dict(event.payload))}
    conn.execute(SQL["append"], parameters)


def drain(conn: Connection, epoch: Epoch, topics: Sequence[str], limit: int) -> list[Event]:
    """Take out at most `limit` events, oldest first. They come back when the transaction fails."""
    rows = conn.execute(SQL["drain"], {"epoch": epoch, "topics": list(topics), "limit": limit})
    return [Event(row["topic"], row["idempotency_key"], row["payload"]) for row in rows]
