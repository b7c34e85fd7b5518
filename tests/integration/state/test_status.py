"""What people are told of a job: its state, why it is blocked, and how far it is."""

import pytest

from state import jobs, tasks
from tests.integration.state.ledger import CHAIN, POOL, Ledger, failure, job, publication, stream
from trace_ray.contracts import DEFAULT_ORG, FollowHead
from trace_ray.errors import NotFound
from trace_ray.reports import JobState, JobStatus, RangeCounts


def status(ledger: Ledger) -> JobStatus:
    (one,) = jobs.status(ledger.conn, DEFAULT_ORG, "devnet")
    return one


def test_a_running_job_tells_its_ranges_rate_and_what_is_left(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    ledger.complete(*map(publication, ledger.claim()[0].leases))
    ledger.claim()
    seen = status(ledger)
    assert (seen.state, seen.reason, seen.mode, seen.enabled) == (JobState.RUNNING, None, "fixed_target", True)
    blocks, logs = seen.streams
    assert (blocks.dataset_key, logs.dataset_key) == ("blocks", "logs")
    assert blocks.ranges == RangeCounts(queued=2, running=1, succeeded=1, dead=0)
    assert (blocks.from_block, blocks.to_block, blocks.next_block, blocks.blocks_done) == (0, 1000, 400, 100)
    assert blocks.blocks_per_second is not None
    assert blocks.eta_seconds == pytest.approx(900 / blocks.blocks_per_second)
    assert (blocks.head, blocks.lag_blocks, blocks.last_error) == (10_000, None, None)


def test_a_finished_job_is_complete_even_when_it_is_paused(ledger: Ledger) -> None:
    known = ledger.sync(job("blocks", "logs"))
    ledger.drain()
    assert (status(ledger).state, status(ledger).reason) == (JobState.COMPLETE, None)
    assert [stream.eta_seconds for stream in status(ledger).streams] == [0.0, 0.0]
    jobs.pause(ledger.conn, DEFAULT_ORG, known.name)
    assert status(ledger).state is JobState.COMPLETE


def test_a_paused_job_says_so(ledger: Ledger) -> None:
    known = ledger.sync(job())
    jobs.pause(ledger.conn, DEFAULT_ORG, known.name)
    assert status(ledger).state is JobState.PAUSED


def test_a_job_is_blocked_while_nobody_schedules_it(ledger: Ledger) -> None:
    ledger.sync(job())
    tasks.release(ledger.conn, ledger.epoch)
    assert status(ledger).reason == "no Dispatcher is running: run `trace-ray up`"


def test_a_job_is_blocked_while_its_pool_gives_no_head(ledger: Ledger) -> None:
    ledger.sync(job())
    jobs.record_head_error(ledger.conn, ledger.epoch, POOL, CHAIN, "no answer in 10 s")
    assert (status(ledger).state, status(ledger).reason) == (JobState.BLOCKED, "rpc pool standard: no answer in 10 s")
    assert status(ledger).streams[0].last_error == "no answer in 10 s"


def test_a_job_is_not_blocked_before_its_head_was_asked_for(ledger: Ledger) -> None:
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job())
    assert status(ledger).state is JobState.RUNNING


def test_a_following_job_is_blocked_by_an_old_head(ledger: Ledger) -> None:
    ledger.sync(job(mode=FollowHead(0, tail_lag=10, head_poll_interval_s=1, max_head_age_s=30)), head=259)
    first = status(ledger)
    assert (first.state, first.mode, first.streams[0].to_block, first.streams[0].lag_blocks) == (
        JobState.RUNNING,
        "follow_head",
        250,
        260,
    )
    ledger.conn.execute(b"UPDATE state.heads SET observed_at = now() - interval '31 s'")
    assert status(ledger).reason == "the head of rpc pool standard is older than 30 s"


def test_a_caught_up_following_job_is_never_complete(ledger: Ledger) -> None:
    ledger.sync(job(mode=FollowHead(0, tail_lag=10, head_poll_interval_s=1, max_head_age_s=30)), head=259)
    ledger.drain()
    seen = status(ledger)
    assert (seen.state, seen.streams[0].lag_blocks, seen.streams[0].next_block) == (JobState.RUNNING, 10, 250)


def test_a_job_waits_for_blocks_that_do_not_exist(ledger: Ledger) -> None:
    ledger.sync(job(), head=499)
    ledger.drain()
    assert (status(ledger).state, status(ledger).reason) == (
        JobState.BLOCKED,
        "block 500 does not exist yet: the chain ends at 499",
    )


def test_dead_ranges_block_a_job_once_nothing_else_is_left(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=1), to_block=200))
    ledger.fail(failure(ledger.lease(), retryable=False, message="the node cannot trace"))
    seen = status(ledger)
    assert (seen.state, seen.streams[0].ranges.dead) == (JobState.RUNNING, 1)
    assert seen.streams[0].last_error == "blocks [0, 100): the node cannot trace"
    ledger.drain()
    assert status(ledger).state is JobState.BLOCKED
    assert status(ledger).reason == "1 range of stream blocks failed for good: run `trace-ray retry devnet`"
    assert status(ledger).streams[0].eta_seconds == 0.0


def test_the_newest_error_is_told_and_gone_after_success(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    ledger.fail(failure(ledger.lease(), message="first"))
    ledger.fail(failure(ledger.lease(), message="second"))
    assert status(ledger).streams[0].last_error == "blocks [0, 100): second"
    ledger.drain()
    assert status(ledger).streams[0].last_error is None


def test_streams_that_left_the_file_are_not_told(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job("blocks"))
    assert [stream.dataset_key for stream in status(ledger).streams] == ["blocks"]


def test_an_unknown_job_is_not_found_and_all_jobs_may_be_none(ledger: Ledger) -> None:
    assert jobs.status(ledger.conn, DEFAULT_ORG) == []
    with pytest.raises(NotFound):
        jobs.status(ledger.conn, DEFAULT_ORG, "devnet")
    ledger.sync(job())
    assert [one.name for one in jobs.status(ledger.conn, DEFAULT_ORG)] == ["devnet"]
