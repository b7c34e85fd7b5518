"""What operators look at: the newest trouble first, and every range explained back to its attempts."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from state import jobs, repair, tasks, views
from state.db import Connection
from tests.integration.state.ledger import NO_WAIT, Ledger, failure, job, publication, stream
from trace_ray.contracts import DEFAULT_ORG, BlockRange, FollowHead, Lease, OrgId, Publication, TaskId
from trace_ray.errors import NotFound, RefusedInput
from trace_ray.ledger_reports import Explanation, Standing
from trace_ray.retry import RetryPolicy

FATAL = RetryPolicy(base_s=0.0, cap_s=0.0, max_attempts=1, max_infra_failures=1)


def explain(ledger: Ledger, asked: object, *, limit: int = 100) -> Explanation:
    with ledger.conn.transaction():
        return views.explain(ledger.conn, DEFAULT_ORG, str(asked), limit=limit)


def standings(found: Explanation) -> list[tuple[int, int, Standing]]:
    return [(one.blocks.start, one.blocks.end, one.standing) for one in found.ranges]


def publish(ledger: Ledger) -> tuple[Lease, Publication]:
    lease = ledger.lease()
    offer = publication(lease)
    assert ledger.complete(offer)[0].accepted
    return lease, offer


def by_start(ledger: Ledger, slots: int) -> dict[int, Lease]:
    """Lease every planned range of one stream, by its first block."""
    return {lease.task.blocks.start: lease for group in ledger.claim(slots=slots) for lease in group.leases}


# --- tasks and attempts -------------------------------------------------------------------------------------------


def test_the_newest_trouble_comes_first(ledger: Ledger) -> None:
    ledger.sync(job())
    leases = by_start(ledger, 4)
    ledger.complete(publication(leases[0]))
    ledger.fail(failure(leases[100], message="first"), policy=NO_WAIT)
    ledger.fail(failure(leases[300], message="second", retryable=False), policy=NO_WAIT)
    found = views.tasks(ledger.conn, DEFAULT_ORG)
    assert [(task.blocks.start, task.state, task.problem and task.problem.message) for task in found[:2]] == [
        (300, "dead", "second"),
        (100, "queued", "first"),
    ]
    assert {(task.blocks.start, task.state, task.problem) for task in found[2:]} == {
        (0, "succeeded", None),
        (200, "running", None),
    }
    trouble = found[0].problem
    assert trouble is not None
    assert (trouble.kind, trouble.provider) == ("SourceLied", "standard#0")
    assert trouble.at is not None
    assert datetime.now(UTC) - trouble.at < timedelta(minutes=5)


def test_tasks_are_chosen_by_job_by_state_and_by_number(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=3), name="one"))
    ledger.sync(job(stream("logs", max_inflight=2), name="two"))
    ledger.lease()
    assert len(views.tasks(ledger.conn, DEFAULT_ORG)) == 5
    assert {task.job for task in views.tasks(ledger.conn, DEFAULT_ORG, job="two")} == {"two"}
    assert [task.attempt for task in views.tasks(ledger.conn, DEFAULT_ORG, state="running")] == [1]
    assert len(views.tasks(ledger.conn, DEFAULT_ORG, limit=4)) == 4
    assert views.tasks(ledger.conn, DEFAULT_ORG, job="one", state="dead") == []
    with pytest.raises(NotFound, match="choose one of one, two"):
        views.tasks(ledger.conn, DEFAULT_ORG, job="three")


def test_another_organisation_sees_nothing(ledger: Ledger) -> None:
    ledger.sync(job())
    _, offer = publish(ledger)
    stranger = OrgId(uuid4())
    assert views.tasks(ledger.conn, stranger) == []
    asked = (offer.dataset_version, offer.files[0].key, offer.files[0].digest, "devnet_blocks:5")
    for one in asked:
        with pytest.raises(NotFound):
            views.explain(ledger.conn, stranger, str(one))
    with pytest.raises(NotFound):
        views.attempts(ledger.conn, stranger, offer.attempt.task_id)


def test_every_attempt_of_a_task_is_told(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    first = ledger.lease(worker="a/0.0")
    ledger.fail(failure(first, message="the provider lagged"), policy=NO_WAIT)
    ledger.lease(ttl_s=-1, worker="b/0.0")
    tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
    third = ledger.lease(worker="c/0.0")
    ledger.complete(replace(publication(third), seconds={"extract": 1.5, "upload": 0.25}))
    task, found = views.attempts(ledger.conn, DEFAULT_ORG, first.task.task_id)
    assert (task.state, task.attempt, task.task_failures, task.infra_failures) == ("succeeded", 3, 1, 1)
    assert [(one.attempt, one.outcome, one.worker_id, one.epoch) for one in found] == [
        (1, "failed", "a/0.0", ledger.epoch),
        (2, "expired", "b/0.0", ledger.epoch),
        (3, "succeeded", "c/0.0", ledger.epoch),
    ]
    assert [one.problem and one.problem.kind for one in found] == ["SourceLied", "LeaseExpired", None]
    assert found[2].seconds == {"extract": 1.5, "upload": 0.25}
    assert all(one.ended_at is not None for one in found)


def test_an_unknown_task_is_refused(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="ledger tasks"):
        views.attempts(ledger.conn, DEFAULT_ORG, TaskId(uuid4()))


# --- what is published --------------------------------------------------------------------------------------------


def test_a_published_object_is_explained_back_to_its_attempts(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    first = ledger.lease(worker="a/0.0")
    ledger.fail(failure(first), policy=NO_WAIT)
    second = ledger.lease(worker="b/0.0")
    plain = publication(second)
    proof = replace(plain.certificate, engine_arguments=("--blocks 0:99 --include-columns all",))
    offer = replace(plain, certificate=proof, seconds={"extract": 2.0})
    ledger.complete(offer)
    file = offer.files[0]
    asked = [
        offer.dataset_version, file.key, file.key.rpartition("/")[2], f"s3://bucket/some/{file.key}", file.digest,
        file.digest[:12], "devnet_blocks:99", "devnet_blocks:0-100",
    ]  # fmt: skip
    found = [explain(ledger, one).ranges for one in asked]
    assert all(one == found[0] for one in found)
    (view,) = found[0]
    assert (view.blocks, view.generation, view.standing) == (BlockRange(0, 100), 0, Standing.PUBLISHED)
    published, task = view.published, view.task
    assert published is not None
    assert task is not None
    assert published.objects == offer.files
    assert published.certificate == proof
    assert (published.dataset_version, published.digest) == (offer.dataset_version, offer.digest)
    assert (published.published_snapshot, published.replaced_snapshot) == (1, None)
    assert (task.task_id, task.job, task.state) == (first.task.task_id, "devnet", "succeeded")
    assert [(one.attempt, one.outcome, one.worker_id) for one in view.attempts] == [
        (1, "failed", "a/0.0"),
        (2, "succeeded", "b/0.0"),
    ]
    assert published.attempt == 2
    leased = view.attempts[1].started_at
    assert task.created_at <= leased <= published.published_at + timedelta(seconds=1)


def test_no_view_shows_a_lease_token(ledger: Ledger) -> None:
    ledger.sync(job())
    _, offer = publish(ledger)
    running = ledger.lease()
    task, found = views.attempts(ledger.conn, DEFAULT_ORG, running.task.task_id)
    seen = [
        explain(ledger, "devnet_blocks:0-1000"), explain(ledger, offer.dataset_version), task, *found,
        *views.tasks(ledger.conn, DEFAULT_ORG),
    ]  # fmt: skip
    text = json.dumps([asdict(one) for one in seen], default=str)
    tokens = [str(row["lease_token"]) for row in ledger.rows(b"SELECT lease_token FROM state.attempts")]
    assert len(tokens) == 2
    assert not [token for token in tokens if token in text]


def test_a_version_without_engine_arguments_is_explained_too(ledger: Ledger) -> None:
    """Older versions of the code did not note them."""
    ledger.sync(job())
    _, offer = publish(ledger)
    ledger.conn.execute(b"UPDATE state.dataset_versions SET certificate = certificate - 'engine_arguments'")
    (view,) = explain(ledger, offer.dataset_version).ranges
    assert view.published is not None
    assert view.published.certificate.engine_arguments == ()


def test_withdrawn_and_replaced_generations_stay_explained(ledger: Ledger) -> None:
    ledger.sync(job(to_block=200))
    _, first = publish(ledger)
    repair.withdraw(ledger.conn, [first.dataset_version], reason="its object is gone")
    (gone, _) = explain(ledger, "devnet_blocks:0-200").ranges
    assert (gone.standing, gone.reason) == (Standing.WITHDRAWN, "withdrawn in snapshot 2: its object is gone")
    repair.repair(ledger.conn, DEFAULT_ORG, "devnet")
    assert standings(explain(ledger, "devnet_blocks:0-100")) == [
        (0, 100, Standing.QUEUED),
        (0, 100, Standing.WITHDRAWN),
    ]
    leases = by_start(ledger, 4)
    ledger.complete(publication(leases[0], content="anew"))
    found = explain(ledger, "devnet_blocks:0-100").ranges
    assert [(one.generation, one.standing) for one in found] == [(1, Standing.PUBLISHED), (0, Standing.WITHDRAWN)]
    assert [one.task and one.task.generation for one in found] == [1, 0]
    (old,) = explain(ledger, first.dataset_version).ranges
    assert old.standing is Standing.WITHDRAWN


# --- what is not published ----------------------------------------------------------------------------------------


def test_each_unpublished_range_says_where_it_stands(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=5)))
    leases = by_start(ledger, 5)
    ledger.complete(publication(leases[0]))
    ledger.fail(failure(leases[200], message="it is a trap", retryable=False), policy=NO_WAIT)
    ledger.fail(failure(leases[300], message="it lagged"), policy=RetryPolicy(600.0, 600.0, 3, 3))
    tasks.cancel(ledger.conn, [leases[400].task.task_id])
    found = explain(ledger, "devnet_blocks:50-2000")
    assert standings(found) == [
        (0, 100, Standing.PUBLISHED),
        (100, 200, Standing.RUNNING),
        (200, 300, Standing.DEAD),
        (300, 400, Standing.QUEUED),
        (400, 500, Standing.CANCELLED),
        (500, 1000, Standing.NEVER_PLANNED),
        (1000, 2000, Standing.NEVER_PLANNED),
    ]
    reasons = {one.blocks.start: one.reason for one in found.ranges}
    assert reasons[100] == "attempt 1 runs on w/0.0"
    assert reasons[200] == "dead after attempt 1: it is a trap; `trace-ray retry devnet` puts it back"
    assert reasons[300].startswith("its next attempt may begin at ")
    assert reasons[300].endswith("attempt 1 failed: it lagged")
    assert reasons[500] == "the cursor of job devnet stands at block 500"
    assert reasons[1000] == "no job wants these blocks"
    assert [one.task is None for one in found.ranges] == [False] * 5 + [True] * 2
    assert [len(one.attempts) for one in found.ranges] == [1, 1, 1, 1, 1, 0, 0]


def test_a_queued_range_says_what_holds_it_up(ledger: Ledger) -> None:
    ledger.sync(job())
    reason = lambda: explain(ledger, "devnet_blocks:5").ranges[0].reason  # noqa: E731 - asked again after each change
    assert reason() == "waits for a free worker"
    jobs.record_head_error(ledger.conn, ledger.epoch, "standard", 31337, "no answer")
    assert reason() == "rpc pool standard gives no head: no answer"
    jobs.pause(ledger.conn, DEFAULT_ORG, "devnet")
    assert reason() == "its job is paused: `trace-ray resume devnet` goes on"


def test_a_job_that_follows_the_head_wants_every_block(ledger: Ledger) -> None:
    follow = FollowHead(from_block=0, tail_lag=0, head_poll_interval_s=1.0, max_head_age_s=60.0)
    ledger.sync(job(mode=follow), head=99)
    assert standings(explain(ledger, "devnet_blocks:0-1000000")) == [
        (0, 100, Standing.QUEUED),
        (100, 1000000, Standing.NEVER_PLANNED),
    ]


def test_many_ranges_are_cut_and_said_to_be(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", chunk_size=10, max_inflight=40)))
    ledger.complete(*(publication(lease) for group in ledger.claim(slots=20) for lease in group.leases))
    found = explain(ledger, "devnet_blocks:5-1000", limit=25)
    assert found.truncated
    assert standings(found) == [
        (start, start + 10, Standing.PUBLISHED if start < 200 else Standing.QUEUED) for start in range(0, 250, 10)
    ]
    whole = explain(ledger, "devnet_blocks:5-1000", limit=41)
    assert not whole.truncated
    assert standings(whole)[-1] == (400, 1000, Standing.NEVER_PLANNED)


def test_generations_do_not_crowd_out_the_ranges_behind_them(ledger: Ledger) -> None:
    """More versions than the limit of one range: what is told is right, and the rest is said to be there."""
    ledger.sync(job(to_block=200))
    for generation in range(4):
        leases = by_start(ledger, 4)
        ledger.complete(*(publication(leases[start], content=f"{generation}") for start in leases))
        versions = [
            row["dataset_version"] for row in ledger.rows(b"SELECT dataset_version FROM state.dataset_versions")
        ]
        repair.withdraw(ledger.conn, versions, reason="again")
        repair.repair(ledger.conn, DEFAULT_ORG, "devnet")
    ledger.drain_once()
    found = explain(ledger, "devnet_blocks:0-200", limit=3)
    assert found.truncated
    assert [(one.blocks.start, one.generation) for one in found.ranges] == [(0, 4), (0, 3), (0, 2)]


# --- questions that cannot be answered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("devnet_block:5", "choose one of devnet_blocks"),
        ("a65da742-7b49-5b7e-b24d-3d7336ef37ee", "coverage DATASET --json"),
        ("abcdef0123", "DATASET:START-END"),
        ("nothing_0_9.aa.parquet", "DATASET:START-END"),
    ],
)
def test_what_is_not_in_the_ledger_is_refused_with_a_way_on(ledger: Ledger, asked: str, hint: str) -> None:
    ledger.sync(job())
    publish(ledger)
    with pytest.raises(NotFound, match=hint):
        explain(ledger, asked)


def test_a_digest_that_several_objects_share_is_refused(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=100))
    for lease in ledger.claim()[0].leases:
        ledger.complete(publication(lease))
    ledger.conn.execute(b"UPDATE state.dataset_files SET digest = 'abcdef01' || digest")
    with pytest.raises(RefusedInput, match="give more of it"):
        explain(ledger, "abcdef01")


def test_an_empty_ledger_says_what_to_do_first(conn: Connection) -> None:
    with pytest.raises(NotFound, match="apply a job file first"):
        views.explain(conn, DEFAULT_ORG, "devnet_blocks:5")
    with pytest.raises(NotFound, match="apply a job file first"):
        views.tasks(conn, DEFAULT_ORG, job="devnet")
