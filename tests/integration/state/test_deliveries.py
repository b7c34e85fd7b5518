"""The ledger of deliveries: each event once per channel, fenced sendings, back-off, throttles, retractions, replay."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from state import alerts, deliveries
from state.db import Connection, connect
from tests import pg
from tests.alert_events import T0, accept, event, rule
from trace_ray.alerts import AlertEvent, Delivery, DeliveryKind, DeliveryState, Mode, Rule, Throttle, delivery_id
from trace_ray.channels import Sent, Unsent
from trace_ray.contracts import DEFAULT_ORG, OrgId, TaskId
from trace_ray.errors import FencedError, NotFound, RefusedInput
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.notices import ChannelDepth, DeliveryView, Leased
from trace_ray.retry import RetryPolicy

POLICY = RetryPolicy(base_s=5.0, cap_s=1800.0, max_attempts=12, max_infra_failures=12)
LEASE_S = 60.0
HISTORY = (
    b"""
    INSERT INTO data.alert_events (event_id, org_id, rule_id, task_id, attempt, severity, mode, rule,
      dedupe_key, event_time, chain_id, block_number, block_hash, payload)
    SELECT gen_random_uuid(), org_id, rule_id, task_id, attempt, severity, mode, rule, 'old/' || n,
      event_time, chain_id, block_number, block_hash, payload
    FROM data.alert_events, generate_series(1, %(count)s::int) n""",
    b"""
    INSERT INTO data.alert_deliveries (delivery_id, org_id, event_id, channel, kind, rule_id, rule, state, due_at,
      settled_at)
    SELECT gen_random_uuid(), org_id, event_id, channel, 'alert', rule_id, 'r', state, now() + interval '1 h',
      CASE state WHEN 'delivered' THEN now() END
    FROM data.alert_events, unnest(ARRAY['ops', 'mail'], ARRAY['queued', 'delivered']) AS c(channel, state)
    WHERE dedupe_key LIKE 'old/%%'""",
)


class Desk:
    """A ledger of deliveries with a clock of its own."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.now = T0 + timedelta(minutes=1)

    def create(self, of: Rule, *events: AlertEvent) -> list[Any]:
        return deliveries.create(self.conn, of.org_id, of, events, now=self.now)

    def accepted(self, of: Rule, count: int = 1, *, at: datetime = T0) -> list[AlertEvent]:
        """Accept events and make their deliveries."""
        found = accept(self.conn, *(event(of, number, at=at) for number in range(1, count + 1)))
        self.create(of, *found)
        return found

    def lease(self, *, places: int = 100, **free: int) -> list[Leased]:
        with self.conn.transaction():
            return deliveries.lease(self.conn, free, other=places, lease_s=LEASE_S, now=self.now)

    def one(self) -> Delivery:
        (leased,) = self.lease()
        return leased.delivery

    def record(self, delivery: Delivery, sending: Sent | Unsent) -> DeliveryState:
        return deliveries.record(self.conn, delivery, sending, policy=POLICY, now=self.now)

    def reap(self) -> int:
        return len(deliveries.reap(self.conn, policy=POLICY, now=self.now))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def all(self, **which: Any) -> list[DeliveryView]:
        return deliveries.listing(self.conn, DEFAULT_ORG, **which)

    def states(self) -> dict[str, int]:
        found = [view.reason or view.state for view in self.all()]
        return {str(state): found.count(state) for state in found}


@pytest.fixture(scope="module")
def url(postgres: LocalPostgres) -> str:
    return pg.fresh_database(postgres)


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    with connect(url, application_name="trace-test") as conn:
        yield Desk(conn)
        conn.execute(b"TRUNCATE data.alert_events CASCADE")


# --- in -----------------------------------------------------------------------------------------------------------


def test_each_event_has_one_delivery_per_channel_however_often_it_is_made(desk: Desk) -> None:
    wanted = rule("ops", "mail", "ops")
    events = accept(desk.conn, *(event(wanted, number) for number in (1, 2)))
    assert len(desk.create(wanted, *events)) == 4
    assert desk.create(wanted, *events) == []
    ids = {delivery_id(one.event_id, channel, DeliveryKind.ALERT) for one in events for channel in ("ops", "mail")}
    assert {view.delivery.delivery_id for view in desk.all()} == ids


