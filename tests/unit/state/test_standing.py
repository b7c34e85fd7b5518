"""What an operator may ask about, and the sentence that says where a range stands."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from state import standing
from state.db import Row
from state.standing import LAST_BLOCK, Blocks, Object, Version
from trace_ray.contracts import BlockRange, VersionId
from trace_ray.errors import RefusedInput
from trace_ray.ledger_reports import Standing

ID = "a65da742-7b49-5b7e-b24d-3d7336ef37ee"
VERSION = VersionId(UUID(ID))
NAME = "logs_0_199.0123456789abcdef.parquet"


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (ID, Version(VERSION)),
        (f" {ID.upper()}\n", Version(VERSION)),
        ("devnet_logs:7", Blocks("devnet_logs", BlockRange(7, 8))),
        ("devnet_logs:0-200", Blocks("devnet_logs", BlockRange(0, 200))),
        (f"a:0-{LAST_BLOCK}", Blocks("a", BlockRange(0, LAST_BLOCK))),
        (NAME, Object(name=NAME)),
        (f"0_200/{NAME}", Object(name=NAME)),
        (f"cryo/1/d01c8a16-526c-562e-8f86-0d009b6e110b/0_200/{ID}/{NAME}", Object(name=NAME, version=VERSION)),
        (f"s3://bucket/prefix/{ID}/{NAME}", Object(name=NAME, version=VERSION)),
        ("0123456789ABCDEF", Object(digest="0123456789abcdef")),
        ("f" * 64, Object(digest="f" * 64)),
    ],
)
def test_a_range_a_version_and_an_object_are_told_apart(text: str, asked: Blocks | Version | Object) -> None:
    assert standing.parse(text) == asked


@pytest.mark.parametrize(
    "text", ["", "devnet_logs", "devnet_logs:", ":5", "logs:5-", "Logs:5", "abcdef1", "a b", "f" * 65]
)
def test_what_is_none_of_them_is_refused_with_every_way_to_ask(text: str) -> None:
    with pytest.raises(RefusedInput, match=r"DATASET:BLOCK.*START-END.*version.*digest"):
        standing.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"), [("a:5-5", "above START"), ("a:6-5", "above START"), (f"a:{2**63}", "large")]
)
def test_impossible_blocks_are_refused(text: str, hint: str) -> None:
    with pytest.raises(RefusedInput, match=hint):
        standing.parse(text)


# --- versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replaced", "withdrawn", "expected"),
    [
        (None, None, (Standing.PUBLISHED, "published in snapshot 3")),
        (9, None, (Standing.REPLACED, "replaced by a later generation in snapshot 9")),
        (9, "its object is gone", (Standing.WITHDRAWN, "withdrawn in snapshot 9: its object is gone")),
    ],
)
def test_a_version_is_published_replaced_or_withdrawn(
    replaced: int | None, withdrawn: str | None, expected: tuple[Standing, str]
) -> None:
    row = {"published_snapshot": 3, "replaced_snapshot": replaced, "withdrawn": withdrawn}
    assert standing.of_version(row) == expected


# --- tasks --------------------------------------------------------------------------------------------------------


def task(state: str, **columns: object) -> Row:
    return {
        "state": state,
        "job": "devnet",
        "attempt": 2,
        "worker_id": "worker/1.0",
        "rpc_pool": "standard",
        "run_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "waits": False,
        "job_enabled": True,
        "stream_enabled": True,
        "head_error": None,
        "error": None,
        **columns,
    }


FAILED = {"message": "the provider lagged"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (task("running"), (Standing.RUNNING, "attempt 2 runs on worker/1.0")),
        (
            task("dead", error=FAILED),
            (Standing.DEAD, "dead after attempt 2: the provider lagged; `trace-ray retry devnet` puts it back"),
        ),
        (task("cancelled"), (Standing.CANCELLED, "cancelled; `trace-ray retry devnet` puts it back")),
        (task("queued"), (Standing.QUEUED, "waits for a free worker")),
        (
            task("queued", waits=True, error=FAILED),
            (
                Standing.QUEUED,
                "its next attempt may begin at 2026-01-02 03:04:05 UTC; attempt 2 failed: the provider lagged",
            ),
        ),
        (
            task("queued", head_error="no answer"),
            (Standing.QUEUED, "rpc pool standard gives no head: no answer"),
        ),
        (
            task("queued", stream_enabled=False),
            (Standing.QUEUED, "its stream left the job file: add it again, and apply"),
        ),
        (
            task("queued", job_enabled=False),
            (Standing.QUEUED, "its job is paused: `trace-ray resume devnet` goes on"),
        ),
    ],
)
def test_a_task_says_what_it_waits_for(row: Row, expected: tuple[Standing, str]) -> None:
    assert standing.of_task(row) == expected


# --- blocks without a task ----------------------------------------------------------------------------------------


def wanting(job: str, start: int, cursor: int, end: int | None, *, enabled: bool = True) -> Row:
    return {"job": job, "from_block": start, "next_block": cursor, "to_block": end, "job_enabled": enabled}


def test_blocks_without_a_task_are_told_apart_by_the_jobs_that_want_them() -> None:
    streams = [wanting("late", 300, 300, None, enabled=False), wanting("early", 100, 150, 200)]
    found = standing.never_planned([BlockRange(90, 160), BlockRange(190, 310)], streams)
    assert found == [
        (BlockRange(90, 100), "no job wants these blocks"),
        (BlockRange(100, 150), "job early passed these blocks by: `trace-ray repair early` plans them"),
        (BlockRange(150, 160), "the cursor of job early stands at block 150"),
        (BlockRange(190, 200), "the cursor of job early stands at block 150"),
        (BlockRange(200, 300), "no job wants these blocks"),
        (BlockRange(300, 310), "job late is paused at block 300: `trace-ray resume late` goes on"),
    ]


def test_a_finished_job_wants_nothing_more() -> None:
    assert standing.never_planned([BlockRange(200, 210)], [wanting("done", 0, 200, 200)]) == [
        (BlockRange(200, 210), "no job wants these blocks")
    ]
