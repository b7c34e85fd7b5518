"""Sinks and delivers the alert events of a stack: two loops that wait for a database that is away."""

import logging
import threading
from dataclasses import dataclass
from typing import Final

from actors import deliver
from actors.deliver import Deliverer
from actors.sink import Sink
from state import deliveries
from state.db import Database
from trace_ray import config
from trace_ray.config import Settings
from trace_ray.errors import DatabaseUnavailable
from trace_ray.storage import ObjectStore, open_store

logger = logging.getLogger(__name__)

IDLE_S: Final = 0.2  # between two looks at an empty queue
AWAY_S: Final = 2.0  # before a database that was away is asked again


@dataclass(frozen=True, slots=True)
class Alerting:
    """The loops of one process. Any number of processes may run them at once: messages and deliveries are leased."""

    sink: Sink
    deliverer: Deliverer
    databases: tuple[Database, ...]
    objects: ObjectStore
    stop: threading.Event

    def start(self) -> None:
        """Begin in threads of their own, which end with the process."""
        threading.Thread(target=self.sink_events, name="sink", daemon=True).start()
        threading.Thread(target=self.deliverer.run, args=(self.stop,), name="deliveries", daemon=True).start()

    def sink_events(self) -> None:
        """Handle batches as they come, until `stop` is set."""
        while not self.stop.is_set():
            try:
                sunk = self.sink.run_once()
            except DatabaseUnavailable as error:
                logger.warning("alert events wait for the database", extra={"reason": str(error)})
                self.stop.wait(AWAY_S)
                continue
            except Exception:  # the loop must survive what is wrong with one pass
                logger.exception("alert events not handled")
                self.stop.wait(AWAY_S)
                continue
            if sunk.new:
                self.deliverer.wake()
            if not sunk.messages:
                self.stop.wait(IDLE_S)

    def close(self) -> None:
        self.stop.set()
        self.deliverer.close()
        for database in self.databases:
            database.close()
        self.objects.close()


def for_stack(settings: Settings) -> Alerting:
    """Return the loops of a stack, with the channels of its settings."""
    state = Database(config.state_url(settings), application_name="trace-sink")
    data = Database(config.data_url(settings), application_name="trace-sink")
    objects = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    scratch = settings.data_dir / "sink"
    scratch.mkdir(parents=True, exist_ok=True)
    sink = Sink(state=state, data=data, store=objects, scratch=scratch, route=deliveries.create)
    return Alerting(sink, deliver.for_stack(settings), (state, data), objects, threading.Event())