def test_what_the_sink_keeps_is_what_the_receiver_is_told(desk: Desk) -> None:
    of = rule()
    with desk.conn.transaction():
        added = alerts.add(desk.conn, of, TaskId(uuid4()), 1, [event(of, 1).draft, event(of, 2).draft])
        assert len(deliveries.create(desk.conn, DEFAULT_ORG, of, added.new, now=desk.now)) == 2
    told = {one.notice.dedupe_key: one.notice for one in desk.lease()}
    for number in (1, 2):
        draft, notice = event(of, number).draft, told[f"transfer:{number}"]
        assert (notice.event_time, notice.chain_id, notice.block_number) == (T0, draft.chain_id, draft.block_number)
        assert (notice.block_hash, notice.tx_hash) == (draft.block_hash, draft.tx_hash)
        assert json.loads(notice.payload) == draft.payload


def test_shadow_events_are_not_delivered(desk: Desk) -> None:
    shadow = rule(mode=Mode.SHADOW)
    assert desk.create(shadow, *accept(desk.conn, event(shadow))) == []
    live = rule()
    assert desk.create(live, *accept(desk.conn, replace(event(live, 2), mode=Mode.SHADOW))) == []
    assert desk.all() == []


def test_events_of_a_disabled_rule_and_of_lost_blocks_are_suppressed_from_the_start(desk: Desk) -> None:
    disabled = rule(enabled=False)
    desk.create(disabled, *accept(desk.conn, event(disabled)))
    live = rule()
    desk.create(live, replace(*accept(desk.conn, event(live, 2)), retracted_at=T0))
    assert desk.states() == {"disabled": 1, "retracted": 1}
    assert desk.lease() == []


def test_a_delivery_of_no_event_is_refused(desk: Desk) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        desk.create(rule(), event(rule()))


# --- out ----------------------------------------------------------------------------------------------------------


def test_a_lease_carries_all_that_the_receiver_is_told(desk: Desk) -> None:
    (made,) = desk.accepted(rule())
    (leased,) = desk.lease()
    notice, draft = leased.notice, made.draft
    assert leased.delivery.attempt == 1
    assert leased.delivery.lease_token is not None
    assert (notice.delivery_id, notice.event_id) == (leased.delivery.delivery_id, made.event_id)
    assert (notice.kind, notice.rule_id, notice.rule) == (DeliveryKind.ALERT, made.rule_id, "big_transfers")
    assert (notice.severity, notice.dedupe_key, notice.event_time) == (made.severity, draft.dedupe_key, T0)
    assert (notice.chain_id, notice.block_number) == (draft.chain_id, draft.block_number)
    assert (notice.block_hash, notice.tx_hash) == (draft.block_hash, draft.tx_hash)
    assert (notice.payload, notice.created_at, notice.retracts) == ('{"value": 1}', desk.now, None)


def test_numbers_of_a_payload_reach_the_receiver_as_they_were_accepted(desk: Desk) -> None:
    of = rule()
    large = 2**256 - 1
    desk.create(of, *accept(desk.conn, event(of, payload={"wei": large})))
    (leased,) = desk.lease()
    assert leased.notice.payload == f'{{"wei": {large}}}'


def test_what_is_leased_is_leased_once(desk: Desk) -> None:
    desk.accepted(rule(), 3)
    assert len(desk.lease(ops=2)) == 2
    assert len(desk.lease(ops=2)) == 1
    assert desk.lease(ops=2) == []


def test_two_loops_never_lease_one_delivery(desk: Desk, url: str) -> None:
    """The second one waits its turn, then finds what the first one left."""
    desk.accepted(rule("ops", "mail", throttle=Throttle(7, 3600)), 10)

    def drain() -> list[UUID]:
        with connect(url, application_name="trace-test") as conn:
            loop = Desk(conn)
            return [one.delivery.delivery_id for _ in range(6) for one in loop.lease(ops=2, mail=2)]

    with ThreadPoolExecutor(4) as pool:
        found = [delivery for part in [pool.submit(drain) for _ in range(4)] for delivery in part.result()]
    assert len(found) == len(set(found)) == 14
    assert desk.states() == {"sending": 14, "throttled": 6}


