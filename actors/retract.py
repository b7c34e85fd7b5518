"""Takes alert events back whose block is gone: compares them with the rows of versions that replaced others.

A block that has rows in the new version, none of them with the event's hash, is gone. A block without rows there
decides nothing, and neither does a version that is out of sight again: its successor is announced as well. Event and
deliveries are one commit in database `data`; the message is acknowledged after it, in `state`. Killed in between, the
message comes again and finds nothing left to do. What was retracted stays so, also when the same block comes back.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from actors import blockhashes
from state import alerts, buffer, deliveries, retractions
from state.db import Database
from state.retractions import Shown
from trace_ray.contracts import VersionId
from trace_ray.errors import TraceError
from trace_ray.retry import RetryPolicy
from trace_ray.storage import ObjectStore

logger = logging.getLogger(__name__)

MESSAGES: Final = 8  # received together
VISIBLE_S: Final = 300.0  # an object may be large, and slow to come
PART: Final = 1_000  # events taken back by one transaction, which must end within the limits of a connection
RETRIES: Final = RetryPolicy(5.0, 600.0, 10, 10)  # only its back-off counts


@dataclass(frozen=True, slots=True)
class Retracted:
    """What one pass did: messages that were handled and that come again, events taken back, retractions to be sent."""

    handled: int = 0
    postponed: int = 0
    events: int = 0
    retractions: int = 0

    def __add__(self, other: "Retracted") -> "Retracted":
        return Retracted(
            self.handled + other.handled,
            self.postponed + other.postponed,
            self.events + other.events,
            self.retractions + other.retractions,
        )

    @property
    def messages(self) -> int:
        return self.handled + self.postponed


class Retractor:
    """One consumer of the queue; several may run at once, each with connections of its own."""

    def __init__(self, *, state: Database, data: Database, store: ObjectStore, scratch: Path) -> None:
        self._state = state
        self._data = data
        self._store = store
        self._scratch = scratch
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run_once(self, limit: int = MESSAGES) -> Retracted:
        """Handle what is in the queue, at most `limit` messages. The sink buries those whose deliveries are used up.

        Raises:
            DatabaseUnavailable: of database `state`; what was received comes again.
        """
        with self._state.transaction() as conn:
            received = buffer.receive(conn, retractions.QUEUE, limit, VISIBLE_S)
        started = time.monotonic()
        done = Retracted()
        for delivery in received:
            if time.monotonic() - started > VISIBLE_S / 4 and not self._still_ours(delivery):
                continue
            done += self._handle(delivery)
        return done

    def _still_ours(self, delivery: buffer.Delivery) -> bool:
        with self._state.transaction() as conn:
            return buffer.extend(conn, delivery.message_id, delivery.receipt, VISIBLE_S)

    def _handle(self, delivery: buffer.Delivery) -> Retracted:
        try:
            done = self._compare(VersionId(UUID(str(delivery.payload["dataset_version"]))))
        except TraceError as error:  # try later, or a person has to mend something meanwhile
            return self._postpone(delivery, str(error))
        except Exception as error:  # a message that we cannot handle must not stop those behind it
            logger.exception("replacement not compared", extra={"message_id": str(delivery.message_id)})
            return self._postpone(delivery, f"unexpected {type(error).__name__}: see the log of the retractions")
        with self._state.transaction() as conn:
            buffer.ack(conn, delivery.message_id, delivery.receipt)  # too late: who has it now finds nothing left to do
        return done

    def _postpone(self, delivery: buffer.Delivery, error: str) -> Retracted:
        with self._state.transaction() as conn:
            buffer.nack(conn, delivery.message_id, delivery.receipt, error=error, policy=RETRIES)
        logger.warning("retractions postponed", extra={"message_id": str(delivery.message_id), "reason": error})
        return Retracted(postponed=1)

    # --- one version ----------------------------------------------------------------------------------------------

    def _compare(self, version: VersionId) -> Retracted:
        with self._state.transaction() as conn:
            shown = retractions.shown(conn, version)
        if shown is None:
            return Retracted(handled=1)
        gone = self._gone(shown)
        events = sent = 0
        while gone:
            with self._data.transaction() as conn:
                marked = alerts.retract(conn, shown.org_id, shown.chain_id, gone, limit=PART)
                sent += len(deliveries.retract(conn, marked)) if marked else 0
            events += len(marked)
            if not marked:
                break
        if events:
            facts = {"dataset": shown.dataset, "dataset_version": str(version), "events": events, "retractions": sent}
            logger.info("events taken back", extra=facts)
        return Retracted(handled=1, events=events, retractions=sent)

    def _gone(self, shown: Shown) -> list[tuple[int, bytes]]:
        """Return the blocks of events, by number and hash, that the rows of a version contradict."""
        with self._data.transaction() as conn:
            known = alerts.blocks(conn, shown.org_id, shown.chain_id, shown.blocks)
        if not known:
            return []
        there = blockhashes.read(self._store, shown.files, known, scratch=self._scratch)
        return [
            (number, block_hash)
            for number, hashes in known.items()
            if number in there
            for block_hash in sorted(hashes - there[number])
        ]
