"""Makes alert events of the batches in the buffer queue: fetch, check, keep, route, acknowledge. No Ray, no loop.

A batch is kept as a whole or not at all. Whose events they are is taken from the ledger, never from the batch. Events
and their deliveries are one commit in database `data`; the message is acknowledged after it, in `state`. Killed in
between, the message comes again, and what is known already changes nothing.
"""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from state import alerts, buffer, evaluations, retractions
from state.db import Connection, Database
from state.evaluations import Source
from trace_ray import drafts
from trace_ray.alerts import QUEUE, AlertEvent, Draft, Mode, Rule, batch_key
from trace_ray.config import BUFFER_MAX_DELIVERIES
from trace_ray.contracts import OrgId, TaskId
from trace_ray.drafts import BadBatch
from trace_ray.errors import ObjectMissing, TraceError
from trace_ray.retry import RetryPolicy
from trace_ray.storage import ObjectStore

logger = logging.getLogger(__name__)

MESSAGES: Final = 16  # received together
VISIBLE_S: Final = 120.0  # the largest batch takes a few seconds
PART: Final = 5_000  # events kept by one statement, which must end within the limits of a connection
SHOWN: Final = 10  # conflicting events that a line of the log names
RETRIES: Final = RetryPolicy(1.0, 300.0, 10, 10)  # only its back-off counts

Route = Callable[[Connection, OrgId, Rule, Sequence[AlertEvent]], object]
"""Makes deliveries of new events, in the transaction that keeps them."""


@dataclass(frozen=True, slots=True)
class Sunk:
    """What one pass did. Messages: `kept`, `rejected` (dead letters now), `postponed`; events: the other three."""

    kept: int = 0
    rejected: int = 0
    postponed: int = 0
    new: int = 0
    repeated: int = 0
    conflicting: int = 0

    def __add__(self, other: "Sunk") -> "Sunk":
        return Sunk(
            self.kept + other.kept,
            self.rejected + other.rejected,
            self.postponed + other.postponed,
            self.new + other.new,
            self.repeated + other.repeated,
            self.conflicting + other.conflicting,
        )

    @property
    def messages(self) -> int:
        return self.kept + self.rejected + self.postponed


@dataclass(frozen=True, slots=True)
class _Message:
    """What a message says. It says no more than where the batch is, and whose it claims to be."""

    task_id: TaskId
    attempt: int
    org_id: UUID
    rule_id: UUID
    batch_uri: str
    digest: str
    size: int


