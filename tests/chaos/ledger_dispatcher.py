"""A dispatcher process of a ledger run: the product's core in a loop that competes for the lead. No Ray.

What actors.term and actors.crew do for the product is done here in the simplest way. Events come out of the outbox into
a sink table on another connection before their removal commits; some processes die in between. Started by
`tests.chaos.ledger_world`.
"""

import argparse
import logging
import os
import random
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from unittest.mock import patch

import psycopg

from actors import dispatcher
from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Orders
from state import outbox
from state.db import Connection, Database
from tests.chaos.ledger_wire import SLOTS, TIMING, Link, Log, Told, worker_of
from trace_ray.contracts import AttemptKey, HeadRequest, LeaseGroup, WorkerId
from trace_ray.errors import DatabaseUnavailable, FencedError
from trace_ray.retry import RetryPolicy

HEAD: Final = 10**9
TICK_S: Final = 0.01
OUTBOX_RETRIES: Final = RetryPolicy(base_s=0.02, cap_s=0.2, max_attempts=50, max_infra_failures=50)
DIES_BEFORE_DELETING: Final = 0.004
FAILS_BEFORE_DELETING: Final = 0.02

DELIVER: Final = """
    INSERT INTO chaos.sink AS s (key, topic, caused)
    SELECT %(key)s::text, %(topic)s::text,
      EXISTS (SELECT FROM state.dataset_versions WHERE dataset_version = %(version)s::uuid)
      OR EXISTS (SELECT FROM state.attempts WHERE task_id = %(task)s::uuid AND outcome IS NOT NULL)
    ON CONFLICT (key) DO UPDATE SET deliveries = s.deliveries + 1
"""
LED: Final = "SELECT FROM state.dispatcher WHERE expires_at > clock_timestamp()"


class NotDeleted(Exception):
    """A consumer that failed after its effect."""


