"""The ledger against its model: whatever is done in whatever order, both say and show the same.

`TRACE_TEST_MODEL_EXAMPLES` makes the search longer by hand.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from state import jobs, tasks
from state.db import Connection, Database, connect
from tests.integration.state.ledger import NO_WAIT, POOL, Ledger, failure, job, publication, stream
from tests.model import ledger_model
from trace_ray.contracts import DEFAULT_ORG, Epoch, Lease, LeaseToken, WorkerId
from trace_ray.errors import FencedError

TARGET, CHUNK, INFLIGHT = 300, 100, 2  # few ranges, so that each goes through much
EXAMPLES = int(os.environ.get("TRACE_TEST_MODEL_EXAMPLES", "40"))
STEPS = 60
WORKERS = st.sampled_from(["w/0.0", "w/1.0"])
TABLES = (
    b"TRUNCATE state.jobs, state.streams, state.cursors, state.datasets, state.heads, state.ranges, state.tasks,"
    b" state.rule_datasets,"
    b" state.attempts, state.dataset_versions, state.dataset_files, state.outbox, state.snapshots, state.dispatcher"
)
TASKS = b"""
SELECT t.range_start, t.state, t.attempt, t.task_failures, t.infra_failures,
  (SELECT array_agg(a.outcome ORDER BY a.attempt) FROM state.attempts a WHERE a.task_id = t.task_id) AS outcomes,
  t.state = 'running' AND t.lease_expires_at < now() AS expired,
  CASE t.state WHEN 'running' THEN t.worker_id END AS worker,
  EXISTS (SELECT FROM state.dataset_versions v WHERE v.task_id = t.task_id) AS published, r.done, r.dead
