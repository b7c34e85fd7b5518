"""A fresh ledger for one adversarial schedule: connections, terms, and jobs of one range each."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from uuid import uuid4

import psycopg

from state import tasks
from state.db import Connection, connect
from tests.chaos.checker import SHOWN, Violation
from tests.integration.state.ledger import CHAIN, NO_WAIT, Ledger, job, stream
from trace_ray.contracts import AttemptKey, Job, Lease, LeaseToken

EVERYTHING = """
    SELECT md5(concat(
      (SELECT jsonb_agg(t ORDER BY task_id) FROM state.tasks t),
      (SELECT jsonb_agg(r ORDER BY stream_id, range_start) FROM state.ranges r),
      (SELECT jsonb_agg(a ORDER BY task_id, attempt) FROM state.attempts a),
      (SELECT jsonb_agg(v ORDER BY dataset_version) FROM state.dataset_versions v),
      (SELECT jsonb_agg(f ORDER BY key) FROM state.dataset_files f),
      (SELECT jsonb_agg(d ORDER BY dataset_uuid) FROM state.datasets d),
      (SELECT jsonb_agg(c ORDER BY stream_id) FROM state.cursors c),
      (SELECT jsonb_agg(h ORDER BY rpc_pool, chain_id) FROM state.heads h),
      (SELECT jsonb_agg(o ORDER BY id) FROM state.outbox o),
      (SELECT jsonb_agg(d) FROM state.dispatcher d)))
"""


class Arena(ExitStack):
    """Closes its connections at its end. `found` are violations that only the schedule can see."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.found: list[Violation] = []
        self._numbers = count(1)

    def connect(self) -> Connection:
        return self.enter_context(connect(self.url, application_name="chaos-schedule"))

    def lead(self, holder: str = "one/chaos/1") -> Ledger:
        return Ledger.lead(self.connect(), holder)

    def job(self, *, ranges: int = 1, chunk_size: int = 10) -> Job:
        """Return a job that shares nothing with those before it."""
        number = next(self._numbers)
        made = job(
            stream("blocks", chunk_size=chunk_size, max_inflight=100),
            name=f"job{number}",
            to_block=chunk_size * ranges,
        )
        streams = tuple(replace(one, dataset=f"d{number}_{one.dataset_key}") for one in made.streams)
        return replace(made, chain_id=CHAIN + number, streams=streams)

    def twice(self, ledger: Ledger) -> tuple[Lease, Lease]:
        """Lease the only task of a new job, let the lease expire, and lease it again; return both leases."""
        ledger.sync(self.job())
        old = ledger.lease(ttl_s=-1)
        with ledger.conn.transaction():
            tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
        return old, ledger.lease()

    def contents(self) -> str:
        """Return a digest of every row of the ledger."""
        with psycopg.connect(self.url) as conn:
            row = conn.execute(EVERYTHING).fetchone()
        assert row is not None
        return str(row[0])

    def blame(self, name: str, rule: str, *rows: dict[str, object]) -> None:
        self.found.append(Violation(name, rule, len(rows), rows[:SHOWN]))


def forgeries(old: Lease, new: Lease) -> Sequence[AttemptKey]:
    """Return keys that look like those of two leases of one task, and are neither."""
    task = new.task.task_id
    return (
        AttemptKey(task, old.attempt, old.lease_token),  # it was one, until the second lease
        AttemptKey(task, old.attempt, new.lease_token),
        AttemptKey(task, new.attempt, old.lease_token),
        AttemptKey(task, new.attempt, LeaseToken(uuid4())),
        AttemptKey(task, new.attempt + 1, new.lease_token),
    )