class Sink:
    """One consumer of the queue; several may run at once, each with connections of its own."""

    def __init__(self, *, state: Database, data: Database, store: ObjectStore, scratch: Path, route: Route) -> None:
        self._state = state
        self._data = data
        self._store = store
        self._scratch = scratch
        self._route = route
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run_once(self, limit: int = MESSAGES) -> Sunk:
        """Handle what is in the queue, at most `limit` messages, and bury those whose deliveries are used up.

        Raises:
            DatabaseUnavailable: of database `state`; what was received comes again.
        """
        with self._state.transaction() as conn:
            buried = buffer.bury(conn)
            received = buffer.receive(conn, QUEUE, limit, VISIBLE_S)
        if buried:
            logger.warning("messages buried", extra={"messages": len(buried)})
        started = time.monotonic()
        sunk = Sunk()
        for delivery in received:
            if time.monotonic() - started > VISIBLE_S / 4 and not self._still_ours(delivery):
                continue
            sunk += self._handle(delivery)
        return sunk

    def _still_ours(self, delivery: buffer.Delivery) -> bool:
        with self._state.transaction() as conn:
            return buffer.extend(conn, delivery.message_id, delivery.receipt, VISIBLE_S)

    def _handle(self, delivery: buffer.Delivery) -> Sunk:
        try:
            source, sunk = self._keep(delivery)
        except (BadBatch, ObjectMissing) as error:  # the next delivery would end the same way
            return self._reject(delivery, str(error))
        except TraceError as error:  # try later, or a person has to mend something meanwhile
            return self._postpone(delivery, str(error))
        except Exception as error:  # a message that we cannot handle must not stop those behind it
            logger.exception("batch not handled", extra={"message_id": str(delivery.message_id)})
            return self._postpone(delivery, f"unexpected {type(error).__name__}: see the sink's log")
        with self._state.transaction() as conn:
            self._announce(conn, source)
            acknowledged = buffer.ack(conn, delivery.message_id, delivery.receipt)
        if not acknowledged:
            logger.info("batch kept late", extra={"message_id": str(delivery.message_id)})  # who has it now repeats it
        return sunk

    def _reject(self, delivery: buffer.Delivery, error: str) -> Sunk:
        with self._state.transaction() as conn:
            buffer.reject(conn, delivery.message_id, delivery.receipt, error=error)
        logger.warning("batch rejected", extra={"message_id": str(delivery.message_id), "reason": error})
        return Sunk(rejected=1)

    def _postpone(self, delivery: buffer.Delivery, error: str) -> Sunk:
        with self._state.transaction() as conn:
            buffer.nack(conn, delivery.message_id, delivery.receipt, error=error, policy=RETRIES)
        logger.warning("batch postponed", extra={"message_id": str(delivery.message_id), "reason": error})
        return Sunk(postponed=1)

    # --- one batch ------------------------------------------------------------------------------------------------

    def _announce(self, conn: Connection, source: Source) -> None:
        """Have the events looked at once more when blocks of theirs were replaced before they were kept."""
        org_id, attempt = source.rule.org_id, source.accepted or 0
        retractions.announce_late(conn, org_id, source.evaluation, attempt, max_deliveries=BUFFER_MAX_DELIVERIES)

    def _keep(self, delivery: buffer.Delivery) -> tuple[Source, Sunk]:
        message = _read(delivery.payload)
        source = self._source(message)
        data = self._fetch(message)
        evaluation = source.evaluation
        found = drafts.read(data, rule_id=evaluation.rule_id, chain_id=evaluation.chain_id, blocks=evaluation.blocks)
        with self._data.transaction() as conn:
            added = [self._add(conn, source, message, found[at : at + PART]) for at in range(0, len(found), PART)]
        new, repeated = sum(len(one.new) for one in added), sum(one.repeated for one in added)
        conflicting = [str(event) for one in added for event in one.conflicting]
        facts = {"rule": source.rule.name, "task_id": str(message.task_id), "attempt": message.attempt}
        if conflicting:
            more = {"events": conflicting[:SHOWN], "count": len(conflicting)}
            logger.warning("events known with other content, which was kept", extra={**facts, **more})
        logger.info("batch kept", extra={**facts, "new": new, "repeated": repeated})
        return source, Sunk(kept=1, new=new, repeated=repeated, conflicting=len(conflicting))

    def _source(self, message: _Message) -> Source:
        """Return where the batch comes from, by the ledger; the message must say the same."""
        with self._state.transaction() as conn:
            source = evaluations.source(conn, message.task_id)
        if source is None or source.accepted != message.attempt:
            raise BadBatch("the batch is not of an attempt that succeeded")
        if (message.org_id, message.rule_id) != (source.rule.org_id, source.evaluation.rule_id):
            raise BadBatch("the message names another organisation or rule than the ledger")
        if message.batch_uri != batch_key(message.task_id, message.attempt):
            raise BadBatch("the message names the object of somebody else")
        return source

    def _fetch(self, message: _Message) -> bytes:
        """Return the bytes of the batch, exactly those that were published. Nothing larger is ever fetched."""
        if message.size > drafts.MAX_BATCH:
            raise BadBatch(f"the batch has {message.size} bytes: at most {drafts.MAX_BATCH} are accepted")
        key = message.batch_uri
        sizes = [one.bytes for one in self._store.list(key) if one.key == key]
        if sizes and sizes != [message.size]:
            raise BadBatch(f"the object has {sizes[0]} bytes, and {message.size} were published")
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            path = Path(name, "batch")
            self._store.get(key, path)
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != message.digest:
            raise BadBatch("the object has other bytes than those that were published")
        return data

    def _add(self, conn: Connection, source: Source, message: _Message, part: Sequence[Draft]) -> alerts.Added:
        rule = source.rule
        added = alerts.add(conn, rule, message.task_id, message.attempt, part)
        if added.new and rule.mode is Mode.LIVE:
            self._route(conn, rule.org_id, rule, added.new)
        return added


def _read(payload: Mapping[str, Any]) -> _Message:
    try:
        return _Message(
            task_id=TaskId(UUID(payload["task_id"])),
            attempt=int(payload["attempt"]),
            org_id=UUID(payload["org_id"]),
            rule_id=UUID(payload["rule_id"]),
            batch_uri=str(payload["batch_uri"]),
            digest=str(payload["digest"]),
            size=int(payload["size"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadBatch("the message is none of this queue: it lacks what every batch says of itself") from None
