"""Evaluations: every covered block once, fenced like every task, and out of the way of ranges."""

import random
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state import buffer, capabilities, datasets, evaluations, jobs, outbox, tasks, views
from state.db import Connection
from state.judge import Reason
from tests.integration.state import watching
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, job, publication, stream
from tests.integration.state.test_datasets import replace_range
from tests.integration.state.watching import backfill, batch, claim, complete, drain, planned, rule, watch
from trace_ray.alerts import EvaluationLease, Rule
from trace_ray.contracts import DEFAULT_ORG, BlockRange, Failure, Lease, LeaseToken, OrgId, VersionId, WorkerId
from trace_ray.errors import FencedError
from trace_ray.outcomes import MAX_ATTEMPTS

OTHER = OrgId(UUID(int=7))


def ready(ledger: Ledger, *, to_block: int = 300) -> Rule:
    """A rule over what is published after it: ranges of 100 blocks."""
    ledger.sync(job("blocks", to_block=to_block))
    watch(ledger, rule())
    ledger.drain_once()
    drain(ledger)
    return rule()


@pytest.fixture
def lease(ledger: Ledger) -> EvaluationLease:
    ready(ledger, to_block=100)
    (one,) = claim(ledger)
    return one


def states(ledger: Ledger) -> list[str]:
    rows = ledger.rows(b"SELECT state FROM state.tasks WHERE kind = 'evaluation' ORDER BY state")
    return [str(row["state"]) for row in rows]


def messages(ledger: Ledger) -> list[buffer.Delivery]:
    with ledger.conn.transaction(force_rollback=True):
        return buffer.receive(ledger.conn, "alerts", 10, 60.0)


# --- planning -----------------------------------------------------------------------------------------------------


def test_each_published_range_is_evaluated_at_the_newest_snapshot(ledger: Ledger) -> None:
    one = ready(ledger)
    assert planned(ledger, one) == [(0, 100), (100, 200), (200, 300)]
    newest = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks").snapshot
    assert {lease.evaluation.as_of for lease in claim(ledger, 3)} == {newest}


def test_a_new_rule_looks_at_nothing_that_was_published_before(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=300))
    first = ledger.lease()
    ledger.complete(publication(first))
    drain(ledger)
    watch(ledger, rule())
    assert drain(ledger) == 0
    assert planned(ledger, rule()) == []
    ledger.drain_once()
    drain(ledger)
    assert planned(ledger, rule()) == [(100, 200), (200, 300)]


def test_backfill_plans_what_is_published_from_a_block_on_and_nothing_twice(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=300))
    ledger.drain_once()
    drain(ledger)
    watch(ledger, rule())
    assert backfill(ledger, rule(), since=150) == [BlockRange(100, 200), BlockRange(200, 300)]
    assert backfill(ledger, rule(), since=0) == [BlockRange(0, 100)]
    assert backfill(ledger, rule(), since=0) == []
    assert backfill(ledger, rule(), since=300) == []
    assert planned(ledger, rule()) == [(0, 100), (100, 200), (200, 300)]


def test_an_event_that_comes_twice_plans_nothing_twice(ledger: Ledger) -> None:
    one = ready(ledger)
    for row in ledger.rows(b"SELECT dataset_version, dataset_uuid FROM state.dataset_versions"):
        payload = {name: str(value) for name, value in row.items()}
        outbox.append(ledger.conn, outbox.Event("dataset.published", f"again/{row['dataset_version']}", payload))
    before = ledger.rows(b"SELECT xmin::text, t::text FROM state.tasks t ORDER BY task_id")
    assert drain(ledger) == 3
    assert ledger.rows(b"SELECT xmin::text, t::text FROM state.tasks t ORDER BY task_id") == before
    assert len(planned(ledger, one)) == 3


