"""Leases of evaluations: apart from ranges, in turns, and what others see of an attempt that runs."""

from dataclasses import replace
from uuid import UUID

import pytest

from state import capabilities, evaluations, jobs, views
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, publication
from tests.integration.state.watching import backfill, claim, complete, drain, ready, rule, watch
from trace_ray.alerts import EvaluationLease
from trace_ray.contracts import DEFAULT_ORG, BlockRange, OrgId
from trace_ray.errors import FencedError

OTHER = OrgId(UUID(int=7))


@pytest.fixture
def lease(ledger: Ledger) -> EvaluationLease:
    ready(ledger, to_block=100)
    (one,) = claim(ledger)
    return one


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
