"""A dispatcher that dies before its n-th statement, for every n, and the next one that goes on with what is left.

A death between two transactions is one before the first statement of the second. The worker lives on: it holds its
leases and tells its outcomes until they are acknowledged.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import psycopg

from actors import dispatcher
from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from state import jobs, outbox
from state.db import Connection, Database
from tests.chaos.arena import Arena
from tests.chaos.ledger_dispatcher import DELIVER
from tests.chaos.ledger_worker import offer
from tests.integration.state.ledger import NO_WAIT, failure
from trace_ray.contracts import AttemptKey, HeadRequest, Job, Lease, Outcome, WorkerId
from trace_ray.errors import DatabaseUnavailable

WORKER: Final = WorkerId("w/0.0")
TIMING: Final = Timing(lease_s=60.0, leader_s=60.0, policy=NO_WAIT)
TICKS: Final = 40
RANGES: Final = 2
HEAD: Final = 10**6

APPLICATION = "chaos-life"  # what the connections of a life are known by


class Death:
    """Counts the statements of one database and ends its connection before the n-th."""

    def __init__(self, at: int) -> None:
        self._left = at

    @property
    def came(self) -> bool:
        return self._left <= 0

    @contextmanager
    def armed(self) -> Generator[None]:
        execute = psycopg.Cursor[Any].execute

        def counted(cursor: psycopg.Cursor[Any], *arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
            mine = cursor.connection.info.parameter_status("application_name") == APPLICATION
            if mine and not self.came:
                self._left -= 1
                if self.came:
                    cursor.connection.close()
                    raise psycopg.OperationalError("the process died")
            return execute(cursor, *arguments, **options)

        with patch.object(psycopg.Cursor, "execute", counted):
            yield


class Life:
    """One small job from its first plan to its last event."""

    def __init__(self, arena: Arena, death: Death) -> None:
        self._arena = arena
        self._death = death
        self._outcomes: dict[AttemptKey, Outcome] = {}
        self._heads: Sequence[HeadRequest] = ()
        self._sink = psycopg.connect(arena.url, autocommit=True)
        self._processes = 0

    def run(self, job: Job) -> bool:
        """Return whether the job came to its end."""
        core: Dispatcher | None = None
        handlers: dict[str, outbox.Handler] = dict.fromkeys(dispatcher.HANDLERS, self._deliver)
        with patch.object(dispatcher, "HANDLERS", handlers), self._death.armed(), self._sink:
            for tick in range(TICKS):
                try:
                    core = core or self._take_over()
                    self._tick(core, float(tick))
                except DatabaseUnavailable:
                    core = None  # the process is dead; the next one begins with nothing but the ledger
                if tick > 1 and self._is_over(job):
                    return True
        return False

    def _take_over(self) -> Dispatcher:
        self._processes += 1
        database = self._arena.enter_context(closing(Database(self._arena.url, application_name=APPLICATION)))
        core = Dispatcher(database, holder=f"one/chaos/{self._processes}", timing=TIMING)
        assert core.lead(), "a dispatcher of the same cluster takes over at once"
        core.recover({WORKER: list(self._outcomes)}, ())
        self._heads = ()
        return core

    def _tick(self, core: Dispatcher, now: float) -> None:
        heads = tuple(HeadAnswer(one.rpc_pool, one.chain_id, HEAD) for one in self._heads)
        inbox = Inbox(outcomes=tuple(self._outcomes.values()), heads=heads, slots=(WORKER, WORKER))
        orders = core.tick(inbox, now=now)
        self._heads = orders.heads
        for key in orders.settled:
            self._outcomes.pop(key, None)
        for group in orders.groups:
            self._outcomes |= {lease.key: self._outcome(lease) for lease in group.leases}

    @staticmethod
    def _outcome(lease: Lease) -> Outcome:
        """The first attempt of the first range fails."""
        fails = lease.attempt == 1 and lease.task.blocks.start == 0
        return failure(lease) if fails else offer(lease, lease.key, 0.0)

    def _deliver(self, _conn: Connection, events: Sequence[outbox.Event]) -> None:
        for event in events:
            version, task = event.payload.get("dataset_version"), event.payload.get("task_id")
            values = {"key": event.idempotency_key, "topic": event.topic, "version": version, "task": task}
            self._sink.execute(DELIVER, values)

    def _is_over(self, job: Job) -> bool:
        (row,) = self._sink.execute(
            "SELECT (SELECT count(*) FROM state.tasks WHERE state IN ('queued', 'running')),"
            " (SELECT count(*) FROM state.outbox), (SELECT min(next_block) FROM state.cursors"
            " JOIN state.streams USING (stream_id) WHERE job_id = %s::uuid)",
            (job.job_id,),
        ).fetchall()
        return row[:2] == (0, 0) and row[2] == RANGES * 10


@contextmanager
def closing(database: Database) -> Generator[Database]:
    yield database
    database.close()


def death_at_every_statement(arena: Arena) -> None:
    """Play lives that end before statement 1, 2, 3, ... until one ends by itself."""
    applied = arena.connect()
    for at in range(1, 1000):
        job, death = arena.job(ranges=RANGES), Death(at)
        with applied.transaction():
            jobs.apply(applied, job)
        if not Life(arena, death).run(job):
            arena.blame("comes_to_rest", "work ends after a death", {"before_statement": at})
        if not death.came:
            return
    raise AssertionError("a life has fewer statements")
