"""The outbox: committed with its cause, delivered at least once, never skipped."""

from collections.abc import Callable

from state import outbox
from state.db import Connection
from state.outbox import Event
from tests.integration.state.ledger import Ledger, job, publication

TOPICS = ["topic"]


def test_events_are_drained_once_in_order_and_by_topic(ledger: Ledger) -> None:
    for number in range(3):
        outbox.append(ledger.conn, Event("topic", f"key/{number}", {"number": number}))
    outbox.append(ledger.conn, Event("other", "key/other", {}))
    assert [event.payload["number"] for event in outbox.drain(ledger.conn, ledger.epoch, TOPICS, 2)] == [0, 1]
    assert [event.payload["number"] for event in outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9)] == [2]
    assert outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9) == []
    assert outbox.drain(ledger.conn, ledger.epoch, ["other"], 9) == [Event("other", "key/other", {})]


def test_the_same_cause_is_one_event(ledger: Ledger) -> None:
    outbox.append(ledger.conn, Event("topic", "key", {"first": True}))
    outbox.append(ledger.conn, Event("topic", "key", {"first": False}))
    assert outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9) == [Event("topic", "key", {"first": True})]


def test_a_consumer_that_fails_gets_its_events_again(ledger: Ledger) -> None:
    outbox.append(ledger.conn, Event("topic", "key", {}))
    with ledger.conn.transaction(force_rollback=True):
        assert len(outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9)) == 1
    assert len(outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9)) == 1


def test_an_event_committed_late_with_an_early_number_is_not_skipped(
    ledger: Ledger, connection: Callable[[], Connection]
) -> None:
    slow = connection()
    with slow.transaction():
        outbox.append(slow, Event("topic", "early", {}))
        outbox.append(ledger.conn, Event("topic", "late", {}))
        assert [event.idempotency_key for event in outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9)] == ["late"]
    assert [event.idempotency_key for event in outbox.drain(ledger.conn, ledger.epoch, TOPICS, 9)] == ["early"]


def test_a_publication_leaves_one_event_that_names_its_version(ledger: Ledger) -> None:
    ledger.sync(job())
    offer = publication(ledger.lease())
    ledger.complete(offer)
    ledger.complete(offer)
    (event,) = outbox.drain(ledger.conn, ledger.epoch, ["dataset.published"], 9)
    assert event.payload == {
        "dataset_version": str(offer.dataset_version),
        "dataset_uuid": str(offer.dataset_uuid),
        "range_start": 0,
        "range_end": 100,
    }
