"""A paused rule: what is published meanwhile is planned and waits, so that it misses nothing that nobody left out."""

import random
from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state import evaluations, outbox, rules
from tests.integration.state.ledger import Ledger, job, publication, stream
from tests.integration.state.test_datasets import replace_range
from tests.integration.state.watching import backfill, claim, complete, drain, planned, rule, watch
from trace_ray.alerts import EvaluationLease, Rule
from trace_ray.contracts import DEFAULT_ORG, BlockRange, Lease, OrgId


def pause(ledger: Ledger, one: Rule) -> None:
    with ledger.conn.transaction():
        rules.pause(ledger.conn, one.org_id, one.name)


def resume(ledger: Ledger, one: Rule) -> bool:
    with ledger.conn.transaction():
        return rules.resume(ledger.conn, one.org_id, one.name)


def leave_out(ledger: Ledger, one: Rule) -> list[BlockRange]:
    with ledger.conn.transaction():
        return evaluations.leave_out(ledger.conn, one.rule_id)


@pytest.fixture
def waiting(ledger: Ledger) -> Ledger:
    """Rule `watch` is paused after its first evaluation was leased; the second and the third wait."""
    ledger.sync(job("blocks", to_block=300))
    watch(ledger, rule())
    ledger.complete(publication(ledger.lease()))
    drain(ledger)
    return ledger


def publish_the_rest(ledger: Ledger) -> None:
    ledger.drain_once()
    drain(ledger)


def test_what_is_published_meanwhile_waits_and_follows(waiting: Ledger) -> None:
    pause(waiting, rule())
    publish_the_rest(waiting)
    assert planned(waiting, rule()) == [(0, 100), (100, 200), (200, 300)]
    assert claim(waiting, 9) == []
    assert resume(waiting, rule())
    assert not resume(waiting, rule())
    assert [one.evaluation.blocks.start for one in claim(waiting, 9)] == [0, 100, 200]
    assert backfill(waiting, rule()) == []


def rows(ledger: Ledger, one: Rule) -> list[dict[str, object]]:
    query = b"""
    SELECT range_start, range_end, payload ->> 'inputs' AS inputs, payload ->> 'as_of' AS as_of, priority, attempt,
      state
    FROM state.tasks WHERE job_id = %s::uuid ORDER BY range_start, range_end, as_of, inputs"""
    return ledger.rows(query, one.rule_id)


class Side:
    """Two rules over the same datasets, of which one is paused now and then."""

    def __init__(self, ledger: Ledger, chance: random.Random, sizes: list[int]) -> None:
        self.ledger, self.chance = ledger, chance
        org, keys = OrgId(uuid4()), ("blocks", "logs", "transactions")[: len(sizes)]
        streams = [stream(key, chunk_size=size, max_inflight=99) for key, size in zip(keys, sizes, strict=True)]
        ledger.sync(replace(job(*streams, to_block=24), org_id=org))
        names = [f"devnet_{key}" for key in keys]
        self.steady, self.paused = (rule(*names, name=name, org_id=org) for name in ("steady", "paused"))
        watch(ledger, self.steady)
        watch(ledger, self.paused)
        self.left = [each for group in ledger.claim(99) for each in group.leases]
        chance.shuffle(self.left)
        self.done: list[Lease] = []
        self.leased: list[EvaluationLease] = []
        self.is_paused = False

    def publish(self) -> None:
        for _ in range(min(len(self.left), self.chance.randint(1, 4))):
            each = self.left.pop()
            assert self.ledger.complete(publication(each))[0].accepted
            self.done.append(each)

    def replace(self) -> None:
        if self.done:
            replace_range(self.ledger, self.done.pop(self.chance.randrange(len(self.done))))

    def plan(self) -> None:
        drain(self.ledger, limit=self.chance.randint(1, 5))

    def flip(self) -> None:
        (resume if self.is_paused else pause)(self.ledger, self.paused)
        self.is_paused = not self.is_paused

    def evaluate(self) -> int:
        found = claim(self.ledger, 3)
        assert not (self.is_paused and any(one.rule.name == "paused" for one in found))
        for one in found:
            assert complete(self.ledger, one, None).accepted
        self.leased += found
        return len(found)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(3, 12), min_size=1, max_size=3))
def test_a_rule_that_was_paused_evaluates_what_one_that_never_was_does(
    ledger: Ledger, seed: int, sizes: list[int]
) -> None:
    """The same blocks of the same versions at the same snapshots, each once: as if nobody had paused it."""
    for table in (b"outbox", b"attempts", b"tasks"):  # of an example that failed halfway
        ledger.conn.execute(b"DELETE FROM state." + table)
    chance = random.Random(seed)
    side = Side(ledger, chance, sizes)
    while side.left:
        chance.choice((side.publish, side.replace, side.plan, side.flip, side.evaluate))()
    if side.is_paused:
        side.flip()
    while drain(ledger, limit=99):
        pass
    while side.evaluate():
        pass
    found = rows(ledger, side.paused)
    assert found == rows(ledger, side.steady)
    assert {(row["state"], row["attempt"]) for row in found} == {("succeeded", 1)}
    assert len(side.leased) == len({one.evaluation.task_id for one in side.leased}) == 2 * len(found)


def test_what_waits_can_be_left_out_and_what_runs_goes_on(waiting: Ledger) -> None:
    (running,) = claim(waiting)
    pause(waiting, rule())
    publish_the_rest(waiting)
    assert leave_out(waiting, rule()) == [BlockRange(100, 200), BlockRange(200, 300)]
    assert leave_out(waiting, rule()) == []
    resume(waiting, rule())
    assert claim(waiting, 9) == []
    assert complete(waiting, running, None).accepted
    assert [row["state"] for row in rows(waiting, rule())] == ["succeeded", "cancelled", "cancelled"]


def test_another_rules_evaluations_are_not_left_out(waiting: Ledger) -> None:
    watch(waiting, rule(name="other"))
    publish_the_rest(waiting)
    assert len(leave_out(waiting, rule())) == 3
    assert [one.rule.name for one in claim(waiting, 9)] == ["other", "other"]


def test_only_a_backfill_brings_back_what_was_left_out(waiting: Ledger) -> None:
    pause(waiting, rule())
    publish_the_rest(waiting)
    leave_out(waiting, rule())
    resume(waiting, rule())
    for row in waiting.rows(b"SELECT dataset_version, dataset_uuid FROM state.dataset_versions"):
        payload = {name: str(value) for name, value in row.items()}
        outbox.append(waiting.conn, outbox.Event("dataset.published", f"again/{row['dataset_version']}", payload))
    assert drain(waiting) == 3
    assert claim(waiting, 9) == []
    assert backfill(waiting, rule(), since=150) == [BlockRange(100, 200), BlockRange(200, 300)]
    assert backfill(waiting, rule(), since=150) == []
    found = claim(waiting, 9)
    assert sorted(one.evaluation.blocks for one in found) == [BlockRange(100, 200), BlockRange(200, 300)]
    assert all(complete(waiting, one, None).accepted for one in found)


def test_a_rule_whose_file_says_disabled_waits_from_its_beginning(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    watch(ledger, replace(rule(), enabled=False))
    publish_the_rest(ledger)
    assert claim(ledger, 9) == []
    watch(ledger, rule())
    assert [one.evaluation.blocks for one in claim(ledger, 9)] == [BlockRange(0, 100)]
    assert rules.report(ledger.conn, DEFAULT_ORG, "watch").evaluations == {"running": 1}
