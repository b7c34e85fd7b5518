"""The delivery loop: lease what is due, send it, record what came of it. Any number of loops may run at once.

Each channel has threads of its own, so that one that fails or is slow holds up no other. A loop that dies between
sending and recording loses nothing: the lease ends, and the delivery is sent again under the same key.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from actors import senders
from actors.senders import Sender
from state import deliveries
from state.db import Database
from trace_ray.alerts import DeliveryState
from trace_ray.channels import Sending, Unsent
from trace_ray.config import DELIVERY_RETRIES, Settings, data_url
from trace_ray.errors import DatabaseUnavailable, FencedError
from trace_ray.notices import Leased
from trace_ray.retry import RetryPolicy

logger = logging.getLogger(__name__)

LEASE_S: Final = 120.0  # a sending takes 15 s and its resolver 30 s at the most; the rest is for a slow database
PLACES: Final = 4  # deliveries of one channel at a time: kind to the receiver, and one slow answer blocks no other
IDLE_S: Final = 1.0  # between two looks at a quiet ledger
RECORD_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one pass did."""

    reaped: int
    leased: int


def for_stack(settings: Settings) -> "Deliverer":
    """Return what delivers for a stack, with the channels of its settings."""
    database = Database(data_url(settings), application_name="trace-deliver")
    return Deliverer(database, senders.for_settings(settings))


class Deliverer:
    """Delivers from one ledger. `tick` is called from one thread."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Sender],
        *,
        policy: RetryPolicy = DELIVERY_RETRIES,
        lease_s: float = LEASE_S,
        places: int = PLACES,
        idle_s: float = IDLE_S,
    ) -> None:
        self._database = database
        self._channels = channels
        self._policy = policy
        self._lease_s = lease_s
        self._places = places
        self._idle_s = idle_s
        self._pools = {name: ThreadPoolExecutor(places, thread_name_prefix=f"deliver-{name}") for name in channels}
        self._in_flight: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._news = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set. A database that is away is waited for."""
        while not stop.is_set():
            self._news.clear()
            try:
                self.tick()
            except DatabaseUnavailable as error:
                logger.warning("deliveries wait for the database", extra={"reason": str(error)})
            self._news.wait(self._idle_s)

    def tick(self) -> Ticked:
        """End leases that ran out, and begin to send what is due. Returns at once: sending goes on in threads.

        Raises:
            DatabaseUnavailable
        """
        with self._database.transaction() as conn:
            reaped = deliveries.reap(conn, policy=self._policy)
        with self._lock:
            free = {name: self._places - self._in_flight[name] for name in self._channels}
        began = time.monotonic()
        with self._database.transaction() as conn:
            leased = deliveries.lease(conn, free, other=self._places, lease_s=self._lease_s)
        give_up = began + self._lease_s
        for one in leased:
            channel = one.delivery.channel
            if channel not in self._channels:
                self._record(one, _missing(channel), give_up)
                continue
            with self._lock:
                self._in_flight[channel] += 1
            self._pools[channel].submit(self._deliver, one, give_up)
        if reaped:
            logger.warning("delivery leases ended without a word", extra={"deliveries": len(reaped)})
        return Ticked(len(reaped), len(leased))

    def wake(self) -> None:
        """Look at the ledger now instead of in a moment."""
        self._news.set()

    def close(self) -> None:
        """Wait for what is being sent, and let go of the database."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)
        self._database.close()

    def _deliver(self, one: Leased, give_up: float) -> None:
        try:
            self._record(one, self._send(one), give_up)
        except Exception:  # else it would vanish in the pool; the lease ends, and the delivery is sent again
            logger.exception("delivery could not be recorded", extra=_facts(one))
        finally:
            with self._lock:
                self._in_flight[one.delivery.channel] -= 1
            self._news.set()

    def _send(self, one: Leased) -> Sending:
        try:
            return self._channels[one.delivery.channel](one.notice)
        except Exception as error:  # the thread must tell the ledger whatever happened
            logger.exception("sending failed", extra=_facts(one))
            return Unsent(f"unexpected {type(error).__name__}: see the log of the delivery loop", in_doubt=True)

    def _record(self, one: Leased, sending: Sending, give_up: float) -> None:
        """Write down what a sending came to; while the database is away, until the lease is over anyway."""
        while True:
            try:
                with self._database.transaction() as conn:
                    state = deliveries.record(conn, one.delivery, sending, policy=self._policy)
            except FencedError:
                logger.warning("delivery lease was lost", extra=_facts(one))
                return
            except DatabaseUnavailable:
                if time.monotonic() >= give_up:
                    logger.warning("delivery could not be recorded", extra=_facts(one))
                    return
                time.sleep(RECORD_AGAIN_S)
                continue
            _tell(one, sending, state)
            return


def _tell(one: Leased, sending: Sending, state: DeliveryState) -> None:
    facts = {**_facts(one), "state": state}
    if isinstance(sending, Unsent):
        logger.warning("delivery failed", extra={**facts, "reason": sending.error})
    else:
        logger.info("delivered", extra=facts)


def _missing(channel: str) -> Unsent:
    return Unsent(f"channel {channel} is not set where deliveries are sent: set TRACE_CHANNEL_{channel.upper()}_KIND")


def _facts(one: Leased) -> dict[str, object]:
    delivery = one.delivery
    return {
        "delivery_id": delivery.delivery_id,
        "channel": delivery.channel,
        "rule": one.notice.rule,
        "attempt": delivery.attempt,
    }
