"""What the sink refuses: a bad batch is a dead letter at once, and no part of it is kept."""

import json
from typing import Any
from uuid import uuid4

import pytest

from actors.sink import Sunk
from state import buffer
from tests.integration.sink.sunk import OTHER, World, evaluations, line
from tests.integration.state import watching
from tests.integration.state.watching import rule
from trace_ray.alerts import EvaluationLease


def bad_batches(lease: EvaluationLease, foreign: EvaluationLease) -> dict[str, tuple[bytes, str]]:
    good = line(lease, "good")
    return {
        "malformed": (good + b"{\n", "line 2: it is not one JSON object"),
        "foreign rule": (good + line(foreign, "x"), "line 2: alert_definition_id is not the id of its rule"),
        "foreign block": (good + line(lease, "x", block_number=300), "line 2: block_number is not in the evaluated"),
        "foreign chain": (good + line(lease, "x", chain_id=1), "line 2: chain_id is not 31337"),
        "chooses its organisation": (good + line(lease, "x", org_id=str(OTHER)), "line 2: 'org_id' is no field"),
        "two contents": (good + line(lease, "good", payload={}), "line 2: its dedupe_key stands on an earlier line"),
        "not storable": (good + line(lease, "x", payload={"a": "\0"}), "line 2: payload holds NUL"),
        "oversized": (b"x" * (16 * 1024**2 + 1), "the batch has 16777217 bytes: at most 16777216 are accepted"),
    }


BAD = (
    "malformed",
    "foreign rule",
    "foreign block",
    "foreign chain",
    "chooses its organisation",
    "two contents",
    "not storable",
    "oversized",
)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_a_dead_letter_at_once_and_no_part_of_it_is_kept(
    world: World, leases: list[EvaluationLease], name: str
) -> None:
    (foreign, *_) = evaluations(world, rule(org_id=OTHER))
    data, reason = bad_batches(leases[0], foreign)[name]
    world.emit(leases[0], data)
    world.emit(leases[1], line(leases[1], "behind"))
    assert world.run() == Sunk(kept=1, rejected=1, new=1)
    assert (world.events(), world.events(OTHER), world.routes()) == (["behind"], [], 1)
    (letter,) = buffer.dead_letters(world.ledger.conn)
    assert letter.reason == "rejected at delivery 1 of 3"
    assert str(letter.last_error).startswith(reason)
    assert world.waiting() == 0


def test_an_object_that_was_changed_is_refused_and_accepted_when_it_is_restored(
    world: World, leases: list[EvaluationLease]
) -> None:
    data = line(leases[0])
    batch = world.emit(leases[0], data)
    world.put(data.replace(b'"value": 1', b'"value": 2'), batch.batch_uri)
    assert world.run() == Sunk(rejected=1)
    assert world.letters() == ["the object has other bytes than those that were published"]
    for other in (data + b" ", b""):
        world.put(other, batch.batch_uri)
        assert buffer.replay(world.ledger.conn, queue="alerts") == 1
        assert world.run() == Sunk(rejected=1)
        assert world.letters() == [f"the object has {len(other)} bytes, and {len(data)} were published"]
    world.store.delete(batch.batch_uri)
    buffer.replay(world.ledger.conn)
    assert world.run() == Sunk(rejected=1)
    world.put(data, batch.batch_uri)
    (letter,) = buffer.dead_letters(world.ledger.conn)
    assert (letter.replays, letter.reason) == (3, "rejected at delivery 1 of 3, after 3 replays")
    assert buffer.replay(world.ledger.conn, message_id=letter.message_id) == 1
    assert world.run() == Sunk(kept=1, new=1)
    assert (world.events(), world.letters(), world.routes()) == (["k"], [], 1)


def forged(payload: dict[str, Any], foreign: EvaluationLease, name: str) -> dict[str, Any]:
    return (
        payload
        | {
            "organisation": {"org_id": str(OTHER)},
            "rule": {"rule_id": str(foreign.rule.rule_id)},
            "task": {"task_id": str(foreign.evaluation.task_id)},
            "unknown task": {"task_id": str(uuid4())},
            "attempt": {"attempt": 2},
            "object": {"batch_uri": "batches/other/1/udf.jsonl"},
            "text": {"task_id": "x"},
            "nothing": {"digest": None},
        }[name]
    )


@pytest.mark.parametrize(
    "name", ["organisation", "rule", "task", "unknown task", "attempt", "object", "text", "nothing"]
)
def test_a_forged_message_is_refused_by_what_the_ledger_knows(
    world: World, leases: list[EvaluationLease], name: str
) -> None:
    """The queue is ours, and still nothing that it says of an organisation, a rule or an object is believed."""
    (foreign, *_) = evaluations(world, rule(org_id=OTHER))
    world.emit(leases[0], line(leases[0]))
    (row,) = world.ledger.rows(b"SELECT payload FROM state.buffer_queue")
    payload = forged(row["payload"], foreign, name)
    world.ledger.conn.execute(b"UPDATE state.buffer_queue SET payload = %s::jsonb", (json.dumps(payload),))
    assert world.run() == Sunk(rejected=1)
    assert (world.events(), world.events(OTHER), len(world.letters())) == ([], [], 1)


def test_a_batch_of_an_attempt_that_did_not_succeed_is_refused(world: World, leases: list[EvaluationLease]) -> None:
    """Its object is there and is sound, and a later attempt was the one that the ledger took."""
    world.emit(leases[0], line(leases[0], "lost"))
    task = leases[0].evaluation.task_id
    query = b"UPDATE state.tasks SET state = 'queued', finished_at = NULL WHERE task_id = %s::uuid"
    world.ledger.conn.execute(query, (task,))
    (second,) = watching.claim(world.ledger, 1)
    assert world.run() == Sunk(rejected=1)  # nothing has succeeded yet
    assert watching.complete(world.ledger, second, None).accepted
    buffer.replay(world.ledger.conn)
    assert world.run() == Sunk(rejected=1)
    assert world.letters() == ["the batch is not of an attempt that succeeded"]
    assert world.events() == []


def test_a_message_of_another_shape_is_refused(world: World, leases: list[EvaluationLease]) -> None:
    world.emit(leases[0], line(leases[0]))
    world.ledger.conn.execute(b"UPDATE state.buffer_queue SET payload = '{}'")
    assert world.run() == Sunk(rejected=1)
    assert str(world.letters()[0]).startswith("the message is none of this queue")