class Contender:
    """One process: waits for the lead, serves a term, and waits again."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._url: str = asked.url
        self._sockets: Path = asked.sockets
        self._calm: Path = asked.calm
        self._rival: bool = asked.rival
        self._holder = f"{asked.cluster}/chaos/{os.getpid()}"
        self._database = Database(asked.url, application_name="trace-dispatcher")
        self._sink: psycopg.Connection | None = None
        self._links: dict[WorkerId, Link] = {}
        self._dead: set[WorkerId] = set()
        self._heads: tuple[HeadRequest, ...] = ()
        self._log = Log(asked.log)
        self._rng = random.Random(f"{asked.seed}/{asked.number}")
        self._told_to_lead = False
        signal.signal(signal.SIGUSR1, self._be_told)

    def run(self) -> None:
        while True:
            try:
                if self._wants_to_lead():
                    self._term()
                time.sleep(0.03)
            except FencedError:
                self._log.write("fenced")
                time.sleep(self._rng.uniform(0.1, 0.3))
            except (DatabaseUnavailable, psycopg.OperationalError):
                self._log.write("unavailable")
                time.sleep(0.05)
            except Exception:  # noqa: BLE001 - the run must go on and tell it
                self._log.write("unexpected", detail=traceback.format_exc())
                time.sleep(0.1)

    def _be_told(self, number: int, frame: object) -> None:
        self._told_to_lead = True

    # --- the term -------------------------------------------------------------------------------------------------

    def _wants_to_lead(self) -> bool:
        """Dispatchers of one cluster do not push each other out unless told; the rival tries now and then."""
        if self._told_to_lead or (self._rival and self._rng.random() < 0.1):
            self._told_to_lead = False
            return True
        return self._sink_connection().execute(LED).fetchone() is None

    def _term(self) -> None:
        core = Dispatcher(self._database, holder=self._holder, timing=TIMING)
        if not core.lead():
            self._log.write("lead refused")
            return
        self._log.write("term")
        heard = self._hear()
        held: dict[WorkerId, Sequence[AttemptKey]] = {
            worker_id: [*told.held.running, *(outcome.attempt for outcome in told.held.finished)]
            for worker_id, told in heard.items()
        }
        adopted = core.recover(held, self._links.keys() - heard.keys())
        self._log.write("adopted", len(adopted))
        while True:
            self._tick(core)
            time.sleep(TICK_S)

    def _tick(self, core: Dispatcher) -> None:
        heard = self._hear()
        inbox = self._inbox(heard)
        try:
            orders = core.tick(inbox, now=time.monotonic())
        except DatabaseUnavailable:  # workers tell their outcomes again until they are acknowledged
            self._log.write("unavailable")
            time.sleep(0.05)
            return
        self._dead.difference_update(inbox.dead)
        self._heads = orders.heads
        self._follow(orders, heard)

    def _inbox(self, heard: dict[WorkerId, Told]) -> Inbox:
        """Noise first: what is forged or old arrives before what is true, in one transaction with it."""
        noise = [outcome for told in heard.values() for outcome in told.noise]
        finished = [outcome for told in heard.values() for outcome in told.held.finished]
        return Inbox(
            outcomes=(*noise, *finished),
            heads=tuple(HeadAnswer(request.rpc_pool, request.chain_id, HEAD) for request in self._heads),
            dead=tuple(self._dead),
            alive=tuple(key for told in heard.values() for key in told.held.running),
            slots=tuple(worker_id for worker_id, told in heard.items() for _ in range(min(SLOTS, told.free))),
        )

    def _follow(self, orders: Orders, heard: dict[WorkerId, Told]) -> None:
        groups: defaultdict[WorkerId, list[LeaseGroup]] = defaultdict(list)
        for group in orders.groups:
            groups[group.worker_id].append(group)
        for worker_id in heard:
            self._links[worker_id].acknowledge(orders.settled)
        for worker_id, mine in groups.items():
            try:
                self._links[worker_id].place(mine)
            except OSError:
                self._bury(worker_id)
        self._log.write("reaped", orders.reaped)
        self._log.write("published", len({one.attempt for one in orders.published}))
        for reason, count in Counter(one.reason for one in orders.refused).items():
            self._log.write(f"refused {reason}", count)

    # --- workers --------------------------------------------------------------------------------------------------

    def _hear(self) -> dict[WorkerId, Told]:
        """Ask every worker; those that are silent stay in `_links`, the dead leave it."""
        for socket in self._sockets.glob("*.sock"):
            worker_id = worker_of(socket)
            if worker_id not in self._links and worker_id not in self._dead:
                try:
                    self._links[worker_id] = Link(socket)
                except OSError:
                    continue  # it starts, or is dead and nobody has swept its socket yet
        heard: dict[WorkerId, Told] = {}
        for worker_id, link in list(self._links.items()):
            try:
                told = link.ask()
            except (OSError, EOFError):
                self._bury(worker_id)
                continue
            if told is not None:
                heard[worker_id] = told
        return heard

    def _bury(self, worker_id: WorkerId) -> None:
        self._links.pop(worker_id).close()
        self._dead.add(worker_id)
        self._log.write("worker found dead")

    # --- events ---------------------------------------------------------------------------------------------------

    def deliver(self, _conn: Connection, events: Sequence[outbox.Event]) -> None:
        """Handle events of a topic: the effect is committed elsewhere, before their removal is."""
        rows = [
            {
                "key": event.idempotency_key,
                "topic": event.topic,
                "version": event.payload.get("dataset_version"),
                "task": event.payload.get("task_id"),
            }
            for event in events
        ]
        try:
            with self._sink_connection().cursor() as cursor:
                cursor.executemany(DELIVER, rows)
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable("the sink does not answer") from error
        if self._calm.exists():
            return
        draw = self._rng.random()
        if draw < DIES_BEFORE_DELETING:
            self._log.write("died between effect and delete")
            os.kill(os.getpid(), signal.SIGKILL)
        if draw < FAILS_BEFORE_DELETING:
            self._log.write("failed between effect and delete")
            raise NotDeleted

    def _sink_connection(self) -> psycopg.Connection:
        if self._sink is None or self._sink.closed:
            self._sink = psycopg.connect(self._url, autocommit=True, connect_timeout=2, application_name="chaos-sink")
        return self._sink


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--rival", action="store_true", help="of another cluster: tries to lead while somebody does")
    parser.add_argument("--sockets", type=Path, required=True)
    parser.add_argument("--calm", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--clock", type=float, default=0.0, help="seconds by which this process's clock is wrong")
    asked = parser.parse_args(arguments)
    real = time.time
    time.time = lambda: real() + asked.clock
    logging.disable(logging.WARNING)  # lost connections and failed handlers are what the run is about
    contender = Contender(asked)
    handlers: dict[str, outbox.Handler] = dict.fromkeys(dispatcher.HANDLERS, contender.deliver)
    with (
        patch.object(dispatcher, "HANDLERS", handlers),
        patch.object(dispatcher, "OUTBOX_RETRIES", OUTBOX_RETRIES),
    ):
        contender.run()
