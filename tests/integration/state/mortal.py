"""A Dispatcher with simulated workers in one process, made to be killed at any line.

A life takes over from the one before, adopts or frees what that one's workers hold, and goes on: its workers finish,
fail, fall silent, answer late and answer twice, and attempts that lost their lease offer other content.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import psycopg

from actors import dispatcher
from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Orders, Timing
from state.db import Connection, Database, Row, connect
from state.outbox import Event
from tests.integration.state.ledger import failure, publication
from trace_ray.contracts import AttemptKey, BlockRange, Lease, Outcome, Receipts, Task, WorkerId
from trace_ray.retry import RetryPolicy

PATIENT: Final = RetryPolicy(base_s=0.001, cap_s=0.005, max_attempts=10_000, max_infra_failures=10_000)
TIMING: Final = Timing(lease_s=0.1, leader_s=5.0, policy=PATIENT)
SLOTS: Final = 4
SINK: Final = b"CREATE TABLE public.sink (idempotency_key text PRIMARY KEY, deliveries int NOT NULL DEFAULT 1)"
DELIVER: Final = (
    b"INSERT INTO public.sink (idempotency_key) SELECT unnest(%s::text[])"
    b" ON CONFLICT (idempotency_key) DO UPDATE SET deliveries = sink.deliveries + 1"
)

HELD: Final = b"""
SELECT t.*, a.lease_token AS token, a.attempt AS held_attempt FROM state.tasks t
JOIN state.attempts a USING (task_id, attempt) WHERE t.state = 'running'
"""
LOST: Final = b"""
SELECT t.*, a.lease_token AS token, a.attempt AS held_attempt FROM state.tasks t JOIN state.attempts a USING (task_id)
WHERE a.attempt < t.attempt OR a.outcome IN ('released', 'failed') ORDER BY md5(a.lease_token::text) LIMIT 3
"""
UNDONE: Final = b"""
SELECT EXISTS (SELECT FROM state.cursors JOIN state.streams USING (stream_id) JOIN state.jobs USING (job_id)
               WHERE next_block < to_block) OR EXISTS (SELECT FROM state.ranges WHERE NOT done)
  OR EXISTS (SELECT FROM state.outbox) AS undone
"""


def lease_of(row: Row) -> Lease:
    """Return the lease of an attempt as its worker knows it."""
    payload = row["payload"]
    task = Task(
        task_id=row["task_id"],
        job_id=row["job_id"],
        chain_id=payload["chain_id"],
        dataset_key=payload["dataset_key"],
        dataset_uuid=row["dataset_uuid"],
        cryo_dataset_name=payload["cryo_dataset_name"],
        rpc_pool=payload["rpc_pool"],
        blocks=BlockRange(row["range_start"], row["range_end"]),
        config_hash=payload["config_hash"],
    )
    return Lease(task, row["held_attempt"], row["token"], row["generation"], Receipts.ETHEREUM)


@dataclass
class Life:
    """One process: `pending` leases still work, with the number of ticks until they answer."""

    url: str
    chance: random.Random
    pending: dict[AttemptKey, tuple[int, Lease]] = field(default_factory=dict[AttemptKey, tuple[int, Lease]])

    def __post_init__(self) -> None:
        self.sink = connect(self.url, application_name="sink")
        self.looker = connect(self.url, application_name="looker")
        self.core = Dispatcher(Database(self.url, application_name="core"), holder=f"a/b/{os.getpid()}", timing=TIMING)

    def run(self) -> None:
        with patch.dict(dispatcher.HANDLERS, {"dataset.published": self._deliver}):
            assert self.core.lead()
            outcomes = self._recover()
            while self.looker.execute(UNDONE).fetchone() == {"undone": True}:
                outcomes = self._work(self._tick(outcomes))
                time.sleep(0.001)

    def _deliver(self, _: Connection, events: Sequence[Event]) -> None:
        self.sink.execute(DELIVER, ([event.idempotency_key for event in events],))

    def _recover(self) -> list[Outcome]:
        rows = self.looker.execute(HELD).fetchall()
        fates = {name: self.chance.choice(["held", "silent", "dead"]) for name in {row["worker_id"] for row in rows}}
        leases = [(row["worker_id"], lease_of(row)) for row in rows]
        held: dict[WorkerId, list[AttemptKey]] = {}
        for worker_id, lease in leases:
            if fates[worker_id] == "held":
                held.setdefault(worker_id, []).append(lease.key)
        adopted = self.core.recover(held, [name for name, fate in fates.items() if fate == "silent"])
        for _, lease in leases:
            if lease.key in adopted:
                self.pending[lease.key] = (self.chance.randrange(3), lease)
        zombies = [publication(lease_of(row), content="zombie") for row in self.looker.execute(LOST)]
        return [*zombies, *self._work(None)]

    def _tick(self, outcomes: Sequence[Outcome]) -> Orders:
        inbox = Inbox(
            outcomes=tuple(outcomes),
            heads=(HeadAnswer("standard", 31337, 1_000_000),),
            dead=tuple(
                WorkerId(f"w/{index}.{self.core.epoch}") for index in range(SLOTS) if self.chance.random() < 0.02
            ),
            alive=tuple(self.pending),
            slots=tuple(WorkerId(f"w/{index}.{self.core.epoch}") for index in range(SLOTS)),
        )
        return self.core.tick(inbox, now=time.monotonic())

    def _work(self, orders: Orders | None) -> list[Outcome]:
        for group in orders.groups if orders else ():
            for lease in group.leases:
                if self.chance.random() > 0.04:  # the others never answer
                    self.pending[lease.key] = (self.chance.choice([0, 0, 0, 1, 2, 8]), lease)
        outcomes: list[Outcome] = []
        for key, (ticks, lease) in list(self.pending.items()):
            if ticks:
                self.pending[key] = (ticks - 1, lease)
                continue
            offer = publication(lease)
            outcomes += self.chance.choice([[offer], [offer], [offer], [offer, offer], [failure(lease)]])
            if self.chance.random() > 0.05:  # the others answer again later
                del self.pending[key]
        return outcomes


def live(url: str, seed: int, exchanges: int | None) -> None:
    """Live until everything is done, or until the process is killed: around its n-th exchange, or by others."""
    chance = random.Random(seed)
    wait: Callable[..., Any] = psycopg.Connection.wait
    left = exchanges

    def mortal(conn: Connection, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        if left is not None:
            left -= 1
            if left == 0 and seed % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        answer = wait(conn, *arguments, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    with patch.object(psycopg.Connection, "wait", mortal):
        Life(url, chance).run()
