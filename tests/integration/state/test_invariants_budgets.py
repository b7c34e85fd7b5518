"""Invariants 16 to 18: failures are counted, end in a dead range that can be put back, and are spaced in time."""

from dataclasses import replace
from itertools import pairwise

import pytest

from state import tasks
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, failure, job, publication, stream
from trace_ray.contracts import Lease, WorkerId
from trace_ray.retry import RetryPolicy

FATE = b"SELECT state, attempt, task_failures, infra_failures, lease_token FROM state.tasks WHERE range_start = 0"
DEAD_EVENTS = b"SELECT idempotency_key FROM state.outbox WHERE topic = 'task.dead'"


def by_range(ledger: Ledger, *, failures: int) -> None:
    for _ in range(failures):
        assert ledger.fail(failure(first_range(ledger)))[0].accepted


def by_our_side(ledger: Ledger, *, failures: int) -> None:
    for _ in range(failures):
        assert ledger.fail(replace(failure(first_range(ledger)), infra=True))[0].accepted


def by_silence(ledger: Ledger, *, failures: int) -> None:
    for _ in range(failures):
        first_range(ledger, ttl_s=-1)
        assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 1


def by_death(ledger: Ledger, *, failures: int) -> None:
    for _ in range(failures):
        first_range(ledger, worker="doomed/0.0")
        assert tasks.free(ledger.conn, ledger.epoch, [WorkerId("doomed/0.0")], policy=NO_WAIT) == 1


def first_range(ledger: Ledger, *, ttl_s: float = 60.0, worker: str = "w/0.0") -> Lease:
    """Lease blocks [0, 10) although others are queued before them."""
    ledger.conn.execute(b"UPDATE state.tasks SET run_at = '-infinity' WHERE range_start = 0 AND state = 'queued'")
    lease = ledger.lease(ttl_s=ttl_s, worker=worker)
    assert lease.task.blocks.start == 0
    return lease


@pytest.mark.parametrize(
    ("always_fail", "spent"),
    [(by_range, (3, 0)), (by_our_side, (0, 3)), (by_silence, (0, 3)), (by_death, (0, 3))],
    ids=["the range is bad", "our side fails", "workers fall silent", "workers die"],
)
def test_16_max_failures_dead_letters(ledger: Ledger, always_fail: object, spent: tuple[int, int]) -> None:
    assert callable(always_fail)
    ledger.sync(job(stream("blocks", chunk_size=10, max_inflight=3), to_block=100))
    always_fail(ledger, failures=2)
    assert ledger.rows(FATE)[0]["state"] == "queued"
    assert ledger.rows(DEAD_EVENTS) == []
    always_fail(ledger, failures=1)
    (fate,) = ledger.rows(FATE)
    assert (fate["state"], fate["attempt"]) == ("dead", 3)
    assert (fate["task_failures"], fate["infra_failures"]) == spent
    task = ledger.one(b"SELECT task_id FROM state.ranges WHERE dead AND NOT done")
    assert [row["idempotency_key"] for row in ledger.rows(DEAD_EVENTS)] == [f"dead/{task}/3"]
    assert len(ledger.drain()) == 9  # its stream goes on, in which it takes no room
    assert ledger.one(b"SELECT next_block FROM state.cursors") == 100
    assert ledger.rows(FATE) == [fate]


def test_16_a_fatal_failure_spends_the_budget_at_once(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", chunk_size=10)))
    ledger.fail(failure(first_range(ledger), retryable=False))
    (fate,) = ledger.rows(FATE)
    assert (fate["state"], fate["attempt"], fate["task_failures"]) == ("dead", 1, 1)
    assert len(ledger.rows(DEAD_EVENTS)) == 1


def test_17_replay_from_dead(ledger: Ledger) -> None:
    known = ledger.sync(job(stream("blocks", chunk_size=10, max_inflight=2), to_block=20))
    by_range(ledger, failures=3)
    history = ledger.rows(b"SELECT * FROM state.attempts ORDER BY attempt")
    assert tasks.retry_dead(ledger.conn, known.job_id) == 1
    assert tasks.retry_dead(ledger.conn, known.job_id) == 0
    assert ledger.one(b"SELECT count(*) FROM state.ranges WHERE dead") == 0
    (fate,) = ledger.rows(FATE)
    assert (fate["state"], fate["task_failures"], fate["infra_failures"]) == ("queued", 0, 0)
    again = first_range(ledger)
    assert again.attempt == 4
    assert ledger.rows(b"SELECT * FROM state.attempts ORDER BY attempt LIMIT 3") == history
    assert ledger.complete(publication(again))[0].accepted
    outcomes = ledger.rows(b"SELECT outcome FROM state.attempts ORDER BY attempt")
    assert [row["outcome"] for row in outcomes] == ["failed", "failed", "failed", "succeeded"]


def test_17_a_replayed_range_that_dies_again_is_told_again(ledger: Ledger) -> None:
    known = ledger.sync(job(stream("blocks", chunk_size=10), to_block=10))
    by_range(ledger, failures=3)
    tasks.retry_dead(ledger.conn, known.job_id)
    by_range(ledger, failures=3)
    assert ledger.rows(FATE)[0]["attempt"] == 6
    assert len(ledger.rows(DEAD_EVENTS)) == 2


# --- back-off -----------------------------------------------------------------------------------------------------

WAIT = (
    b"SELECT extract(epoch FROM run_at - (error ->> 'at')::timestamptz)::float FROM state.tasks WHERE range_start = 0"
)


@pytest.mark.parametrize("kind", ["fail", "fail of ours", "reap"])
def test_18_backoff_bounded_and_jittered(ledger: Ledger, kind: str) -> None:
    policy = RetryPolicy(base_s=1.0, cap_s=30.0, max_attempts=99, max_infra_failures=99)
    ledger.sync(job(stream("blocks", chunk_size=10), to_block=10))
    factors: list[float] = []
    for attempt in range(1, 21):
        lease = first_range(ledger, ttl_s=-1 if kind == "reap" else 60)
        assert lease.attempt == attempt
        if kind == "reap":
            tasks.reap(ledger.conn, ledger.epoch, policy=policy)
        else:
            ledger.fail(replace(failure(lease), infra=kind == "fail of ours"), policy=policy)
        wait = ledger.one(WAIT)
        assert isinstance(wait, float)
        factors.append(wait / min(30.0, 2.0 ** (attempt - 1)))
    assert 0.5 <= min(factors) <= max(factors) <= 1.5
    assert max(factors) - min(factors) > 0.3
    assert all(one != other for one, other in pairwise(factors))


def test_18_the_jitter_spreads_over_its_whole_width(ledger: Ledger) -> None:
    rows = ledger.rows(
        b"SELECT n, extract(epoch FROM state.backoff(md5(s::text), n, '1 s', '30 s'))::float AS wait"
        b" FROM generate_series(1, 20) n, generate_series(1, 50) s"
    )
    factors = [float(str(row["wait"])) / min(30.0, 2.0 ** (int(str(row["n"])) - 1)) for row in rows]
    assert 0.5 <= min(factors) < 0.52
    assert 1.48 < max(factors) <= 1.5
    assert 0.95 < sum(factors) / len(factors) < 1.05


def test_18_a_failed_range_waits_for_its_time(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    ledger.fail(failure(ledger.lease()), policy=POLICY)
    assert ledger.claim() == []
    ledger.conn.execute(b"UPDATE state.tasks SET run_at = now()")
    assert ledger.lease().attempt == 2
