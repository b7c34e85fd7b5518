"""The sink: a batch becomes events as a whole or a dead letter, once, whoever dies in between."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest

from actors.sink import Sink, Sunk
from state import alerts, buffer
from state.db import Connection, Database, connect
from state.evaluations import Source
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, publication
from tests.integration.state.watching import rule, watch
from trace_ray.alerts import AlertEvent, EvaluationLease, EventBatch, Mode, Rule, event_id
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import DatabaseUnavailable, StoreUnavailable
from trace_ray.storage import ObjectStore, open_store

OTHER = OrgId(UUID(int=7))


def line(lease: EvaluationLease, key: str = "k", **changes: object) -> bytes:
    """One draft as the bundle of a lease would emit it."""
    fields = {
        "alert_definition_id": str(lease.rule.rule_id),
        "dedupe_key": key,
        "event_time": "2026-01-31T12:00:00Z",
        "chain_id": lease.evaluation.chain_id,
        "block_number": lease.evaluation.blocks.start,
        "block_hash": "0x" + "ab" * 32,
        "tx_hash": None,
        "payload": {"value": 1},
    }
    return json.dumps(fields | changes).encode() + b"\n"


def routed(conn: Connection, org_id: OrgId, one: Rule, events: Sequence[AlertEvent]) -> None:
    """What the deliveries do, as rows that commit or vanish with the events."""
    for event in events:
        row = (org_id, one.name, event.event_id)
        conn.execute(b"INSERT INTO public.routed VALUES (%s::uuid, %s::text, %s::uuid)", row)


@dataclass
class World:
    """A ledger whose rule has running evaluations, an object store, and a sink."""

    ledger: Ledger
    url: str
    store: ObjectStore
    scratch: Path
    opened: list[Database] = field(default_factory=list[Database])

    def database(self) -> Database:
        self.opened.append(Database(self.url, application_name="trace-test"))
        return self.opened[-1]

    def sink(self, **changes: Any) -> Sink:
        parts: dict[str, Any] = {"store": self.store, "scratch": self.scratch, "route": routed}
        return Sink(state=self.database(), data=self.database(), **(parts | changes))

    def run(self, **changes: Any) -> Sunk:
        return self.sink(**changes).run_once()

    def put(self, data: bytes, key: str) -> None:
        path = self.scratch / "made"
        path.write_bytes(data)
        self.store.put(path, key)

    def emit(self, lease: EvaluationLease, data: bytes, **changes: Any) -> EventBatch:
        """End an attempt as its worker would: store the batch, then complete."""
        batch = replace(watching.batch(lease, data), **changes)
        self.put(data, batch.batch_uri)
        assert watching.complete(self.ledger, lease, batch).accepted
        return batch

    def events(self, org_id: OrgId = DEFAULT_ORG) -> list[str]:
        return sorted(one.event.draft.dedupe_key for one in alerts.recent(self.ledger.conn, org_id))

    def routes(self) -> int:
        """How many events were routed; one that is routed twice counts twice."""
        return int(str(self.ledger.one(b"SELECT count(*) FROM public.routed")))

    def letters(self) -> list[str | None]:
        return [one.last_error for one in buffer.dead_letters(self.ledger.conn)]

    def waiting(self) -> int:
        return int(str(self.ledger.one(b"SELECT count(*) FROM state.buffer_queue")))

    def later(self) -> None:
        """Let every delivery that was not acknowledged come again."""
        self.ledger.conn.execute(b"UPDATE state.buffer_queue SET available_at = now()")


@pytest.fixture
def world(state_url: str, tmp_path: Path) -> Iterator[World]:
    with connect(state_url, application_name="trace-test") as conn:
        store = open_store(f"file://{tmp_path}/objects", data_dir=tmp_path)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        conn.execute(b"CREATE TABLE public.routed (org_id uuid, rule text, event_id uuid)")
        made = World(Ledger.lead(conn), state_url, store, scratch)
        yield made
        for database in made.opened:
            database.close()


@pytest.fixture
def leases(world: World) -> list[EvaluationLease]:
    """Three running evaluations of one rule."""
    return evaluations(world, rule())


def evaluations(world: World, one: Rule) -> list[EvaluationLease]:
    world.ledger.sync(replace(job("blocks", to_block=300), org_id=one.org_id))
    watch(world.ledger, one)
    for group in world.ledger.claim(9):
        world.ledger.complete(*map(publication, group.leases))
    watching.drain(world.ledger)
    return watching.claim(world.ledger, 9)


# --- what is kept -------------------------------------------------------------------------------------------------


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


# --- what is refused ----------------------------------------------------------------------------------------------


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


# --- what fails in between ----------------------------------------------------------------------------------------


def test_an_object_store_that_is_away_postpones_and_a_poison_is_buried_in_the_end(
    world: World, leases: list[EvaluationLease]
) -> None:
    world.emit(leases[0], line(leases[0]))

    def away(_key: str, _path: Path) -> None:
        raise StoreUnavailable("the object store does not answer")

    for _ in range(3):
        with patch.object(world.store, "get", away):
            assert world.run() == Sunk(postponed=1)
        assert world.events() == []
        world.later()
    assert world.run() == Sunk()
    assert world.letters() == ["the object store does not answer"]


def test_an_error_that_nobody_expected_postpones_its_message_alone(world: World, leases: list[EvaluationLease]) -> None:
    for number, lease in enumerate(leases):
        world.emit(lease, line(lease, f"k{number}"))

    def odd(conn: Connection, org_id: OrgId, one: Rule, events: Sequence[AlertEvent]) -> None:
        if events[0].draft.dedupe_key == "k1":
            raise ZeroDivisionError
        routed(conn, org_id, one, events)

    assert world.run(route=odd) == Sunk(kept=2, postponed=1, new=2)
    assert world.events() == ["k0", "k2"]
    (error,) = world.ledger.rows(b"SELECT last_error FROM state.buffer_queue")
    assert error["last_error"] == "unexpected ZeroDivisionError: see the sink's log"


def test_a_ledger_that_is_away_at_the_acknowledgement_repeats_the_batch_without_effect(
    world: World, leases: list[EvaluationLease]
) -> None:
    world.emit(leases[0], line(leases[0]))
    with patch("state.buffer.ack", side_effect=DatabaseUnavailable("away")), pytest.raises(DatabaseUnavailable):
        world.run()
    assert (world.events(), world.waiting()) == (["k"], 1)
    world.later()
    assert world.run() == Sunk(kept=1, repeated=1)
    assert (world.events(), world.routes(), world.waiting()) == (["k"], 1, 0)


def _sink_and_hang(url: str, directory: Path, ready: "multiprocessing.SimpleQueue[str]") -> None:
    """A sink that never comes to acknowledge what it kept."""
    state, data = (Database(url, application_name="trace-test") for _ in range(2))
    store = open_store(f"file://{directory}/objects", data_dir=directory)

    def hang(*_: object) -> bool:
        ready.put("kept")
        signal.pause()
        return True

    with patch("state.buffer.ack", hang):
        Sink(state=state, data=data, store=store, scratch=directory / "scratch", route=routed).run_once()


def test_a_sink_that_is_killed_between_commit_and_acknowledgement_loses_and_doubles_nothing(
    world: World, leases: list[EvaluationLease], tmp_path: Path
) -> None:
    world.emit(leases[0], line(leases[0], "a") + line(leases[0], "b"))
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    process = context.Process(target=_sink_and_hang, args=(world.url, tmp_path, ready))
    process.start()
    assert ready.get() == "kept"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert world.events() == ["a", "b"]
    assert world.run() == Sunk()  # the killed one's delivery is not over yet
    world.later()
    assert world.run() == Sunk(kept=1, repeated=2)
    assert (world.events(), world.routes(), world.waiting()) == (["a", "b"], 2, 0)


def test_a_late_sink_may_repeat_what_another_one_has_kept(world: World, leases: list[EvaluationLease]) -> None:
    world.emit(leases[0], line(leases[0]))
    late = world.sink()
    keep = late._keep

    def slowly(delivery: buffer.Delivery) -> tuple[Source, Sunk]:
        world.later()
        assert world.run() == Sunk(kept=1, new=1)
        return keep(delivery)

    with patch.object(late, "_keep", slowly):
        assert late.run_once() == Sunk(kept=1, repeated=1)
    assert (world.events(), world.routes(), world.waiting()) == (["k"], 1, 0)


def test_racing_sinks_keep_each_event_once(world: World, leases: list[EvaluationLease]) -> None:
    """Every batch holds the same keys in another order."""
    keys = [f"k{number:02}" for number in range(40)]
    for number, lease in enumerate(leases):
        order = keys[number * 10 :] + keys[: number * 10]
        world.emit(lease, b"".join(line(lease, key, block_number=lease.evaluation.blocks.start) for key in order))
    found: list[Sunk] = []

    def work(sink: Sink) -> None:
        found.append(sink.run_once(1))

    threads = [threading.Thread(target=work, args=[world.sink()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(one.new for one in found) == 40
    assert sum(one.repeated for one in found) == 80
    assert (world.events(), world.routes()) == (keys, 40)


def test_no_line_of_the_log_holds_a_lease_token(
    world: World, leases: list[EvaluationLease], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    world.emit(leases[0], line(leases[0]))
    world.emit(leases[1], b"{")
    assert world.run() == Sunk(kept=1, rejected=1, new=1)
    assert len(caplog.records) >= 2
    assert all(str(lease.lease_token) not in str(vars(record)) for record in caplog.records for lease in leases)
