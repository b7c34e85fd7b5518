"""What the sink loses and doubles when a part fails, or it dies, in between: nothing."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from actors.sink import Sink, Sunk
from state import buffer
from state.db import Connection, Database
from state.evaluations import Source
from tests.integration.sink.sunk import World, line, routed
from trace_ray.alerts import AlertEvent, EvaluationLease, Rule
from trace_ray.contracts import OrgId
from trace_ray.errors import DatabaseUnavailable, StoreUnavailable
from trace_ray.storage import open_store


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
