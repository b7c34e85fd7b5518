"""What the sink keeps: a batch becomes events as a whole, each once."""

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest

from actors.sink import Sunk
from state import alerts
from state.db import Connection
from tests.integration.sink.sunk import OTHER, World, evaluations, line
from tests.integration.state import watching
from tests.integration.state.watching import rule, watch
from trace_ray.alerts import AlertEvent, EvaluationLease, Mode, Rule, event_id
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import StoreUnavailable


def test_a_batch_becomes_events_of_its_rule_and_the_message_is_gone(
    world: World, leases: list[EvaluationLease]
) -> None:
    world.emit(leases[0], line(leases[0], "a") + line(leases[0], "b"))
    assert world.run() == Sunk(kept=1, new=2)
    assert (world.events(), world.routes(), world.waiting(), world.letters()) == (["a", "b"], 2, 0, [])
    (first, _) = alerts.recent(world.ledger.conn, DEFAULT_ORG)
    assert first.rule == "watch"
    assert (first.event.org_id, first.event.rule_id) == (DEFAULT_ORG, leases[0].rule.rule_id)
    assert (first.event.task_id, first.event.attempt) == (leases[0].evaluation.task_id, 1)
    assert world.run() == Sunk()


def test_events_of_many_messages_are_kept_in_one_pass(world: World, leases: list[EvaluationLease]) -> None:
    for number, lease in enumerate(leases):
        world.emit(lease, line(lease, f"k{number}"))
    assert world.run() == Sunk(kept=3, new=3)


def test_the_same_events_of_another_evaluation_change_nothing(world: World, leases: list[EvaluationLease]) -> None:
    """A range was replaced, and its bundle finds the same again: no second event, no second delivery."""
    same = {"block_number": 150, "event_time": "2026-01-31T13:00:00+01:00"}
    world.emit(leases[1], line(leases[1], "k", **same))
    world.run()
    replaced = leases[1].evaluation.task_id
    world.ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL WHERE task_id = %s::uuid", (replaced,)
    )
    (again,) = watching.claim(world.ledger, 1)
    world.emit(again, line(again, "k", **same) + line(again, "new", **same))
    assert world.run() == Sunk(kept=1, new=1, repeated=1)
    assert (world.events(), world.routes()) == (["k", "new"], 2)


def test_another_content_under_a_known_key_is_told_and_the_first_stays(
    world: World, leases: list[EvaluationLease], caplog: pytest.LogCaptureFixture
) -> None:
    for lease, value in zip(leases, (1, 2), strict=False):
        world.emit(lease, line(lease, "k", payload={"value": value}))
        world.run()
    (stored,) = alerts.recent(world.ledger.conn, DEFAULT_ORG)
    assert stored.event.draft.payload == {"value": 1}
    (told,) = [one for one in caplog.records if "other content" in one.message]
    assert (told.events, told.count) == ([str(event_id(DEFAULT_ORG, "k"))], 1)  # type: ignore[attr-defined]
    assert world.routes() == 1


def test_a_shadow_rule_records_and_routes_nothing(world: World) -> None:
    (lease, *_) = evaluations(world, replace(rule(), mode=Mode.SHADOW))
    world.emit(lease, line(lease))
    assert world.run() == Sunk(kept=1, new=1)
    assert (world.events(), world.routes()) == (["k"], 0)
    (stored,) = alerts.recent(world.ledger.conn, DEFAULT_ORG)
    assert stored.event.mode is Mode.SHADOW


def test_a_rule_that_was_turned_to_shadow_meanwhile_routes_nothing_more(
    world: World, leases: list[EvaluationLease]
) -> None:
    world.emit(leases[0], line(leases[0]))
    watch(world.ledger, replace(rule(), mode=Mode.SHADOW))
    assert world.run() == Sunk(kept=1, new=1)
    assert world.routes() == 0


def test_two_organisations_keep_the_same_key_apart(world: World, leases: list[EvaluationLease]) -> None:
    (there, *_) = evaluations(world, rule(org_id=OTHER))
    for lease in (leases[0], there):
        world.emit(lease, line(lease, "k", payload={"org": str(lease.rule.org_id)}))
    assert world.run() == Sunk(kept=2, new=2)
    for org in (DEFAULT_ORG, OTHER):
        (stored,) = alerts.recent(world.ledger.conn, org)
        assert (stored.event.org_id, stored.event.draft.payload) == (org, {"org": str(org)})


def test_a_large_batch_is_kept_in_several_parts_and_one_commit(world: World, leases: list[EvaluationLease]) -> None:
    lease = leases[0]
    world.emit(lease, b"".join(line(lease, f"k{number:05}") for number in range(7)))
    calls: list[int] = []

    def failing(_conn: Connection, _org: OrgId, _rule: Rule, events: Sequence[AlertEvent]) -> None:
        calls.append(len(events))
        if len(calls) == 3:
            raise StoreUnavailable("not now")

    with patch("actors.sink.PART", 3):
        assert world.run(route=failing) == Sunk(postponed=1)
        assert (calls, world.events()) == ([3, 3, 1], [])
        world.later()
        assert world.run() == Sunk(kept=1, new=7)
    assert world.routes() == 7