def test_each_channel_has_places_of_its_own(desk: Desk) -> None:
    desk.accepted(rule("ops", "mail", "pager"), 5)
    leased = desk.lease(ops=1, mail=0, places=3)
    channels = [one.delivery.channel for one in leased]
    assert {name: channels.count(name) for name in channels} == {"ops": 1, "pager": 3}


def test_the_longest_due_goes_first(desk: Desk) -> None:
    of = rule()
    for number in (3, 1, 2):
        desk.create(of, *accept(desk.conn, event(of, number)))
        desk.wait(1)
    assert [one.notice.dedupe_key for one in desk.lease()] == ["transfer:3", "transfer:1", "transfer:2"]


# --- what it came to ----------------------------------------------------------------------------------------------


def test_a_delivered_one_is_never_sent_again(desk: Desk) -> None:
    desk.accepted(rule())
    assert desk.record(desk.one(), Sent("1 of the recipients was refused")) is DeliveryState.DELIVERED
    desk.wait(1e6)
    assert desk.lease() == []
    (view,) = desk.all()
    assert (view.delivery.last_error, view.settled_at is not None) == ("1 of the recipients was refused", True)


def test_a_failed_one_waits_longer_each_time_and_dies_at_the_twelfth(desk: Desk) -> None:
    desk.accepted(rule())
    waits: list[float] = []
    states: list[DeliveryState] = []
    for attempt in range(1, 13):
        delivery = desk.one()
        assert delivery.attempt == attempt
        states.append(desk.record(delivery, Unsent("the receiver answered 503")))
        (view,) = desk.all()
        if view.due_at is not None:
            waits.append((view.due_at - desk.now).total_seconds())
            desk.wait(waits[-1] - 0.01)
            assert desk.lease() == []
            desk.wait(0.02)
    assert states == [DeliveryState.QUEUED] * 11 + [DeliveryState.DEAD]
    bounds = [min(1800, 5 * 2**failures) for failures in range(11)]
    assert all(0.5 * bound <= wait <= 1.5 * bound for wait, bound in zip(waits, bounds, strict=True))
    assert len({wait / bound for wait, bound in zip(waits, bounds, strict=True)}) > 5  # jitter
    (dead,) = desk.all(state="dead")
    assert dead.delivery.last_error == "the receiver answered 503"
    desk.wait(1e6)
    assert desk.lease() == []


def test_a_refusal_for_good_is_dead_at_once(desk: Desk) -> None:
    desk.accepted(rule())
    assert desk.record(desk.one(), Unsent("the receiver answered 410", retryable=False)) is DeliveryState.DEAD


@pytest.mark.parametrize(("asked", "waited"), [(600.0, 600.0), (1e9, 1800.0)])
def test_a_receiver_is_left_alone_as_long_as_it_asks_up_to_the_cap(desk: Desk, asked: float, waited: float) -> None:
    desk.accepted(rule())
    desk.record(desk.one(), Unsent("the receiver answered 429", retry_after_s=asked))
    (view,) = desk.all()
    assert view.due_at == desk.now + timedelta(seconds=waited)


def test_a_short_wish_does_not_shorten_the_back_off(desk: Desk) -> None:
    desk.accepted(rule())
    desk.record(desk.one(), Unsent("the receiver answered 429", retry_after_s=0.0))
    (view,) = desk.all()
    assert view.due_at is not None
    assert view.due_at >= desk.now + timedelta(seconds=2.5)


# --- fencing ------------------------------------------------------------------------------------------------------


