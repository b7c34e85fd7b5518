"""What people are told of a job, from rows of the ledger. No database."""

from uuid import UUID

import pytest

from state import progress
from state.db import Row
from trace_ray.contracts import FixedTarget, FollowHead
from trace_ray.reports import JobState, JobStatus, RangeCounts, StreamStatus

JOB = UUID(int=1)
FIXED: Row = {
    "job_id": JOB,
    "name": "devnet",
    "chain_id": 31337,
    "enabled": True,
    "mode": "fixed_target",
    "from_block": 0,
    "to_block": 1000,
    "tail_lag": None,
    "head_poll_s": None,
    "max_head_age_s": None,
    "dataset_key": "blocks",
    "rpc_pool": "standard",
    "dataset": "devnet_blocks",
    "next_block": 400,
    "head": 5000,
    "head_error": None,
    "head_stale": False,
    "queued": 2,
    "running": 1,
    "dead": 0,
    "dead_blocks": 0,
    "first_undone": 100,
    "last_error": None,
    "succeeded": 1,
    "blocks_done": 100,
    "recent_blocks": 100,
    "recent_s": 20.0,
    "led": True,
}
FOLLOW: Row = FIXED | {
    "mode": "follow_head",
    "to_block": None,
    "tail_lag": 64,
    "head_poll_s": 12.0,
    "max_head_age_s": 300.0,
}
PLANNED = FIXED | {"next_block": 1000, "queued": 0, "running": 0, "blocks_done": 1000, "succeeded": 10}
WAITING = FIXED | {"queued": 0, "running": 0}
LOGS = {"dataset_key": "logs", "rpc_pool": "archive"}


def status(*rows: Row) -> JobStatus:
    (one,) = progress.jobs(rows)
    return one


def only_stream(row: Row) -> StreamStatus:
    (one,) = status(row).streams
    return one


# --- the state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "state", "reason"),
    [
        (FIXED, JobState.RUNNING, None),
        (FOLLOW, JobState.RUNNING, None),
        (PLANNED, JobState.COMPLETE, None),
        (PLANNED | {"running": 1}, JobState.RUNNING, None),
        (PLANNED | {"queued": 1}, JobState.RUNNING, None),
        (PLANNED | {"enabled": False}, JobState.COMPLETE, None),
        (PLANNED | {"led": False}, JobState.COMPLETE, None),
        (FOLLOW | {"queued": 0, "running": 0}, JobState.RUNNING, None),
        (FIXED | {"enabled": False}, JobState.PAUSED, None),
        (FIXED | {"enabled": False, "led": False}, JobState.PAUSED, None),
        (FIXED | {"led": False}, JobState.BLOCKED, "no Dispatcher is running: run `trace-ray up`"),
        (FIXED | {"head_error": "no answer in 10 s"}, JobState.BLOCKED, "rpc pool standard: no answer in 10 s"),
        (
            FOLLOW | {"head_stale": True},
            JobState.BLOCKED,
            "the head of rpc pool standard is older than 300 s",
        ),
        (WAITING, JobState.RUNNING, None),
        (WAITING | {"head": None}, JobState.RUNNING, None),
        (WAITING | {"head": 400}, JobState.RUNNING, None),
        (WAITING | {"head": 399}, JobState.BLOCKED, "block 400 does not exist yet: the chain ends at 399"),
        (
            PLANNED | {"dead": 1},
            JobState.BLOCKED,
            "1 range of stream blocks failed for good: run `trace-ray retry devnet`",
        ),
        (
            PLANNED | {"dead": 2},
            JobState.BLOCKED,
            "2 ranges of stream blocks failed for good: run `trace-ray retry devnet`",
        ),
        (PLANNED | {"dead": 2, "queued": 1}, JobState.RUNNING, None),
    ],
)
def test_state_says_whether_the_job_goes_on_and_why_not(row: Row, state: JobState, reason: str | None) -> None:
    assert (status(row).state, status(row).reason) == (state, reason)