FROM state.tasks t JOIN state.ranges r ON r.task_id = t.task_id ORDER BY t.range_start
"""
EXPIRE = b"""
UPDATE state.tasks SET lease_expires_at = now() - interval '1 s' WHERE state = 'running' AND task_id = %s
"""


class Both(RuleBasedStateMachine):
    """Does everything twice. `leases` holds every lease that was ever given, for late, doubled and stale replies."""

    url = ""
    conn: Connection

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute(TABLES)
        self.real = Ledger.lead(self.conn)
        with self.conn.transaction():
            self.job = job(stream("blocks", chunk_size=CHUNK, max_inflight=INFLIGHT), to_block=TARGET)
            jobs.apply(self.conn, self.job)
        jobs.record_head(self.conn, self.real.epoch, POOL, 31337, 10_000)
        self.model = ledger_model.Ledger(TARGET, CHUNK, INFLIGHT, epoch=int(self.real.epoch))
        self.leases: list[Lease] = []

    @initialize()
    def begin(self) -> None:
        """Each search has leases from its first step on: most rules need one."""
        self.plan()
        self.claim("w/0.0", INFLIGHT)

    # --- the Dispatcher ---

    @rule()
    def plan(self) -> None:
        assert self.real.plan() == self.model.plan()

    @rule(worker=WORKERS, slots=st.integers(1, 3))
    def claim(self, worker: str, slots: int) -> None:
        groups = self.real.claim(slots, worker=worker)
        leases = [lease for group in groups for lease in group.leases]
        assert [lease.task.blocks.start for lease in leases] == self.model.claim(worker, slots)
        self.leases += leases

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), fits=st.booleans(), forged=st.sampled_from([False, False, False, True]))
    def complete(self, data: st.DataObject, fits: bool, forged: bool) -> None:
        lease = self._some_lease(data, forged=forged)
        offer = publication(lease)
        with self.conn.transaction():
            offered = offer if fits else replace(offer, chain_id=1)
            (done,) = tasks.complete(self.conn, self.real.epoch, [offered], policy=NO_WAIT)
        wanted = self.model.complete(*self._place(lease), forged=forged, fits=fits)
        assert (done.reason, done.accepted) == (wanted, wanted is None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), retryable=st.booleans(), infra=st.booleans(), forged=st.sampled_from([False, False, True]))
    def fail(self, data: st.DataObject, retryable: bool, infra: bool, forged: bool) -> None:
        lease = self._some_lease(data, forged=forged)
        failed = replace(failure(lease, retryable=retryable), infra=infra)
        (done,) = self.real.fail(failed, policy=NO_WAIT)
        assert done.reason == self.model.fail(*self._place(lease), forged=forged, retryable=retryable, infra=infra)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), forged=st.booleans(), late=st.booleans())
    def renew(self, data: st.DataObject, forged: bool, late: bool) -> None:
        lease = self._some_lease(data, forged=forged)
        if late:
            self._expire(lease)
        held = tasks.heartbeat(self.conn, self.real.epoch, [lease.key], ttl_s=60)
        assert (held == [lease.key]) == self.model.renew(*self._place(lease), forged=forged)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        lease = self._some_lease(data)
        self._expire(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def expire_and_reap(self, data: st.DataObject) -> None:
        self.expire(data)
        self.reap()

    @rule(times=st.integers(1, 3))
    def lose_every_worker(self, times: int) -> None:
        """Again and again, until the budget of lost workers is spent."""
        for _ in range(times):
            self.claim("w/0.0", INFLIGHT)
            for lease in self.leases:
                self._expire(lease)
            self.reap()

    @rule()
    def reap(self) -> None:
        with self.conn.transaction():
            assert tasks.reap(self.conn, self.real.epoch, policy=NO_WAIT) == self.model.reap()

    @rule(worker=WORKERS)
    def free(self, worker: str) -> None:
        with self.conn.transaction():
            freed = tasks.free(self.conn, self.real.epoch, [WorkerId(worker)], policy=NO_WAIT)
        assert freed == self.model.free(worker)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), worker=WORKERS)
    def adopt(self, data: st.DataObject, worker: str) -> None:
        lease = self._some_lease(data)
        adopted = tasks.adopt(self.conn, self.real.epoch, {WorkerId(worker): [lease.key]}, ttl_s=60)
        assert (adopted == [lease.key]) == self.model.adopt(worker, *self._place(lease))

    @rule()
    def take_over(self) -> None:
        self.real = Ledger.lead(self.conn)
        self.model.epoch += 1
        assert int(self.real.epoch) == self.model.epoch

    @precondition(lambda self: self.leases and self.model.epoch > 1)
    @rule(data=st.data(), way=st.sampled_from(["fence", "complete", "fail", "claim"]))
    def zombie(self, data: st.DataObject, way: str) -> None:
        """A Dispatcher of an earlier term changes nothing, whatever it tries."""
        lease, old = self._some_lease(data), Epoch(self.model.epoch - 1)
        database = Database(self.url, application_name="zombie")
        writes: dict[str, Callable[[Connection], object]] = {
            "fence": lambda conn: tasks.fence(conn, old, 60),
            "complete": lambda conn: tasks.complete(conn, old, [publication(lease)], policy=NO_WAIT),
            "fail": lambda conn: tasks.fail(conn, old, [failure(lease)], policy=NO_WAIT),
            "claim": lambda conn: tasks.claim(conn, old, [WorkerId("w/9.0")], ttl_s=60),
        }
        with pytest.raises(FencedError), database.transaction() as conn:
            writes[way](conn)
        database.close()

    # --- the operator ---

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        lease = self._some_lease(data)
        cancelled = tasks.cancel(self.conn, [lease.task.task_id])
        assert bool(cancelled) == self.model.cancel(lease.task.blocks.start)

    @rule()
    def replay(self) -> None:
        with self.conn.transaction():
            assert tasks.retry_dead(self.conn, self.job.job_id) == self.model.replay()

    @rule(enabled=st.sampled_from([True, True, False]))
    def pause_or_resume(self, enabled: bool) -> None:
        (jobs.resume if enabled else jobs.pause)(self.conn, DEFAULT_ORG, self.job.name)
        self.model.enabled = enabled

    # --- the comparison ---

    @invariant()
    def both_show_the_same(self) -> None:
        rows = self.real.rows(TASKS)
        real = [
            (
                row["range_start"], row["state"], row["attempt"], row["task_failures"], row["infra_failures"],
                row["outcomes"] or [], row["expired"], row["worker"],
            )
            for row in rows
        ]  # fmt: skip
        model = [
            (
                task.start, task.state, task.attempt, task.failures, task.infra_failures,
                task.outcomes, task.expired, task.worker,
            )
            for task in self.model.tasks.values()
        ]  # fmt: skip
        assert real == model
        assert self.real.one(b"SELECT next_block FROM state.cursors") == self.model.cursor
        for row in rows:
            assert row["published"] == row["done"] == (row["state"] == "succeeded")
            assert row["dead"] == (row["state"] in ("dead", "cancelled"))

    def _expire(self, lease: Lease) -> None:
        self.conn.execute(EXPIRE, (lease.task.task_id,))
        self.model.expire(lease.task.blocks.start)

    def _some_lease(self, data: st.DataObject, *, forged: bool = False) -> Lease:
        some = self.leases[-2:] if data.draw(st.booleans()) else self.leases
        lease = data.draw(st.sampled_from(some))
        return replace(lease, lease_token=LeaseToken(uuid4())) if forged else lease

    @staticmethod
    def _place(lease: Lease) -> tuple[int, int]:
        return lease.task.blocks.start, lease.attempt


@pytest.fixture
def machine(state_url: str) -> Iterator[type[Both]]:
    with connect(state_url, application_name="trace-model") as conn:
        yield type("Machine", (Both,), {"conn": conn, "url": state_url})


def test_the_ledger_and_its_model_never_differ(machine: type[Both]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=EXAMPLES == 40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
