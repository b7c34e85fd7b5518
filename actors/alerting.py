"""Sinks, delivers and takes back the alert events of a stack: loops that wait for a database that is away.

Channels are those of the last `up`: when it has changed them, the loop of deliveries begins anew with them.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from actors import deliver
from actors.deliver import Deliverer
from actors.retract import Retractor
from actors.sink import Sink
from state import deliveries
from state.db import Database
from trace_ray import config, logs
from trace_ray.config import Settings
from trace_ray.errors import DatabaseUnavailable, TraceError
from trace_ray.storage import ObjectStore, open_store

logger = logging.getLogger(__name__)

IDLE_S: Final = 0.2  # between two looks at an empty queue
AWAY_S: Final = 2.0  # before a database that was away is asked again
CHANNELS_S: Final = 2.0  # between two looks at which channels there are


class Alerting:
    """The loops of one process. Any number of processes may run them at once: messages and deliveries are leased."""

    def __init__(
        self,
        sink: Sink,
        retractor: Retractor,
        settings: Callable[[], Settings],
        databases: tuple[Database, ...],
        objects: ObjectStore,
    ) -> None:
        """Args: settings: reads those of the stack as they are now."""
        self._sink = sink
        self._retractor = retractor
        self._settings = settings
        self._databases = databases
        self._objects = objects
        self._stop = threading.Event()
        self._events, self._retractions = threading.Event(), threading.Event()  # look at the queue now
        self._deliverer: Deliverer | None = None
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._sink_events, self._events), name="sink", daemon=True),
            threading.Thread(
                target=self._repeat, args=(self._retract_events, self._retractions), name="retractions", daemon=True
            ),
            threading.Thread(target=self._deliver, name="channels", daemon=True),
        ]

    def start(self) -> None:
        """Begin in threads of their own, which end with the process."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for events now instead of in a moment: a hint, and losing it costs that moment only."""
        self._events.set()

    def close(self) -> None:
        """End the loops that were started, after what is being sent, and let go of the databases."""
        self._stop.set()
        self._events.set()
        self._retractions.set()
        for thread in self._threads:
            thread.join()
        for database in self._databases:
            database.close()
        self._objects.close()

    def _sink_events(self) -> int:
        sunk = self._sink.run_once()
        if sunk.new:
            self._wake_deliverer()
        return sunk.messages

    def _retract_events(self) -> int:
        done = self._retractor.run_once()
        if done.retractions:
            self._wake_deliverer()
        return done.messages

    def _wake_deliverer(self) -> None:
        if self._deliverer is not None:
            self._deliverer.wake()

    def _repeat(self, once: Callable[[], int], news: threading.Event) -> None:
        """Handle messages as they come. `once` says how many it met."""
        while not self._stop.is_set():
            news.clear()
            try:
                messages = once()
            except DatabaseUnavailable as error:
                logger.warning("alert events wait for the database", extra={"reason": str(error)})
                self._stop.wait(AWAY_S)
                continue
            except Exception:  # the loop must survive what is wrong with one pass
                logger.exception("alert events not handled")
                self._stop.wait(AWAY_S)
                continue
            if not messages and not self._stop.is_set():
                news.wait(IDLE_S)

    def _deliver(self) -> None:
        """Deliver to the channels that are set, each time they are others with a loop of its own."""
        settings = self._settings()
        while not self._stop.is_set():
            settings = self._deliver_until_changed(settings)
            logger.info("channels", extra={"set": sorted(settings.channels)})

    def _deliver_until_changed(self, settings: Settings) -> Settings:
        logs.set_up(json=True, secrets=config.secrets(settings))  # no log has ever shown a secret
        over, deliverer = threading.Event(), deliver.for_stack(settings)
        loop = threading.Thread(target=deliverer.run, args=(over,), name="deliveries", daemon=True)
        loop.start()
        self._deliverer, found = deliverer, settings
        while _same_channels(settings, found) and not self._stop.wait(CHANNELS_S):
            try:
                found = self._settings()
            except TraceError as error:
                logger.warning("channels cannot be read", extra={"reason": str(error)})
        over.set()
        deliverer.wake()
        loop.join()
        deliverer.close()
        return found


def _same_channels(one: Settings, other: Settings) -> bool:
    return (one.channels, one.alerts_allow_loopback) == (other.channels, other.alerts_allow_loopback)


def for_stack(read: Callable[[], Settings]) -> Alerting:
    """Return the loops of a stack. `read` gives its settings as they are now."""
    settings = read()
    sinks, retracts = (
        (
            Database(config.state_url(settings), application_name=name),
            Database(config.data_url(settings), application_name=name),
        )
        for name in ("trace-sink", "trace-retract")
    )
    objects = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    scratch = settings.data_dir / "sink"
    scratch.mkdir(parents=True, exist_ok=True)
    sink = Sink(state=sinks[0], data=sinks[1], store=objects, scratch=scratch, route=deliveries.create)
    retractor = Retractor(state=retracts[0], data=retracts[1], store=objects, scratch=scratch)
    return Alerting(sink, retractor, read, (*sinks, *retracts), objects)
