"""A Dispatcher's term on a real ledger, with workers in threads: what a broken connection leaves open is settled."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from actors import term as term_module
from actors.crew import Crew
from actors.dispatcher import Dispatcher, Timing
from actors.term import Term
from state import jobs
from state.db import Connection, Database
from tests.integration.state.ledger import NO_WAIT, job, publication
from tests.unit.actors.handles import NEW, Handle
from trace_ray.contracts import LeaseGroup, Outcome, WorkerId
from trace_ray.errors import DatabaseUnavailable


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


def done(url: str) -> int:
    with Database(url, application_name="test").transaction() as conn:
        row = conn.execute(b"SELECT count(*) FROM state.ranges WHERE done").fetchone()
    return 0 if row is None else int(row["count"])
