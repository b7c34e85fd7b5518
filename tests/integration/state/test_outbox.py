"""The outbox: committed with its cause, delivered at least once, never skipped, and never stopped by one bad event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from state import outbox, tasks
from state.db import Connection, Database
from state.outbox import Drained, Event, Handler
from tests.integration.state.ledger import Ledger, job, publication
from trace_ray.errors import DatabaseUnavailable, FencedError, NotFound, StoreUnavailable
from trace_ray.retry import RetryPolicy

POLICY = RetryPolicy(base_s=1.0, cap_s=300.0, max_attempts=3, max_infra_failures=3)
START = datetime.now(UTC) + timedelta(hours=1)  # later than every row of the test


@dataclass
class Consumer:
    """Keeps what it got; `bad` keys make it fail, after it wrote an effect of the whole batch."""

    bad: Mapping[str, Exception] = field(default_factory=dict[str, Exception])
    calls: list[list[str]] = field(default_factory=list[list[str]])

    def __call__(self, conn: Connection, events: Sequence[Event]) -> None:
        self.calls.append([event.idempotency_key for event in events])
        for event in events:
            outbox.append(conn, Event("effect", f"effect/{event.idempotency_key}", {}))
        for event in events:
            if event.idempotency_key in self.bad:
                raise self.bad[event.idempotency_key]


def drain(ledger: Ledger, *, limit: int = 100, now: datetime | None = None, **handlers: Handler) -> Drained:
    with ledger.conn.transaction():
        return outbox.drain(ledger.conn, ledger.epoch, handlers, limit=limit, policy=POLICY, now=now)


def drain_published(ledger: Ledger, handler: Handler, *, limit: int = 100, now: datetime | None = None) -> Drained:
    handlers = {"dataset.published": handler}
    with ledger.conn.transaction():
        return outbox.drain(ledger.conn, ledger.epoch, handlers, limit=limit, policy=POLICY, now=now)


def keys(drained: Drained) -> list[str]:
    return [event.idempotency_key for event in drained.handled]


def add(conn: Connection, *names: str, topic: str = "topic") -> None:
    for name in names:
        outbox.append(conn, Event(topic, name, {"name": name}))


def effects(ledger: Ledger) -> list[str]:
    rows = ledger.rows(b"SELECT idempotency_key FROM state.outbox WHERE topic = 'effect' ORDER BY id")
    return [row["idempotency_key"].removeprefix("effect/") for row in rows]


# --- delivery -----------------------------------------------------------------------------------------------------


def test_events_are_drained_once_in_order_and_by_topic(ledger: Ledger) -> None:
    add(ledger.conn, "a", "b", "c")
    add(ledger.conn, "d", topic="other")
    assert drain(ledger, limit=2, topic=Consumer()).handled == (
        Event("topic", "a", {"name": "a"}),
        Event("topic", "b", {"name": "b"}),
    )
    assert keys(drain(ledger, topic=Consumer())) == ["c"]
    assert drain(ledger, topic=Consumer()) == Drained((), ())
    assert keys(drain(ledger, other=Consumer())) == ["d"]


def test_an_event_is_not_handled_before_its_cause_is_committed(ledger: Ledger) -> None:
    consumer = Consumer()
    with ledger.conn.transaction():
        add(ledger.conn, "a")
        outbox.drain(ledger.conn, ledger.epoch, {"topic": consumer}, limit=10, policy=POLICY)
    assert consumer.calls == []
    assert keys(drain(ledger, topic=consumer)) == ["a"]


def test_the_same_cause_is_one_event(ledger: Ledger) -> None:
    outbox.append(ledger.conn, Event("topic", "key", {"first": True}))
    outbox.append(ledger.conn, Event("topic", "key", {"first": False}))
    assert drain(ledger, topic=Consumer()).handled == (Event("topic", "key", {"first": True}),)


def test_a_handler_gets_all_events_of_its_topic_at_once_and_none_of_another(ledger: Ledger) -> None:
    add(ledger.conn, "a", "b")
    add(ledger.conn, "x", topic="other")
    add(ledger.conn, "c")
    mine, others = Consumer(), Consumer()
    drain(ledger, topic=mine, other=others)
    assert (mine.calls, others.calls) == ([["a", "b", "c"]], [["x"]])
    assert drain(ledger, topic=mine, other=others) == Drained((), ())


def test_what_a_handler_writes_and_the_removal_commit_together(ledger: Ledger) -> None:
    add(ledger.conn, "a")
    with ledger.conn.transaction(force_rollback=True):
        outbox.drain(ledger.conn, ledger.epoch, {"topic": Consumer()}, limit=9, policy=POLICY)
    assert effects(ledger) == []
    assert keys(drain(ledger, topic=Consumer())) == ["a"]
    assert effects(ledger) == ["a"]


def test_21_outbox_no_skip_out_of_order(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    """tx1 takes id 1, tx2 commits id 2 first: a drain in between must not make the first one invisible for ever."""
    slow = connection()
    with slow.transaction():
        add(slow, "early")
        add(ledger.conn, "late")
        assert keys(drain(ledger, topic=Consumer())) == ["late"]
    assert keys(drain(ledger, topic=Consumer())) == ["early"]


def test_22_outbox_redelivery_is_harmless(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    """A consumer dies after an effect outside the transaction and before the removal; the key makes the effect one."""
    outside = connection()

    def handle(_conn: Connection, events: Sequence[Event]) -> None:
        add(outside, *(f"sent/{event.idempotency_key}" for event in events), topic="mailbox")

    def handle_and_die(conn: Connection, events: Sequence[Event]) -> None:
        handle(conn, events)
        outside.execute(b"SELECT pg_terminate_backend(%s::int)", (conn.info.backend_pid,))

    add(ledger.conn, "a", "b")
    dying = connection()
    with pytest.raises(psycopg.OperationalError), dying.transaction():
        outbox.drain(dying, ledger.epoch, {"topic": handle_and_die}, limit=9, policy=POLICY)
    sent = b"SELECT idempotency_key FROM state.outbox WHERE topic = 'mailbox' ORDER BY id"
    assert [row["idempotency_key"] for row in ledger.rows(sent)] == ["sent/a", "sent/b"]
    assert keys(drain(ledger, topic=handle)) == ["a", "b"]  # delivered again ...
    assert [row["idempotency_key"] for row in ledger.rows(sent)] == ["sent/a", "sent/b"]  # ... to no further effect


def test_racing_drains_never_share_an_event(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    add(ledger.conn, *(f"{number:02}" for number in range(10)))
    other = connection()
    handlers = {"topic": Consumer()}
    with ledger.conn.transaction(), other.transaction():
        first = outbox.drain(ledger.conn, ledger.epoch, handlers, limit=6, policy=POLICY)
        second = outbox.drain(other, ledger.epoch, handlers, limit=6, policy=POLICY)
    assert [len(first.handled), len(second.handled)] == [6, 4]
    assert not set(keys(first)) & set(keys(second))


def test_a_publication_leaves_one_event_that_names_its_version(ledger: Ledger) -> None:
    ledger.sync(job())
    offer = publication(ledger.lease())
    ledger.complete(offer)
    ledger.complete(offer)
    (event,) = drain_published(ledger, Consumer()).handled
    assert event.payload == {
        "dataset_version": str(offer.dataset_version),
        "dataset_uuid": str(offer.dataset_uuid),
        "range_start": 0,
        "range_end": 100,
    }


def published_together(ledger: Ledger, *, times: int = 1) -> list[str]:
    """Publish four ranges so many times, each time with one statement, and return the keys of their events in order."""
    found: list[str] = []
    for _ in range(times):
        ledger.plan()
        offers = [publication(lease) for group in ledger.claim(slots=4) for lease in group.leases]
        ledger.complete(*offers)
        found += [f"published/{offer.dataset_version}" for offer in offers]
    return found


def test_versions_that_are_published_together_share_a_row_and_are_events_of_their_own(ledger: Ledger) -> None:
    ledger.sync(job())
    wanted = published_together(ledger)
    assert ledger.one(b"SELECT count(*) FROM state.outbox") == 1
    assert [event.idempotency_key for event in outbox.listing(ledger.conn)] == wanted
    consumer = Consumer()
    drained = drain_published(ledger, consumer)
    assert consumer.calls == [wanted]
    assert [(event.payload["range_start"], event.payload["range_end"]) for event in drained.handled] == [
        (start, start + 100) for start in range(0, 400, 100)
    ]
    assert drain_published(ledger, consumer) == Drained((), ())
    assert outbox.listing(ledger.conn, failed_only=False)[0].topic == "effect"


def test_a_limit_takes_whole_rows_and_at_least_one(ledger: Ledger) -> None:
    ledger.sync(job(to_block=1200))
    wanted = published_together(ledger, times=2)
    assert keys(drain_published(ledger, Consumer(), limit=3)) == wanted[:4]
    wanted = wanted[4:] + published_together(ledger)
    assert keys(drain_published(ledger, Consumer(), limit=7)) == wanted[:4]
    wanted = wanted[4:]
    assert keys(drain_published(ledger, Consumer(), limit=8)) == wanted


@pytest.mark.parametrize("bad", [1, 2, 4])
def test_a_bad_event_leaves_the_row_that_it_shared_and_comes_back_alone(ledger: Ledger, bad: int) -> None:
    """It keeps its key and payload, gets a number of its own, and holds up none of those that shared its row."""
    ledger.sync(job())
    wanted = published_together(ledger)
    before = {event.idempotency_key: event.payload for event in outbox.listing(ledger.conn)}
    consumer = Consumer(bad=dict.fromkeys(wanted[:bad], StoreUnavailable("no answer")))
    for hour in range(POLICY.max_attempts):
        drained = drain_published(ledger, consumer, now=START + timedelta(hours=hour))
        assert keys(drained) == (wanted[bad:] if hour == 0 else [])
        assert [one.event.idempotency_key for one in drained.unhandled] == wanted[:bad]
    failed = outbox.listing(ledger.conn, failed_only=True)
    assert [(event.idempotency_key, event.payload) for event in failed] == [(key, before[key]) for key in wanted[:bad]]
    assert outbox.replay(ledger.conn, failed[0].event_id) == 1  # an operator names one of them
    consumer.bad = {}
    assert keys(drain_published(ledger, consumer, now=START + timedelta(days=1))) == wanted[:1]


# --- failure ------------------------------------------------------------------------------------------------------


def test_one_bad_event_holds_up_neither_earlier_nor_later_ones(ledger: Ledger) -> None:
    add(ledger.conn, "a", "bad", "c")
    add(ledger.conn, "x", topic="other")
    consumer = Consumer(bad={"bad": StoreUnavailable("the object store did not answer")})
    drained = drain(ledger, topic=consumer, other=Consumer())
    assert consumer.calls == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert sorted(keys(drained)) == ["a", "c", "x"]
    (one,) = drained.unhandled
    assert (one.event.idempotency_key, one.attempts, one.failed) == ("bad", 1, False)
    assert sorted(effects(ledger)) == ["a", "c", "x"]  # and what was written for the bad one is undone


def test_a_bad_event_comes_back_after_a_back_off_as_it_was(ledger: Ledger) -> None:
    add(ledger.conn, "bad", "later")
    consumer = Consumer(bad={"bad": StoreUnavailable("no answer")})
    before = outbox.listing(ledger.conn)[0]
    drain(ledger, topic=consumer, now=START)
    (after,) = outbox.listing(ledger.conn, limit=1)
    assert (after.event_id, after.payload, after.attempts) == (before.event_id, {"name": "bad"}, 1)
    assert after.last_error == "no answer"
    wait = after.available_at - START
    assert timedelta(seconds=0.5) <= wait <= timedelta(seconds=1.5)
    consumer.calls.clear()
    drain(ledger, topic=consumer, now=START + wait - timedelta(milliseconds=1))
    assert consumer.calls == []
    consumer.bad = {}
    assert keys(drain(ledger, topic=consumer, now=START + wait)) == ["bad"]


def test_an_event_whose_attempts_are_used_up_fails_for_good_and_blocks_nothing(ledger: Ledger) -> None:
    add(ledger.conn, "bad")
    consumer = Consumer(bad={"bad": StoreUnavailable("no answer")})
    drained = [drain(ledger, topic=consumer, now=START + timedelta(hours=hour)) for hour in range(4)]
    failed = [[(one.attempts, one.failed) for one in each.unhandled] for each in drained]
    assert failed == [[(1, False)], [(2, False)], [(3, True)], []]
    (event,) = outbox.listing(ledger.conn, failed_only=True)
    assert (event.failed, event.attempts, event.last_error) == (True, 3, "no answer")
    add(ledger.conn, "later")
    assert keys(drain(ledger, topic=consumer, now=START + timedelta(hours=9))) == ["later"]


def test_the_same_cause_again_does_not_revive_a_failed_event(ledger: Ledger) -> None:
    add(ledger.conn, "bad")
    consumer = Consumer(bad={"bad": StoreUnavailable("no answer")})
    for hour in range(3):
        drain(ledger, topic=consumer, now=START + timedelta(hours=hour))
    add(ledger.conn, "bad")
    assert len(outbox.listing(ledger.conn)) == 1
    assert outbox.listing(ledger.conn)[0].failed


def test_replay_gives_failed_events_fresh_attempts(ledger: Ledger) -> None:
    add(ledger.conn, "bad", "worse", "fine")
    consumer = Consumer(bad={key: StoreUnavailable("no answer") for key in ("bad", "worse")})
    for hour in range(3):
        drain(ledger, topic=consumer, now=START + timedelta(hours=hour))
    first, second = outbox.listing(ledger.conn, failed_only=True)
    assert outbox.replay(ledger.conn, first.event_id) == 1
    with pytest.raises(NotFound, match="ledger outbox --failed"):
        outbox.replay(ledger.conn, first.event_id)
    assert outbox.replay(ledger.conn) == 1
    consumer.bad = {}
    assert keys(drain(ledger, topic=consumer)) == [first.idempotency_key, second.idempotency_key]


def test_only_our_own_words_are_kept_of_an_error(ledger: Ledger) -> None:
    add(ledger.conn, "a", "b", "c")
    drain(
        ledger,
        topic=Consumer(
            bad={
                "a": ValueError("https://user:password@provider"),
                "b": psycopg.errors.DivisionByZero("SELECT secret"),
                "c": StoreUnavailable("half \ud800 and \0 nothing"),
            }
        ),
    )
    errors = {event.idempotency_key: event.last_error for event in outbox.listing(ledger.conn)}
    assert errors["a"] == "unexpected ValueError: see the Dispatcher's log"
    assert errors["b"] == "unexpected DivisionByZero: see the Dispatcher's log"
    assert errors["c"] == "half ? and  nothing"


def test_a_handler_whose_statement_fails_harms_only_its_event(ledger: Ledger) -> None:
    def handle(conn: Connection, events: Sequence[Event]) -> None:
        for event in events:
            conn.execute(b"SELECT 1 / (CASE %s::text WHEN 'bad' THEN 0 ELSE 1 END)", (event.idempotency_key,))

    add(ledger.conn, "a", "bad", "c")
    drained = drain(ledger, topic=handle)
    assert keys(drained) == ["a", "c"]
    assert [one.event.idempotency_key for one in drained.unhandled] == ["bad"]


def test_a_statement_that_runs_out_of_time_counts_against_its_event(ledger: Ledger) -> None:
    """Else one event whose effect waits for a lock would stop every tick."""

    def handle(conn: Connection, events: Sequence[Event]) -> None:
        if "bad" in [event.idempotency_key for event in events]:
            conn.execute(b"SET LOCAL statement_timeout = 20")
            conn.execute(b"SELECT pg_sleep(2)")

    add(ledger.conn, "bad", "c")
    drained = drain(ledger, topic=handle)
    assert keys(drained) == ["c"]
    assert [one.attempts for one in drained.unhandled] == [1]
    assert ledger.one(b"SHOW statement_timeout") == "5s"


@pytest.mark.parametrize("error", [DatabaseUnavailable("Postgres went away"), FencedError("another leads")])
def test_what_concerns_every_event_costs_none_an_attempt(ledger: Ledger, error: Exception) -> None:
    add(ledger.conn, "a", "b")
    with pytest.raises(type(error)):
        drain(ledger, topic=Consumer(bad={"b": error}))
    assert [(event.idempotency_key, event.attempts) for event in outbox.listing(ledger.conn)] == [("a", 0), ("b", 0)]


def test_a_lost_connection_costs_no_attempt(
    ledger: Ledger, state_url: str, connection: Callable[[], Connection]
) -> None:
    other = connection()

    def handle(conn: Connection, _events: Sequence[Event]) -> None:
        other.execute(b"SELECT pg_terminate_backend(%s::int)", (conn.info.backend_pid,))
        conn.execute(b"SELECT 1")

    add(ledger.conn, "a")
    database = Database(state_url, application_name="trace-test")
    with pytest.raises(DatabaseUnavailable), database.transaction() as conn:
        outbox.drain(conn, ledger.epoch, {"topic": handle}, limit=9, policy=POLICY)
    database.close()
    assert [event.attempts for event in outbox.listing(ledger.conn)] == [0]


def test_an_older_epoch_drains_nothing_and_its_handlers_see_nothing(ledger: Ledger, state_url: str) -> None:
    add(ledger.conn, "a")
    tasks.take_over(ledger.conn, holder="cluster/space/2", ttl_s=60)
    consumer = Consumer()
    database = Database(state_url, application_name="trace-test")
    with pytest.raises(FencedError), database.transaction() as conn:
        outbox.drain(conn, ledger.epoch, {"topic": consumer}, limit=9, policy=POLICY)
    database.close()
    assert consumer.calls == []


def test_an_epoch_that_is_overtaken_in_a_handler_costs_no_attempt(ledger: Ledger, state_url: str) -> None:
    def handle(conn: Connection, _events: Sequence[Event]) -> None:
        tasks.take_over(conn, holder="cluster/space/2", ttl_s=60)
        tasks.fence(conn, ledger.epoch, 60)

    add(ledger.conn, "a")
    database = Database(state_url, application_name="trace-test")
    with pytest.raises(FencedError), database.transaction() as conn:
        outbox.drain(conn, ledger.epoch, {"topic": handle}, limit=9, policy=POLICY)
    database.close()
    assert [event.attempts for event in outbox.listing(ledger.conn)] == [0]