def test_a_lease_that_ran_out_is_a_failed_attempt_and_its_holder_is_fenced(desk: Desk) -> None:
    desk.accepted(rule())
    first = desk.one()
    desk.wait(LEASE_S - 1)
    assert desk.reap() == 0
    desk.wait(2)
    assert desk.reap() == 1
    (view,) = desk.all()
    assert (view.state, view.failures) == (DeliveryState.QUEUED, 1)
    assert view.delivery.last_error == "whoever sent it was lost before it could tell how that went"
    for sending in (Sent(), Unsent("late")):
        with pytest.raises(FencedError):
            desk.record(first, sending)
    desk.wait(60)
    second = desk.one()
    with pytest.raises(FencedError):
        desk.record(first, Sent())
    with pytest.raises(FencedError):
        desk.record(replace(second, lease_token=uuid4()), Sent())
    with pytest.raises(FencedError):
        desk.record(replace(second, attempt=1), Sent())
    assert desk.record(second, Sent()) is DeliveryState.DELIVERED
    with pytest.raises(FencedError):
        desk.record(second, Sent())


def test_a_delivery_that_kills_whoever_sends_it_has_an_end(desk: Desk) -> None:
    desk.accepted(rule())
    for _ in range(12):
        assert len(desk.lease()) == 1
        desk.wait(3600)
        assert desk.reap() == 1
        desk.wait(3600)
    assert desk.states() == {"dead": 1}


# --- what is not sent ---------------------------------------------------------------------------------------------


def test_what_is_too_old_when_it_is_due_is_suppressed(desk: Desk) -> None:
    of = rule(max_age_s=300)
    desk.accepted(of)
    desk.record(desk.one(), Unsent("the receiver answered 503"))
    desk.wait(200)
    assert len(desk.lease()) == 1
    desk.wait(LEASE_S + 1)
    desk.reap()
    desk.wait(60)
    assert desk.lease() == []
    assert desk.states() == {"stale": 1}


def test_a_throttle_lets_so_many_through_in_any_window_and_shows_the_rest(desk: Desk) -> None:
    of = rule("ops", "mail", throttle=Throttle(3, 60))
    desk.accepted(of, 5)
    assert len(desk.lease(places=2)) == 4  # two of each channel
    assert len(desk.lease()) == 2
    assert desk.states() == {"sending": 6, "throttled": 4}
    more = accept(desk.conn, *(event(of, number) for number in (6, 7)))
    desk.wait(59)
    desk.create(of, more[0])
    assert desk.lease() == []
    desk.wait(2)
    desk.create(of, more[1])
    assert len(desk.lease()) == 2


def test_what_is_tried_again_does_not_count_against_a_throttle(desk: Desk) -> None:
    of = rule(throttle=Throttle(1, 3600))
    desk.accepted(of, 1)
    desk.record(desk.one(), Unsent("the receiver answered 503"))
    desk.wait(60)
    assert len(desk.lease()) == 1


def test_another_rule_has_a_throttle_of_its_own(desk: Desk) -> None:
    desk.accepted(rule(throttle=Throttle(1, 3600)))
    other = rule(throttle=Throttle(1, 3600), name="small_transfers")
    desk.create(other, *accept(desk.conn, event(other, 2)))
    assert len(desk.lease()) == 2


def test_what_a_rule_has_queued_is_suppressed_when_it_is_disabled(desk: Desk) -> None:
    of = rule()
    desk.accepted(of, 3)
    sending = desk.lease(ops=1)
    assert deliveries.suppress_rule(desk.conn, DEFAULT_ORG, of.rule_id, now=desk.now) == 2
    assert desk.states() == {"sending": 1, "disabled": 2}
    assert desk.record(sending[0].delivery, Sent()) is DeliveryState.DELIVERED


# --- retractions --------------------------------------------------------------------------------------------------


def retract(desk: Desk, *events: AlertEvent) -> list[Any]:
    return deliveries.retract(desk.conn, [one.event_id for one in events], now=desk.now)


