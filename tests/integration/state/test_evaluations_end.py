"""Ends of evaluations: fenced like those of every task, and one commit with the batch that they publish."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from state import evaluations, tasks
from state.judge import Reason
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, job, publication
from tests.integration.state.watching import batch, claim, complete, fail, messages, ready, rule, states
from trace_ray.alerts import EvaluationLease
from trace_ray.contracts import DEFAULT_ORG, Failure, LeaseToken, OrgId, WorkerId
from trace_ray.outcomes import MAX_ATTEMPTS

OTHER = OrgId(UUID(int=7))


@pytest.fixture
def lease(ledger: Ledger) -> EvaluationLease:
    ready(ledger, to_block=100)
    (one,) = claim(ledger)
    return one


def test_a_success_puts_its_batch_into_the_queue_and_ends_the_attempt(ledger: Ledger, lease: EvaluationLease) -> None:
    made = batch(lease, b"{}\n")
    with ledger.conn.transaction():
        settled = evaluations.complete_evaluation(
            ledger.conn, ledger.epoch, lease.key, made, max_deliveries=3, seconds={"run": 0.5}
        )
    assert settled.accepted
    (message,) = messages(ledger)
    assert message.payload == {
        "task_id": str(lease.evaluation.task_id),
        "attempt": 1,
        "org_id": str(DEFAULT_ORG),
        "rule_id": str(lease.rule.rule_id),
        "batch_uri": f"batches/{lease.evaluation.task_id}/1/udf.jsonl",
        "digest": made.digest,
        "size": 3,
        "events": 1,
    }
    (attempt,) = ledger.rows(b"SELECT * FROM state.attempts WHERE task_id = %s::uuid", lease.evaluation.task_id)
    assert (attempt["outcome"], attempt["seconds"]) == ("succeeded", {"run": 0.5})
    assert states(ledger) == ["succeeded"]
    assert str(lease.lease_token) not in str(message)


def test_a_success_without_events_leaves_no_message(ledger: Ledger, lease: EvaluationLease) -> None:
    assert complete(ledger, lease, None).accepted
    assert messages(ledger) == []
    assert states(ledger) == ["succeeded"]


def test_a_repeated_completion_changes_nothing(ledger: Ledger, lease: EvaluationLease) -> None:
    complete(ledger, lease, batch(lease))
    again = complete(ledger, lease, batch(lease))
    assert (again.accepted, again.reason) == (False, Reason.ALREADY_DONE)
    assert len(messages(ledger)) == 1


def test_only_the_attempt_that_holds_the_evaluation_may_end_it(ledger: Ledger, lease: EvaluationLease) -> None:
    stranger = replace(lease, lease_token=LeaseToken(uuid4()))
    unknown = replace(lease, evaluation=replace(lease.evaluation, task_id=tasks.TaskId(uuid4())))
    for made in (None, batch(lease)):
        assert complete(ledger, stranger, made).reason is Reason.WRONG_TOKEN
        assert complete(ledger, unknown, made).reason is Reason.NOT_FOUND
    ledger.fail(Failure(lease.key, "crash", "crash", True))
    (second,) = claim(ledger)
    assert (second.attempt, second.evaluation) == (2, lease.evaluation)
    for made in (None, batch(lease)):
        assert complete(ledger, lease, made).reason is Reason.STALE_ATTEMPT
    assert (messages(ledger), states(ledger)) == ([], ["running"])
    assert complete(ledger, second, batch(second)).accepted


@pytest.mark.parametrize("wrong", [{"token": uuid4()}, {"attempt": 2}], ids=["token", "attempt"])
def test_the_last_statement_is_fenced_by_itself(
    ledger: Ledger, lease: EvaluationLease, wrong: dict[str, object]
) -> None:
    key = lease.key
    right = {"task": key.task_id, "attempt": key.attempt, "token": key.lease_token, "epoch": ledger.epoch}
    finish = evaluations.SQL["finish"]
    assert ledger.conn.execute(finish, right | {"durations": None} | wrong).fetchone() is None
    assert states(ledger) == ["running"]
    assert ledger.conn.execute(finish, right | {"durations": None}).fetchone() is not None


def test_an_attempt_whose_lease_was_taken_back_publishes_nothing(ledger: Ledger) -> None:
    ready(ledger, to_block=100)
    (late,) = claim(ledger, ttl_s=-1)
    assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 1
    for made in (None, batch(late)):
        assert complete(ledger, late, made).reason is Reason.STALE_ATTEMPT
    assert messages(ledger) == []


@pytest.mark.parametrize("name", ["org", "rule", "attempt", "key"])
def test_a_batch_of_something_else_is_refused_and_the_attempt_goes_on(
    ledger: Ledger, lease: EvaluationLease, name: str
) -> None:
    made = batch(lease)
    foreign = {
        "org": replace(made, org_id=OTHER),
        "rule": replace(made, rule_id=rule(name="other").rule_id),
        "attempt": replace(made, attempt=replace(made.attempt, attempt=2)),
        "key": replace(made, batch_uri="batches/somebody/else.jsonl"),
    }[name]
    assert complete(ledger, lease, foreign).reason is Reason.MISMATCH
    assert (messages(ledger), states(ledger)) == ([], ["running"])
    assert complete(ledger, lease, made).accepted


def test_success_and_batch_are_one_commit(ledger: Ledger, lease: EvaluationLease) -> None:
    with ledger.conn.transaction(force_rollback=True):
        assert complete(ledger, lease, batch(lease)).accepted
    assert (messages(ledger), states(ledger)) == ([], ["running"])
    assert complete(ledger, lease, batch(lease)).accepted


def test_a_range_cannot_be_ended_as_an_evaluation_nor_an_evaluation_as_a_range(
    ledger: Ledger, lease: EvaluationLease
) -> None:
    ledger.sync(job("logs", name="other", to_block=100))
    range_lease = ledger.lease()
    with ledger.conn.transaction():
        settled = evaluations.complete_evaluation(ledger.conn, ledger.epoch, range_lease.key, None, max_deliveries=3)
    assert not settled.accepted
    forged = replace(publication(range_lease), attempt=lease.key)
    assert ledger.complete(forged)[0].reason is Reason.MISMATCH
    assert ledger.one(b"SELECT count(*) FROM state.dataset_versions") == 1


def test_a_bundle_that_fails_has_two_attempts_and_one_that_errs_has_one(ledger: Ledger, lease: EvaluationLease) -> None:
    fail(ledger, lease)
    assert states(ledger) == ["queued"]
    (second,) = claim(ledger)
    assert second.attempt == MAX_ATTEMPTS
    fail(ledger, second)
    assert states(ledger) == ["dead"]
    (event,) = ledger.rows(b"SELECT payload FROM state.outbox WHERE topic = 'task.dead'")
    assert event["payload"]["rule_id"] == str(lease.rule.rule_id)


def test_a_fatal_outcome_ends_the_evaluation_at_once(ledger: Ledger, lease: EvaluationLease) -> None:
    fail(ledger, lease, retryable=False)
    assert states(ledger) == ["dead"]
    assert complete(ledger, lease, None).reason is Reason.DEAD


def test_what_our_own_side_fails_at_spends_no_attempt_of_the_bundle(ledger: Ledger, lease: EvaluationLease) -> None:
    fail(ledger, lease, infra=True)
    (second,) = claim(ledger)
    fail(ledger, second, infra=True)
    (third,) = claim(ledger)
    fail(ledger, third)
    assert states(ledger) == ["queued"]


def test_heartbeat_adopt_free_and_cancel_work_as_for_ranges(ledger: Ledger, lease: EvaluationLease) -> None:
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [lease.key], ttl_s=600) == [lease.key]
    newer = Ledger.lead(ledger.conn, holder="cluster/space/2")
    held = {WorkerId("e/0.0"): [lease.key]}
    assert tasks.adopt(ledger.conn, newer.epoch, held, ttl_s=60) == [lease.key]
    assert tasks.free(ledger.conn, newer.epoch, [WorkerId("e/0.0")], policy=POLICY) == 1
    (again,) = claim(newer)
    assert again.attempt == 2
    assert tasks.cancel(ledger.conn, [again.evaluation.task_id]) == 1
    assert complete(newer, again, None).reason is Reason.CANCELLED