def test_a_job_runs_while_one_of_its_streams_does() -> None:
    blocked = FIXED | LOGS | {"head_error": "no answer"}
    assert status(FIXED, blocked).state is JobState.RUNNING
    assert status(PLANNED, blocked).reason == "rpc pool archive: no answer"
    assert status(FIXED | {"head_error": "gone"}, blocked).reason == "rpc pool standard: gone"


def test_rows_of_several_jobs_are_told_apart() -> None:
    other = FIXED | {"job_id": UUID(int=2), "name": "other"}
    found = progress.jobs([FIXED, FIXED | LOGS, other])
    assert [(one.name, [stream.dataset_key for stream in one.streams]) for one in found] == [
        ("devnet", ["blocks", "logs"]),
        ("other", ["blocks"]),
    ]


# --- numbers ------------------------------------------------------------------------------------------------------


def test_a_stream_tells_its_ranges_rate_and_what_is_left() -> None:
    assert only_stream(FIXED) == StreamStatus(
        dataset_key="blocks",
        dataset="devnet_blocks",
        from_block=0,
        to_block=1000,
        next_block=400,
        ranges=RangeCounts(queued=2, running=1, succeeded=1, dead=0),
        blocks_done=100,
        blocks_per_second=5.0,
        eta_seconds=180.0,
        head=5000,
        lag_blocks=None,
        last_error=None,
    )


@pytest.mark.parametrize(
    ("recent_blocks", "recent_s", "rate"), [(None, None, None), (100, 0.0, None), (100, 50.0, 2.0)]
)
def test_rate_and_what_is_left_are_unknown_until_something_was_published(
    recent_blocks: int | None, recent_s: float | None, rate: float | None
) -> None:
    stream = only_stream(FIXED | {"recent_blocks": recent_blocks, "recent_s": recent_s})
    assert (stream.blocks_per_second, stream.eta_seconds) == (rate, rate and 900 / rate)


def test_nothing_is_left_of_what_is_done_even_when_the_rate_is_unknown() -> None:
    assert only_stream(PLANNED | {"recent_blocks": None, "recent_s": None}).eta_seconds == 0.0


def test_dead_ranges_are_not_waited_for() -> None:
    assert only_stream(FIXED | {"dead": 1, "dead_blocks": 100}).eta_seconds == 160.0
    assert only_stream(PLANNED | {"dead": 1, "blocks_done": 900, "dead_blocks": 100}).eta_seconds == 0.0


def test_a_following_stream_is_measured_against_the_head() -> None:
    stream = only_stream(FOLLOW)
    assert (stream.to_block, stream.lag_blocks, stream.eta_seconds) == (4937, 4901, (4937 - 100) / 5)
    assert only_stream(FOLLOW | {"first_undone": 5001}).lag_blocks == 0
    assert only_stream(FOLLOW | {"first_undone": 5002}).lag_blocks == 0, "a provider may fall back behind itself"


def test_a_following_stream_without_a_head_has_no_end() -> None:
    stream = only_stream(FOLLOW | {"head": None})
    assert (stream.to_block, stream.lag_blocks, stream.eta_seconds) == (None, None, None)


def test_the_last_error_is_that_of_a_range_before_that_of_the_head() -> None:
    failed = {"last_error": [100, 200, "the node cannot trace"]}
    assert only_stream(FIXED | failed).last_error == "blocks [100, 200): the node cannot trace"
    assert only_stream(FIXED | failed | {"head_error": "gone"}).last_error == "blocks [100, 200): the node cannot trace"
    assert only_stream(FIXED | {"head_error": "gone"}).last_error == "gone"


def test_the_mode_of_a_row_is_the_declared_one() -> None:
    assert progress.mode_of(FIXED) == FixedTarget(0, 1000)
    assert progress.mode_of(FOLLOW) == FollowHead(0, 64, 12.0, 300.0)