def test_a_delivered_alert_is_taken_back_by_a_delivery_that_names_it(desk: Desk) -> None:
    of = rule(max_age_s=300, throttle=Throttle(1, 3600))
    (made,) = desk.accepted(of)
    alert = desk.one()
    desk.record(alert, Sent())
    desk.wait(3600)
    expected = delivery_id(made.event_id, "ops", DeliveryKind.RETRACTION)
    assert retract(desk, made) == [expected]
    assert retract(desk, made) == []
    (leased,) = desk.lease()  # neither too old nor too much
    assert (leased.delivery.delivery_id, leased.notice.kind) == (expected, DeliveryKind.RETRACTION)
    assert leased.notice.retracts == alert.delivery_id
    assert desk.record(leased.delivery, Sent()) is DeliveryState.DELIVERED


def test_an_alert_that_nobody_can_have_is_not_sent_any_more(desk: Desk) -> None:
    of = rule()
    made = desk.accepted(of, 2)
    (first,) = desk.lease(ops=1)
    desk.record(first.delivery, Unsent("the receiver cannot be reached"))
    assert retract(desk, *made) == []
    desk.wait(1e6)
    assert desk.lease() == []
    assert desk.states() == {"retracted": 2}


def test_an_alert_that_may_have_arrived_is_taken_back(desk: Desk) -> None:
    (made,) = desk.accepted(rule())
    desk.record(desk.one(), Unsent("the receiver did not answer in time", in_doubt=True))
    assert len(retract(desk, made)) == 1
    assert desk.states() == {"retracted": 1, "queued": 1}


@pytest.mark.parametrize(
    ("sending", "state", "taken_back"),
    [
        (Sent(), DeliveryState.DELIVERED, True),
        (Unsent("the receiver did not answer in time", in_doubt=True), DeliveryState.SUPPRESSED, True),
        (Unsent("the receiver cannot be reached"), DeliveryState.SUPPRESSED, False),
    ],
)
def test_an_alert_on_its_way_is_settled_when_it_is_recorded(
    desk: Desk, sending: Sent | Unsent, state: DeliveryState, taken_back: bool
) -> None:
    (made,) = desk.accepted(rule())
    alert = desk.one()
    assert retract(desk, made) == []
    assert desk.record(alert, sending) is state
    retractions = [view for view in desk.all() if view.delivery.kind is DeliveryKind.RETRACTION]
    assert [view.delivery.retracts for view in retractions] == [alert.delivery_id] * taken_back


def test_an_alert_whose_sender_was_lost_is_taken_back(desk: Desk) -> None:
    (made,) = desk.accepted(rule())
    desk.lease()
    retract(desk, made)
    desk.wait(LEASE_S + 1)
    assert desk.reap() == 1
    assert desk.states() == {"retracted": 1, "queued": 1}


def test_an_alert_whose_sender_was_lost_before_its_block_was_is_taken_back_too(desk: Desk) -> None:
    (made,) = desk.accepted(rule())
    desk.lease()
    desk.wait(LEASE_S + 1)
    desk.reap()
    assert len(retract(desk, made)) == 1


# --- replay -------------------------------------------------------------------------------------------------------


def dead(desk: Desk, of: Rule, count: int) -> list[Delivery]:
    desk.accepted(of, count)
    found = [leased.delivery for leased in desk.lease()]
    for one in found:
        desk.record(one, Unsent("the receiver answered 410", retryable=False))
    return found


def test_dead_deliveries_are_put_back_one_or_by_channel_or_all(desk: Desk) -> None:
    found = dead(desk, rule("ops", "mail"), 3)
    assert deliveries.replay(desk.conn, DEFAULT_ORG, delivery=found[0].delivery_id, now=desk.now) == 1
    assert deliveries.replay(desk.conn, DEFAULT_ORG, channel="mail", now=desk.now) in (2, 3)
    assert deliveries.replay(desk.conn, DEFAULT_ORG, now=desk.now) > 0
    assert desk.states() == {"queued": 6}
    assert deliveries.replay(desk.conn, DEFAULT_ORG, now=desk.now) == 0


