"""Invariants 12, 13, 19 and 20 after chaos: a Dispatcher that is killed a hundred times, and its ledger then."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from state import jobs
from state.db import Connection, connect
from tests import pg
from tests.integration.state import laws, mortal
from tests.integration.state.ledger import job, publication, stream
from trace_ray.contracts import FixedTarget
from trace_ray.lite.postgres import LocalPostgres

LIVES = 100
FIRST_SEED = 20
ENDLESS = job(*(stream(key, chunk_size=1, max_inflight=12) for key in ("blocks", "logs")), to_block=100_000)


@dataclass(frozen=True)
class Survivor:
    """The ledger after the last life, and how often the ones before were killed."""

    conn: Connection
    kills: int
    blocks: int

    def count(self, query: bytes) -> int:
        row = self.conn.execute(query).fetchone()
        assert row is not None
        return int(next(iter(row.values())))


@pytest.fixture(scope="module")
def survivor(postgres: LocalPostgres) -> Iterator[Survivor]:
    url = pg.fresh_database(postgres)
    with connect(url, application_name="trace-test") as conn:
        conn.execute(mortal.SINK)
        with conn.transaction():
            jobs.apply(conn, ENDLESS)
        kills = sum(_killed(url, seed) for seed in range(FIRST_SEED, FIRST_SEED + LIVES))
        planned = conn.execute(b"SELECT max(next_block) AS planned FROM state.cursors").fetchone()
        assert planned is not None
        with conn.transaction():
            jobs.apply(conn, replace(ENDLESS, mode=FixedTarget(0, planned["planned"])))
        assert not _killed(url, seed=0)
        yield Survivor(conn, kills, planned["planned"])


def _killed(url: str, seed: int) -> bool:
    """Live one life, and say whether it was killed. Seed 0 may end in peace."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.state.mortal"])
    chance = random.Random(seed)
    by_itself = chance.randrange(1, 130) if seed and seed % 4 else None
    process = context.Process(target=mortal.live, args=(url, seed, by_itself))
    process.start()
    if seed and by_itself is None:
        time.sleep(chance.uniform(0.02, 0.25))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode in ((-signal.SIGKILL,) if seed else (0,))
    return process.exitcode != 0


def test_12_accepted_attempt_is_last(survivor: Survivor) -> None:
    assert laws.broken(survivor.conn, "an accepted attempt is the last one of its task") == {}
    again = b"SELECT count(*) FROM state.attempts WHERE outcome = 'succeeded' AND attempt > 1"
    assert survivor.count(again) > 10


def test_13_attempts_gapless(survivor: Survivor) -> None:
    assert laws.broken(survivor.conn, "attempts count from 1 without a gap") == {}
    assert laws.broken(survivor.conn, "a succeeded task has exactly one succeeded attempt") == {}
    assert laws.broken(survivor.conn, "an attempt is open exactly while its task runs it") == {}
    ends = survivor.conn.execute(b"SELECT DISTINCT outcome FROM state.attempts ORDER BY outcome").fetchall()
    assert [row["outcome"] for row in ends] == ["expired", "failed", "released", "succeeded"]


def test_19_epochs_never_fall_along_the_attempts_of_a_task(survivor: Survivor) -> None:
    assert laws.broken(survivor.conn, "epochs never fall along the attempts of a task") == {}
    assert survivor.count(b"SELECT count(DISTINCT epoch) FROM state.attempts") > LIVES / 2


def test_20_restart_loses_nothing(survivor: Survivor) -> None:
    assert survivor.kills == LIVES
    assert laws.broken(survivor.conn) == {}
    assert survivor.count(b"SELECT count(*) FROM state.ranges WHERE done AND NOT dead") == 2 * survivor.blocks
    assert survivor.count(b"SELECT count(*) FROM state.ranges") == 2 * survivor.blocks
    assert survivor.count(b"SELECT count(*) FROM state.dataset_versions") == 2 * survivor.blocks
    assert survivor.count(b"SELECT count(*) FROM state.outbox") == 0
    published = survivor.conn.execute(b"SELECT 'published/' || dataset_version AS key FROM state.dataset_versions")
    delivered = survivor.conn.execute(b"SELECT idempotency_key AS key FROM public.sink")
    assert {row["key"] for row in published} == {row["key"] for row in delivered}


def test_20_no_attempt_that_lost_its_lease_published(survivor: Survivor) -> None:
    """Their offers hold other content, so what is published tells who made it."""
    rows = survivor.conn.execute(OFFERED).fetchall()
    assert len(rows) == 2 * survivor.blocks
    for row in rows:
        assert row["digest"] == publication(mortal.lease_of(row)).digest


OFFERED = b"""
SELECT t.*, v.digest, v.attempt AS held_attempt, a.lease_token AS token FROM state.dataset_versions v
JOIN state.tasks t USING (task_id) JOIN state.attempts a ON a.task_id = v.task_id AND a.attempt = v.attempt
"""
