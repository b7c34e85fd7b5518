"""Planning of evaluations: every block that all datasets of a rule cover, once, whatever is published when."""

import random
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state import datasets, evaluations, outbox
from state.db import Connection
from tests.integration.state.ledger import Ledger, job, publication, stream
from tests.integration.state.test_datasets import replace_range
from tests.integration.state.watching import (
    backfill,
    claim,
    drain,
    planned,
    ready,
    rule,
    watch,
)
from trace_ray.contracts import DEFAULT_ORG, BlockRange, Lease, OrgId, VersionId

OTHER = OrgId(UUID(int=7))


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
