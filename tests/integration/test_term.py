"""A Dispatcher's term on a real ledger, with workers in threads: what a broken connection leaves open is settled."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from uuid import uuid4

import pytest

from actors import term as term_module
from actors.crew import Crew
from actors.dispatcher import Dispatcher, Inbox, Orders, Timing
from actors.evaluations import Evaluations
from actors.orders import Evaluated
from actors.term import Evaluators, Term
from state import jobs, tasks
from state.db import Connection, Database, connect
from tests.integration.state import watching
from tests.integration.state.ledger import NO_WAIT, Ledger, job, publication
from tests.unit.actors.handles import NEW, Handle
from trace_ray.alerts import EventBatch, RuleId
from trace_ray.contracts import DEFAULT_ORG, AttemptKey, LeaseGroup, LeaseToken, Outcome, TaskId, WorkerId
from trace_ray.errors import DatabaseUnavailable
from trace_ray.token_keys import KeyRing

NO_ORDERS: Final = Orders((), (), (), (), (), (), 0, 0)


class LostAnswer(Database):
    """Loses the answer to the COMMIT of one transaction in which tasks were leased."""

    lost = False

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        with super().transaction() as conn:
            before = conn.execute(b"SELECT count(*) FROM state.attempts").fetchone()
            yield conn
            after = conn.execute(b"SELECT count(*) FROM state.attempts").fetchone()
        if not self.lost and before != after:
            self.lost = True
            raise DatabaseUnavailable("Postgres went away in the middle of a transaction")


def offers(group: LeaseGroup) -> list[Outcome]:
    return [publication(lease) for lease in group.leases]


def test_leases_whose_commit_was_not_answered_are_given_out_again(
    state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_module, "DATABASE_RETRY_S", 0.1)
    database = LostAnswer(state_url, application_name="test-term")
    with Database(state_url, application_name="test").transaction() as conn:
        jobs.apply(conn, job(to_block=2000))

    def spawn(worker_id: WorkerId) -> Handle:
        return Handle(worker_id, operator=offers, newest=10_000)

    async def scene() -> None:
        timing = Timing(lease_s=120.0, leader_s=60.0, policy=NO_WAIT)
        crew = Crew(spawn, lambda _: None, size=1, slots=2, silence_s=120.0, attempt_s=600.0, build=NEW)
        term = Term(Dispatcher(database, holder="c/n/1", timing=timing), crew, living=dict, record=lambda _: None)
        running = asyncio.create_task(term.run())
        for _ in range(600):
            if done(state_url) == 20:
                break
            await asyncio.sleep(0.05)
        await term.stop(drain_s=5)
        await running

    asyncio.run(scene())
    assert database.lost
    with Database(state_url, application_name="test").transaction() as conn:
        outcomes = conn.execute(b"SELECT outcome, count(*) FROM state.attempts GROUP BY outcome ORDER BY 1").fetchall()
    counts = {row["outcome"]: row["count"] for row in outcomes}
    assert counts["succeeded"] == 20
    assert set(counts) == {"succeeded", "released"}  # nothing waited for its lease to expire
    assert counts["released"] <= 2


def test_what_a_tick_has_published_the_next_one_queues_for_the_rules(
    state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one after the last, for which nothing wakes it."""
    monkeypatch.setattr(term_module, "TICK_S", 3600.0)
    with connect(state_url, application_name="test") as conn:
        watched = Ledger.lead(conn)
        with conn.transaction():
            jobs.apply(conn, job(to_block=2000))
        watching.watch(watched, watching.rule())
        with conn.transaction():
            tasks.release(conn, watched.epoch)

    async def scene() -> None:
        term = watching_term(state_url, begin=lambda: nothing)
        running = asyncio.create_task(term.run())
        for _ in range(200):
            if evaluations(state_url) == 20:
                break
            await asyncio.sleep(0.05)
        await term.stop(drain_s=5)
        await running

    asyncio.run(scene())
    assert evaluations(state_url) == 20


def test_the_sink_is_woken_for_a_batch_and_for_nothing_else(state_url: str) -> None:
    woken: list[int] = []

    async def scene() -> None:
        one = AttemptKey(TaskId(uuid4()), 1, LeaseToken(uuid4()))
        term = watching_term(state_url, begin=lambda: lambda: woken.append(1))
        batch = Evaluated(one, EventBatch(one, DEFAULT_ORG, RuleId(uuid4()), "batches/1", "0" * 64, 1, 1), None, {})
        none = Evaluated(one, None, None, {})
        for ended, calls in ((none, 0), (batch, 1), (none, 1), (batch, 2)):
            term._follow(replace(NO_ORDERS, evaluating=True), Inbox(outcomes=(ended,)))
            assert len(woken) == calls

    asyncio.run(scene())


def watching_term(url: str, *, begin: Callable[[], Callable[[], object]]) -> Term:
    """Return a term whose evaluators run nothing."""
    wake = asyncio.Event()

    def spawn(worker_id: WorkerId) -> Handle:
        return Handle(worker_id, operator=offers, newest=10_000)

    def crew(size: int) -> Crew:
        return Crew(spawn, lambda _: None, size=size, slots=2, silence_s=120.0, attempt_s=600.0, build=NEW, wake=wake)

    return Term(
        Dispatcher(
            Database(url, application_name="test-term"),
            holder="c/n/1",
            timing=Timing(lease_s=120.0, leader_s=60.0, policy=NO_WAIT),
            evaluations=Evaluations(no_keys, lease_s=60.0, policy=NO_WAIT),
        ),
        crew(1),
        evaluators=Evaluators(crew(0), begin, nothing, places=lambda: 0),
        living=dict,
        record=lambda _: None,
    )


def nothing() -> None:
    """Nobody is woken or ended."""


def no_keys() -> KeyRing:
    raise AssertionError("nothing is leased here")


def evaluations(url: str) -> int:
    with Database(url, application_name="test").transaction() as conn:
        row = conn.execute(b"SELECT count(*) FROM state.tasks WHERE kind = 'evaluation'").fetchone()
    return 0 if row is None else int(row["count"])


def done(url: str) -> int:
    with Database(url, application_name="test").transaction() as conn:
        row = conn.execute(b"SELECT count(*) FROM state.ranges WHERE done").fetchone()
    return 0 if row is None else int(row["count"])