def test_planning_and_the_removal_of_the_event_are_one_commit(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    watch(ledger, rule())
    ledger.drain_once()
    with ledger.conn.transaction(force_rollback=True):
        assert drain(ledger) == 1
        assert planned(ledger, rule()) == [(0, 100)]
    assert planned(ledger, rule()) == []
    assert drain(ledger) == 1
    assert planned(ledger, rule()) == [(0, 100)]


def test_a_rule_over_two_datasets_waits_for_both(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", chunk_size=100), stream("logs", chunk_size=40, max_inflight=9), to_block=200))
    one = rule("devnet_logs", "devnet_blocks")
    watch(ledger, one)
    leases = {
        (each.task.dataset_key, each.task.blocks.start): each for group in ledger.claim(9) for each in group.leases
    }
    for key, start, expected in (
        ("logs", 80, []),
        ("blocks", 0, [(80, 100)]),
        ("blocks", 100, [(80, 100), (100, 120)]),
        ("logs", 40, [(40, 80), (80, 100), (100, 120)]),
    ):
        ledger.complete(publication(leases[key, start]))
        drain(ledger)
        assert planned(ledger, one) == expected


def test_a_replaced_range_is_evaluated_again_with_what_replaced_it(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    watch(ledger, rule())
    first = ledger.lease()
    ledger.complete(publication(first))
    drain(ledger)
    replace_range(ledger, first)
    drain(ledger)
    assert planned(ledger, rule()) == [(0, 100), (0, 100)]
    before, after = claim(ledger, 2)
    assert (before.evaluation.as_of, after.evaluation.as_of) == (1, 2)
    assert before.evaluation.inputs != after.evaluation.inputs


def test_what_was_replaced_before_its_event_came_is_not_evaluated(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    watch(ledger, rule())
    first = ledger.lease()
    ledger.complete(publication(first))
    replace_range(ledger, first)
    assert drain(ledger) == 2
    (only,) = claim(ledger, 2)
    assert only.evaluation.as_of == 2


def test_another_organisations_publication_wakes_no_rule(ledger: Ledger) -> None:
    """The dataset has the same name, key, chain and blocks."""
    ledger.sync(job("blocks", to_block=100))
    ledger.sync(replace(job("blocks", to_block=100), org_id=OTHER))
    watch(ledger, rule())
    watch(ledger, rule(org_id=OTHER))
    for group in ledger.claim(9):
        for each in group.leases:
            if each.task.job_id == job().job_id:
                ledger.complete(publication(each))
    drain(ledger)
    assert len(planned(ledger, rule())) == 1
    assert planned(ledger, rule(org_id=OTHER)) == []
    (found,) = claim(ledger, 9)
    assert (found.rule.org_id, found.evaluation.rule_id) == (DEFAULT_ORG, rule().rule_id)


def expected(visible: list[dict[int, VersionId]], handled: set[VersionId]) -> set[tuple[VersionId, ...]]:
    """The model: what versions hold each block, and is one of them new?"""
    found: set[tuple[VersionId, ...]] = set()
    for block in set.intersection(*(set(one) for one in visible)):
        members = tuple(one[block] for one in visible)
        if handled & set(members):
            found.add(members)
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(3, 12), min_size=1, max_size=3))
def test_whatever_the_order_of_publications_every_common_block_is_evaluated_once(
    ledger: Ledger, seed: int, sizes: list[int]
) -> None:
    for table in (b"outbox", b"tasks"):  # of an example that failed halfway
        ledger.conn.execute(b"DELETE FROM state." + table)
    chance = random.Random(seed)
    org, keys = OrgId(uuid4()), ("blocks", "logs", "transactions")[: len(sizes)]
    streams = [stream(key, chunk_size=size, max_inflight=99) for key, size in zip(keys, sizes, strict=True)]
    ledger.sync(replace(job(*streams, to_block=24), org_id=org))
    one = rule(*(f"devnet_{key}" for key in keys), org_id=org)
    watch(ledger, one)
    left = [each for group in ledger.claim(99) for each in group.leases]
    chance.shuffle(left)
    visible: list[dict[int, VersionId]] = [{} for _ in keys]
    waiting: list[VersionId] = []
    done: list[Lease] = []
    made: set[tuple[VersionId, ...]] = set()

    def publish(each: Lease) -> None:
        offer = publication(each)
        blocks = each.task.blocks
        where = keys.index(each.task.dataset_key)
        visible[where].update(dict.fromkeys(range(blocks.start, blocks.end), offer.dataset_version))
        waiting.append(offer.dataset_version)

    while left or waiting:
        for each in [left.pop() for _ in range(min(len(left), chance.randint(1, 4)))]:
            assert ledger.complete(publication(each))[0].accepted
            publish(each)
            done.append(each)
        if done and chance.random() < 0.3:
            again = done.pop(chance.randrange(len(done)))
            replace_range(ledger, again)
            publish(replace(again, generation=again.generation + 1))
        count = chance.randint(0, 3) if left else len(waiting)
        assert drain(ledger, limit=max(count, 1)) == min(max(count, 1), len(waiting))
        handled, waiting[:] = set(waiting[: max(count, 1)]), waiting[max(count, 1) :]
        made |= expected(visible, handled)
    found = ledger.rows(b"SELECT range_start, range_end FROM state.tasks WHERE job_id = %s::uuid", one.rule_id)
    assert len(found) == len(made)
    held = sorted(block for row in found for block in range(row["range_start"], row["range_end"]))
    final = {tuple(each[block] for each in visible) for block in range(24)}
    assert final <= made
    assert set(held) == set(range(24))
    if len(final) == len(made):  # nothing was replaced, so no block comes twice
        assert held == list(range(24))


# --- leases -------------------------------------------------------------------------------------------------------


def test_ranges_and_evaluations_are_leased_apart(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=200))
    watch(ledger, rule())
    ledger.complete(publication(ledger.lease()))
    drain(ledger)
    assert [each.evaluation.blocks for each in claim(ledger, 9)] == [BlockRange(0, 100)]
    (group,) = ledger.claim(9)
    assert [each.task.dataset_key for each in group.leases] == ["blocks"]
    assert (claim(ledger, 9), ledger.claim(9)) == ([], [])


def test_a_lease_tells_all_that_an_attempt_needs(ledger: Ledger) -> None:
    one = ready(ledger, to_block=100)
    (lease,) = claim(ledger, worker="e/7.1", ttl_s=45.0)
    assert lease.rule == replace(one, bundle=watching.BUNDLES["watcher"])
    assert (lease.worker_id, lease.attempt, lease.ttl_s) == ("e/7.1", 1, 45.0)
    found = lease.evaluation
    assert (found.rule_id, found.chain_id, found.blocks) == (one.rule_id, 31337, BlockRange(0, 100))
    assert found == evaluations.Evaluation.make(one.rule_id, 31337, found.blocks, found.as_of, found.inputs)


def test_rules_take_turns_and_a_backfill_waits_behind_what_is_live(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=400))
    long, short = rule(name="long"), rule(name="short")
    watch(ledger, long)
    leases = [each for group in ledger.claim(4) for each in group.leases]
    ledger.complete(*map(publication, leases[:2]))
    drain(ledger)
    ledger.conn.execute(b"DELETE FROM state.tasks WHERE kind = 'evaluation'")
    backfill(ledger, long)
    watch(ledger, short)
    ledger.complete(*map(publication, leases[2:]))
    drain(ledger)
    order = [(each.rule.name, each.evaluation.blocks.start) for _ in range(3) for each in claim(ledger, 2)]
    assert {order[0], order[1]} == {("long", 200), ("short", 200)}
    assert {order[2], order[3]} == {("long", 300), ("short", 300)}
    assert sorted(order[4:]) == [("long", 0), ("long", 100)]