def test_what_is_put_back_has_fresh_attempts_the_same_key_and_no_age(desk: Desk) -> None:
    (first,) = dead(desk, rule(max_age_s=300), 1)
    desk.wait(1e6)
    deliveries.replay(desk.conn, DEFAULT_ORG, now=desk.now)
    again = desk.one()
    assert (again.delivery_id, again.attempt) == (first.delivery_id, 2)
    assert desk.record(again, Unsent("the receiver answered 503")) is DeliveryState.QUEUED
    (view,) = desk.all()
    assert (view.failures, view.replays) == (1, 1)


def test_a_suppressed_one_is_put_back_when_it_is_named(desk: Desk) -> None:
    desk.accepted(rule(throttle=Throttle(1, 3600)), 2)
    desk.record(desk.one(), Sent())
    (held,) = desk.all(state="suppressed")
    assert deliveries.replay(desk.conn, DEFAULT_ORG, now=desk.now) == 0
    assert deliveries.replay(desk.conn, DEFAULT_ORG, delivery=held.delivery.delivery_id, now=desk.now) == 1
    assert len(desk.lease()) == 1


def test_what_must_not_be_put_back_is_refused_with_the_reason(desk: Desk) -> None:
    with pytest.raises(NotFound, match="there is no delivery"):
        deliveries.replay(desk.conn, DEFAULT_ORG, delivery=delivery_id(event(rule()).event_id, "a", DeliveryKind.ALERT))
    (gone,) = dead(desk, rule(), 1)
    with pytest.raises(NotFound):
        deliveries.replay(desk.conn, OrgId(uuid4()), delivery=gone.delivery_id)
    deliveries.retract(desk.conn, [gone.event_id], now=desk.now)
    with pytest.raises(RefusedInput, match="its block is gone: only dead and suppressed ones can"):
        deliveries.replay(desk.conn, DEFAULT_ORG, delivery=gone.delivery_id)
    assert deliveries.replay(desk.conn, DEFAULT_ORG) == 0
    other = rule(name="other")
    desk.create(other, *accept(desk.conn, event(other, 2)))
    delivered = desk.one()
    desk.record(delivered, Sent())
    with pytest.raises(RefusedInput, match="it is delivered"):
        deliveries.replay(desk.conn, DEFAULT_ORG, delivery=delivered.delivery_id)


def test_what_is_open_or_dead_is_counted_by_channel(desk: Desk) -> None:
    dead(desk, rule("ops", "mail"), 2)
    of = rule("ops")
    desk.create(of, *accept(desk.conn, event(of, 3), event(of, 4)))
    (leased,) = desk.lease(ops=1)
    found = deliveries.depths(desk.conn, DEFAULT_ORG)
    assert found == [ChannelDepth("mail", 0, 0, 2, None), ChannelDepth("ops", 1, 1, 2, desk.now)]
    desk.record(leased.delivery, Sent())
    assert deliveries.depths(desk.conn, OrgId(uuid4())) == []


def test_what_is_due_is_found_by_index_over_a_long_history(desk: Desk) -> None:
    """Also when nobody has analysed the table: most of it is settled, and much is queued for later."""
    desk.accepted(rule("ops", "mail"))
    with desk.conn.transaction():
        desk.conn.execute(b"SET LOCAL statement_timeout = '60s'")
        for history in HISTORY:
            desk.conn.execute(history, {"count": 5_000})
    ids = [view.delivery.delivery_id for view in desk.all(rule="big_transfers")]
    asked = {"channels": ["ops"], "free": [4], "other": 4, "deliveries": ids, "lease": timedelta(1), "now": desk.now}
    for name, index in (("due", "deliveries_due"), ("start", "alert_deliveries_pkey")):
        row = desk.conn.execute(b"EXPLAIN (FORMAT JSON) " + deliveries.SQL[name], asked).fetchone()
        assert index in str(row)
        assert "Seq Scan" not in str(row)
    assert len(desk.lease()) == 2


def test_texts_of_others_are_kept_as_postgres_can(desk: Desk) -> None:
    desk.accepted(rule())
    desk.record(desk.one(), Unsent("nul \0 and \ud800 half"))
    (view,) = desk.all(rule="big_transfers", channel="ops")
    assert view.delivery.last_error == "nul  and ? half"
    assert desk.all(rule="other") == desk.all(channel="other") == []
