"""The buffer queue: fenced on its way in, one receipt per delivery on its way out, and nothing poisons it."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from state import buffer, tasks
from state.buffer import Batch, Delivery
from state.db import Connection, Database, connect
from state.judge import Reason
from state.tasks import Settlement
from tests.integration.state.ledger import NO_WAIT, Ledger, failure, job, publication
from trace_ray.contracts import AttemptKey, Lease, LeaseToken, TaskId
from trace_ray.errors import FencedError, NotFound
from trace_ray.retry import RetryPolicy

POLICY = RetryPolicy(base_s=1.0, cap_s=60.0, max_attempts=9, max_infra_failures=9)
START = datetime.now(UTC) + timedelta(hours=1)  # later than every row of the test
VISIBLE_S = 30.0


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    """A running attempt that may publish batches."""
    ledger.sync(job(to_block=100))
    return ledger.lease()


def batch(lease: Lease, uri: str = "batches/1", *, queue: str = "alerts", rows: int = 5) -> Batch:
    return Batch(lease.key, queue, uri, {"uri": uri, "rows": rows})


def publish(ledger: Ledger, *batches: Batch, max_deliveries: int = 3) -> list[Settlement]:
    with ledger.conn.transaction():
        return buffer.publish(ledger.conn, ledger.epoch, batches, max_deliveries=max_deliveries)


def receive(conn: Connection, limit: int = 100, *, at_s: float = 0.0, queue: str = "alerts") -> list[Delivery]:
    with conn.transaction():
        return buffer.receive(conn, queue, limit, VISIBLE_S, now=START + timedelta(seconds=at_s))


def refuse(conn: Connection, one: Delivery, *, error: str = "malformed", at_s: float = 0.0) -> bool:
    now = START + timedelta(seconds=at_s)
    return buffer.nack(conn, one.message_id, one.receipt, error=error, policy=POLICY, now=now)


def spend(ledger: Ledger, *, deliveries: int = 3) -> None:
    """Refuse everything that is in the queue until it is buried."""
    for number in range(deliveries):
        for one in receive(ledger.conn, at_s=number * 1000):
            assert refuse(ledger.conn, one, at_s=number * 1000)
    buffer.bury(ledger.conn, now=START + timedelta(hours=9))


def reasons(settlements: list[Settlement]) -> list[Reason | None]:
    assert all(one.accepted == (one.reason is None) for one in settlements)
    return [one.reason for one in settlements]


# --- in -----------------------------------------------------------------------------------------------------------


def test_publishing_a_batch_twice_is_one_message(ledger: Ledger, lease: Lease) -> None:
    assert reasons(publish(ledger, batch(lease))) == [None]
    assert reasons(publish(ledger, batch(lease), batch(lease, "batches/2"), batch(lease))) == [None, None, None]
    assert len(receive(ledger.conn)) == 2


def test_a_message_carries_what_was_published(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    (one,) = receive(ledger.conn)
    assert one.idempotency_key == f"{lease.task.task_id}:1:batches/1"
    assert one.payload == {"uri": "batches/1", "rows": 5}
    assert (one.queue, one.deliveries, one.max_deliveries) == ("alerts", 1, 3)


def test_another_content_under_a_known_key_is_refused(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    assert reasons(publish(ledger, batch(lease, rows=6))) == [Reason.MISMATCH]
    assert reasons(publish(ledger, batch(lease, queue="others"))) == [Reason.MISMATCH]
    spend(ledger)
    assert reasons(publish(ledger, batch(lease, rows=6))) == [Reason.MISMATCH]


def test_only_the_attempt_that_holds_its_running_task_may_publish(ledger: Ledger, lease: Lease) -> None:
    stranger = replace(lease, lease_token=LeaseToken(uuid4()))
    assert reasons(publish(ledger, batch(stranger))) == [Reason.WRONG_TOKEN]
    ledger.fail(failure(lease), policy=NO_WAIT)
    assert reasons(publish(ledger, batch(lease))) == [Reason.STALE_ATTEMPT]
    second = ledger.lease()
    assert second.task == lease.task
    mixed = publish(ledger, batch(lease, "a"), batch(second, "b"), batch(stranger, "c"))
    assert reasons(mixed) == [Reason.STALE_ATTEMPT, None, Reason.STALE_ATTEMPT]
    assert [one.payload["uri"] for one in receive(ledger.conn)] == ["b"]


def test_an_attempt_whose_lease_was_taken_back_may_not_publish(ledger: Ledger) -> None:
    """Its late completion is still welcome, but who is not running sends nothing more."""
    ledger.sync(job())
    lease = ledger.lease(ttl_s=-1)
    assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 1
    assert reasons(publish(ledger, batch(lease))) == [Reason.STALE_ATTEMPT]
    assert receive(ledger.conn) == []


def test_a_finished_attempt_may_not_publish(ledger: Ledger, lease: Lease) -> None:
    ledger.complete(publication(lease))
    assert reasons(publish(ledger, batch(lease))) == [Reason.ALREADY_DONE]
    unknown = replace(batch(lease), attempt=AttemptKey(TaskId(uuid4()), 1, lease.lease_token))
    assert reasons(publish(ledger, unknown)) == [Reason.NOT_FOUND]


def test_an_older_epoch_publishes_nothing(ledger: Ledger, lease: Lease, state_url: str) -> None:
    tasks.take_over(ledger.conn, holder="cluster/space/2", ttl_s=60)
    database = Database(state_url, application_name="trace-test")
    with pytest.raises(FencedError), database.transaction() as conn:
        buffer.publish(conn, ledger.epoch, [batch(lease)], max_deliveries=3)
    database.close()
    assert receive(ledger.conn) == []


def test_a_task_cannot_move_on_between_the_check_and_the_commit(
    ledger: Ledger, lease: Lease, connection: Callable[[], Connection]
) -> None:
    other = connection()
    other.execute(b"SET lock_timeout = '200ms'")
    with ledger.conn.transaction():
        buffer.publish(ledger.conn, ledger.epoch, [batch(lease)], max_deliveries=3)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            tasks.cancel(other, [lease.task.task_id])
    assert tasks.cancel(other, [lease.task.task_id]) == 1


# --- deliveries ---------------------------------------------------------------------------------------------------


def test_a_delivered_message_is_invisible_until_its_time_is_over(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    (first,) = receive(ledger.conn)
    assert receive(ledger.conn, at_s=VISIBLE_S - 0.001) == []
    (second,) = receive(ledger.conn, at_s=VISIBLE_S)
    assert (second.message_id, second.deliveries) == (first.message_id, 2)
    assert second.receipt != first.receipt


def test_24_ack_needs_receipt(ledger: Ledger, lease: Lease) -> None:
    """The first consumer is late: its receipt belongs to a delivery that somebody else has now."""
    publish(ledger, batch(lease))
    (late,) = receive(ledger.conn)
    (current,) = receive(ledger.conn, at_s=VISIBLE_S)
    assert not buffer.ack(ledger.conn, late.message_id, late.receipt)
    assert not buffer.extend(ledger.conn, late.message_id, late.receipt, VISIBLE_S)
    assert not refuse(ledger.conn, late)
    assert not buffer.ack(ledger.conn, current.message_id, uuid4())
    assert ledger.one(b"SELECT receipt FROM state.buffer_queue") == current.receipt
    assert buffer.ack(ledger.conn, current.message_id, current.receipt)
    assert not buffer.ack(ledger.conn, current.message_id, current.receipt)
    assert ledger.one(b"SELECT count(*) FROM state.buffer_queue") == 0


def test_a_late_consumer_may_acknowledge_while_nobody_else_has_the_message(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    (one,) = receive(ledger.conn)
    assert buffer.extend(ledger.conn, one.message_id, one.receipt, VISIBLE_S, now=START + timedelta(hours=1))
    assert buffer.ack(ledger.conn, one.message_id, one.receipt)


def test_an_extended_delivery_stays_with_its_consumer(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    (one,) = receive(ledger.conn)
    assert buffer.extend(ledger.conn, one.message_id, one.receipt, 100.0, now=START)
    assert receive(ledger.conn, at_s=99.9) == []
    assert buffer.ack(ledger.conn, one.message_id, one.receipt)


def test_a_refused_message_comes_back_after_a_doubling_back_off(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease), max_deliveries=20)
    at_s, waits = 0.0, list[float]()
    for _ in range(9):
        (one,) = receive(ledger.conn, at_s=at_s)
        assert refuse(ledger.conn, one, at_s=at_s)
        visible = ledger.one(b"SELECT available_at FROM state.buffer_queue")
        assert isinstance(visible, datetime)
        waits.append((visible - START).total_seconds() - at_s)
        assert receive(ledger.conn, at_s=at_s + waits[-1] - 0.01) == []
        at_s += waits[-1]
    for number, wait in enumerate(waits):
        plain = min(POLICY.cap_s, POLICY.base_s * 2**number)
        assert 0.5 * plain <= wait <= 1.5 * plain


def test_messages_come_oldest_first_and_from_their_queue_only(ledger: Ledger, lease: Lease) -> None:
    for number in range(4):
        publish(ledger, batch(lease, f"batches/{number}"), batch(lease, f"others/{number}", queue="others"))
    found = receive(ledger.conn, 3) + receive(ledger.conn, 3)
    assert [one.payload["uri"] for one in found] == [f"batches/{number}" for number in range(4)]


def test_racing_consumers_get_each_message_once_per_visibility(
    ledger: Ledger, lease: Lease, connection: Callable[[], Connection]
) -> None:
    publish(ledger, *(batch(lease, f"batches/{number:03}") for number in range(200)))
    found: list[Delivery] = []
    consumers = [connection() for _ in range(4)]

    def consume(conn: Connection) -> None:
        while got := receive(conn, 7):
            found.extend(got)

    threads = [threading.Thread(target=consume, args=[conn]) for conn in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == len({one.message_id for one in found}) == 200
    assert len({one.receipt for one in found}) == 200


def _consume_and_hang(url: str, now: datetime, ready: "multiprocessing.SimpleQueue[UUID]") -> None:
    conn = connect(url, application_name="trace-test")
    (one,) = buffer.receive(conn, "alerts", 1, VISIBLE_S, now=now)
    ready.put(one.message_id)
    signal.pause()


def test_what_a_killed_consumer_had_is_delivered_again(ledger: Ledger, lease: Lease, state_url: str) -> None:
    publish(ledger, batch(lease))
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.SimpleQueue[UUID] = context.SimpleQueue()
    consumer = context.Process(target=_consume_and_hang, args=(state_url, START, ready))
    consumer.start()
    message = ready.get()
    assert consumer.pid is not None
    os.kill(consumer.pid, signal.SIGKILL)
    consumer.join(10)
    assert receive(ledger.conn, at_s=1) == []
    (again,) = receive(ledger.conn, at_s=VISIBLE_S)
    assert (again.message_id, again.deliveries) == (message, 2)


def test_a_delivery_that_was_not_committed_did_not_happen(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    with ledger.conn.transaction(force_rollback=True):
        assert len(buffer.receive(ledger.conn, "alerts", 9, VISIBLE_S)) == 1
    (one,) = receive(ledger.conn)
    assert one.deliveries == 1


# --- dead letters -------------------------------------------------------------------------------------------------


def test_23_poison_to_dead_letters(ledger: Ledger, lease: Lease) -> None:
    """A malformed batch is refused at each delivery, ends as one dead letter, and the next message proceeds."""
    ledger.conn.execute(b"CREATE TABLE public.sink (uri text PRIMARY KEY, rows int NOT NULL CHECK (rows > 0))")
    publish(ledger, batch(lease, "poison", rows=-1), batch(lease, "fine"))
    for number in range(5):
        for one in receive(ledger.conn, 1, at_s=number * 1000) + receive(ledger.conn, 1, at_s=number * 1000):
            try:
                with ledger.conn.transaction():
                    row = (one.payload["uri"], one.payload["rows"])
                    ledger.conn.execute(b"INSERT INTO public.sink VALUES (%s::text, %s::int)", row)
            except psycopg.errors.CheckViolation:
                assert refuse(ledger.conn, one, error="the batch is malformed", at_s=number * 1000)
            else:
                assert buffer.ack(ledger.conn, one.message_id, one.receipt)
        buffer.bury(ledger.conn, now=START + timedelta(seconds=number * 1000))
    assert ledger.rows(b"SELECT uri FROM public.sink") == [{"uri": "fine"}]
    (letter,) = buffer.dead_letters(ledger.conn)
    assert (letter.payload["uri"], letter.deliveries, letter.replays) == ("poison", 3, 0)
    assert (letter.reason, letter.last_error) == ("refused at delivery 3 of 3", "the batch is malformed")
    assert ledger.one(b"SELECT count(*) FROM state.buffer_queue") == 0


def test_a_message_that_kills_its_consumers_is_buried_too(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease), max_deliveries=2)
    receive(ledger.conn)
    receive(ledger.conn, at_s=VISIBLE_S)
    assert buffer.bury(ledger.conn, now=START + timedelta(seconds=2 * VISIBLE_S - 1)) == []  # still with its consumer
    assert receive(ledger.conn, at_s=3 * VISIBLE_S) == []
    assert len(buffer.bury(ledger.conn, now=START + timedelta(seconds=2 * VISIBLE_S))) == 1
    (letter,) = buffer.dead_letters(ledger.conn)
    assert (letter.reason, letter.last_error) == ("not acknowledged at delivery 2 of 2", None)


def test_the_last_delivery_may_still_succeed(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease), max_deliveries=2)
    receive(ledger.conn)
    assert buffer.bury(ledger.conn, now=START + timedelta(days=1)) == []  # there is one left
    (one,) = receive(ledger.conn, at_s=VISIBLE_S)
    assert buffer.bury(ledger.conn, now=START + timedelta(seconds=2 * VISIBLE_S - 1)) == []  # it is under way
    assert buffer.ack(ledger.conn, one.message_id, one.receipt)


def test_a_dead_letter_is_not_published_again_by_its_attempt(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease))
    spend(ledger)
    assert reasons(publish(ledger, batch(lease))) == [None]
    assert receive(ledger.conn, at_s=1e6) == []
    assert len(buffer.dead_letters(ledger.conn)) == 1


def test_racing_burials_make_one_dead_letter_of_each_message(
    ledger: Ledger, lease: Lease, connection: Callable[[], Connection]
) -> None:
    publish(ledger, *(batch(lease, f"batches/{number}") for number in range(20)), max_deliveries=1)
    assert len(receive(ledger.conn)) == 20
    other, later = connection(), START + timedelta(hours=1)
    with ledger.conn.transaction(), other.transaction():
        counts = [len(buffer.bury(conn, now=later)) for conn in (ledger.conn, other)]
    assert counts == [20, 0]
    assert len(buffer.dead_letters(ledger.conn)) == 20


def test_a_replayed_dead_letter_has_fresh_deliveries_and_keeps_its_history(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease, "a"), batch(lease, "b"))
    spend(ledger)
    letter = buffer.dead_letters(ledger.conn)[0]
    assert buffer.replay(ledger.conn, message_id=letter.message_id) == 1
    assert len(buffer.dead_letters(ledger.conn)) == 1
    (one,) = receive(ledger.conn)
    assert (one.message_id, one.deliveries, one.payload) == (letter.message_id, 1, letter.payload)
    refuse(ledger.conn, one, error="still malformed")
    spend(ledger, deliveries=4)
    again = next(each for each in buffer.dead_letters(ledger.conn) if each.message_id == letter.message_id)
    assert (again.replays, again.published_at) == (1, letter.published_at)
    assert again.reason == "refused at delivery 3 of 3, after 1 replay"


def test_replay_takes_one_queue_or_all(ledger: Ledger, lease: Lease) -> None:
    publish(
        ledger, *(batch(lease, f"{queue}/{n}", queue=queue) for queue in ("a", "b") for n in range(3)), max_deliveries=1
    )
    for queue in ("a", "b"):
        receive(ledger.conn, queue=queue)
    buffer.bury(ledger.conn, now=START + timedelta(hours=1))
    assert [one.queue for one in buffer.dead_letters(ledger.conn, queue="b")] == ["b"] * 3
    assert buffer.replay(ledger.conn, queue="a") == 3
    assert buffer.replay(ledger.conn, queue="a") == 0
    assert buffer.replay(ledger.conn) == 3
    assert buffer.dead_letters(ledger.conn) == []
    assert [len(receive(ledger.conn, queue=queue)) for queue in ("a", "b")] == [3, 3]


def test_an_unknown_dead_letter_is_refused_with_a_hint(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="ledger dead-letters"):
        buffer.replay(ledger.conn, message_id=uuid4())


def test_depths_count_every_message_where_it_is(ledger: Ledger, lease: Lease) -> None:
    publish(ledger, batch(lease, "dead"), max_deliveries=1)
    spend(ledger, deliveries=1)
    publish(ledger, *(batch(lease, name) for name in ("refused", "handled", "kept")), max_deliveries=2)
    publish(ledger, batch(lease, "spent"), max_deliveries=1)
    for one in receive(ledger.conn):
        match one.payload["uri"]:
            case "handled":
                buffer.ack(ledger.conn, one.message_id, one.receipt)
            case "refused" | "spent":
                refuse(ledger.conn, one)
            case _:
                pass
    publish(ledger, batch(lease, "new"))
    (depth,) = buffer.depths(ledger.conn, now=START)
    assert (depth.ready, depth.delivered, depth.waiting, depth.spent, depth.dead) == (1, 1, 1, 1, 1)
    assert depth.oldest is not None


# --- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analysed", [True, False])
def test_a_delivery_never_reads_the_queue_from_end_to_end(ledger: Ledger, analysed: bool) -> None:
    ledger.conn.execute(
        b"INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, deliveries, max_deliveries)"
        b" SELECT gen_random_uuid(), 'q' || n % 3, n::text, '{}', CASE WHEN n % 2 = 0 THEN 3 ELSE 0 END, 3"
        b" FROM generate_series(1, 20000) n"
    )
    if analysed:
        ledger.conn.execute(b"ANALYZE state.buffer_queue")
    parameters = {"queue": "q1", "limit": 10, "visibility": timedelta(seconds=1), "now": None}
    rows = ledger.conn.execute(b"EXPLAIN (FORMAT JSON) " + buffer.SQL["receive"], parameters)
    plan = json.dumps([row["QUERY PLAN"] for row in rows])
    assert "buffer_ready" in plan
    assert "Seq Scan" not in plan