def test_each_evaluation_is_leased_once_by_racing_terms(ledger: Ledger) -> None:
    ready(ledger)
    newer = Ledger.lead(ledger.conn, holder="cluster/space/2")
    with pytest.raises(Exception, match="fenced"):
        claim(ledger, 3)
    assert len({each.evaluation.task_id for each in claim(newer, 9)}) == 3
    assert claim(newer, 9) == []


# --- ends ---------------------------------------------------------------------------------------------------------


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


def fail(ledger: Ledger, lease: EvaluationLease, *, retryable: bool = True, infra: bool = False) -> None:
    with ledger.conn.transaction():
        failures = [Failure(lease.key, "timeout", "timeout: 30 s", retryable, infra=infra)]
        (settled,) = evaluations.fail_evaluations(ledger.conn, ledger.epoch, failures, policy=NO_WAIT)
    assert settled.accepted


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


# --- what else knows of tasks -------------------------------------------------------------------------------------


def test_the_running_attempt_may_read_the_datasets_of_its_rules_organisation(
    ledger: Ledger, lease: EvaluationLease
) -> None:
    task, as_of = lease.evaluation.task_id, lease.evaluation.as_of
    grant = capabilities.grant_for_task(ledger.conn, task, 1, lease.rule.datasets, as_of)
    assert (grant.org_id, [one.name for one in grant.datasets]) == (DEFAULT_ORG, ["devnet_blocks"])
    assert [file.min_block for file in grant.datasets[0].files] == [0]
    complete(ledger, lease, None)
    with pytest.raises(FencedError):
        capabilities.grant_for_task(ledger.conn, task, 1, lease.rule.datasets, as_of)


def test_operators_see_evaluations_beside_ranges_and_jobs_see_none(ledger: Ledger, lease: EvaluationLease) -> None:
    shown = {one.task_id: one for one in views.tasks(ledger.conn, DEFAULT_ORG)}
    assert len(shown) == 2
    found = shown[lease.evaluation.task_id]
    assert (found.job, found.dataset, found.state, found.rpc_pool) == ("watch", "rule watch", "running", "")
    assert [one.dataset for one in views.tasks(ledger.conn, DEFAULT_ORG, job="devnet")] == ["devnet_blocks"]
    _, (attempt,) = views.attempts(ledger.conn, DEFAULT_ORG, lease.evaluation.task_id)
    assert attempt.worker_id == "e/0.0"
    assert views.tasks(ledger.conn, OTHER) == []
    assert len(views.explain(ledger.conn, DEFAULT_ORG, "devnet_blocks:0").ranges) == 1
    (status,) = jobs.status(ledger.conn, DEFAULT_ORG)
    assert status.state == "complete"


def test_evaluations_of_many_ranges_are_planned_by_a_few_statements(
    ledger: Ledger, connection: Callable[[], Connection]
) -> None:
    """A backfill of a long chain is one transaction; nobody sees half of it."""
    ledger.sync(job(stream("blocks", chunk_size=1, max_inflight=999), to_block=200))
    ledger.drain()
    drain(ledger, limit=999)
    watch(ledger, rule())
    other = connection()
    count = b"SELECT count(*) AS found FROM state.tasks WHERE kind = 'evaluation'"
    with ledger.conn.transaction():
        assert len(evaluations.backfill(ledger.conn, rule().rule_id, 0)) == 200
        assert other.execute(count).fetchall() == [{"found": 0}]
    assert other.execute(count).fetchall() == [{"found": 200}]
