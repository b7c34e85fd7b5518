"""Deliveries: each alert event on its way to each channel, at least once, and recognisable by the delivery's id.

A lease is the right to send once. Whoever holds it presents attempt and lease token when it records what the sending
came to; a lease that ends without a word is a failed attempt after which the receiver may have the delivery all the
same. The caller owns the transaction; `now` moves time in tests.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from state.db import Connection, Row, statements, storable
from trace_ray import routing
from trace_ray.alerts import (
    AlertEvent,
    Delivery,
    DeliveryId,
    DeliveryKind,
    DeliveryState,
    EventId,
    Mode,
    Rule,
    RuleId,
    Severity,
    Throttle,
    delivery_id,
)
from trace_ray.channels import Sending, Sent, Unsent
from trace_ray.contracts import OrgId
from trace_ray.errors import FencedError, NotFound, RefusedInput
from trace_ray.notices import ChannelDepth, DeliveryView, Leased, Notice
from trace_ray.retry import RetryPolicy
from trace_ray.routing import Due, Suppression

SQL: Final = statements("deliveries")

LOCK: Final = 0x7472_6164  # "trad": any constant will do, as long as it is ours
REAPED: Final = 100  # leases that are ended in one transaction
LOST: Final = "whoever sent it was lost before it could tell how that went"


# --- in -----------------------------------------------------------------------------------------------------------


def create(
    conn: Connection, org_id: OrgId, rule: Rule, events: Sequence[AlertEvent], *, now: datetime | None = None
) -> list[DeliveryId]:
    """Make a delivery of each event for each channel of its rule, and return those that are new.

    To be called in the transaction that accepts the events. Shadow events get none. Those of a disabled rule, and
    those whose block is gone already, are suppressed from the start.
    """
    wanted = [
        (delivery_id(event.event_id, channel, DeliveryKind.ALERT), event, channel)
        for event in events
        if event.mode is not Mode.SHADOW
        for channel in routing.channels(rule)
    ]
    if not wanted:
        return []
    rows = conn.execute(
        SQL["create"],
        {
            "org": org_id,
            "rule_id": rule.rule_id,
            "rule": rule.name,
            "max_age": _interval(rule.max_delivery_age_s),
            "count": rule.throttle.count if rule.throttle else None,
            "per": _interval(rule.throttle.per_s) if rule.throttle else None,
            "deliveries": [delivery for delivery, _, _ in wanted],
            "events": [event.event_id for _, event, _ in wanted],
            "channels": [channel for _, _, channel in wanted],
            "retracted": [event.retracted_at is not None for _, event, _ in wanted],
            "reasons": [_reason(rule, event) for _, event, _ in wanted],
            "now": now,
        },
    )
    return [row["delivery_id"] for row in rows]


def _reason(rule: Rule, event: AlertEvent) -> str | None:
    if event.retracted_at is not None:
        return Suppression.RETRACTED
    return None if rule.enabled else Suppression.DISABLED


def retract(conn: Connection, events: Sequence[EventId], *, now: datetime | None = None) -> list[DeliveryId]:
    """Take back the alerts of events whose block is gone; return the retractions that are to be sent.

    An alert that no receiver can have is suppressed. One that was delivered, or that may have been although an attempt
    failed, is followed by a retraction that names it. One that is being sent now is settled when that is recorded.
    """
    rows = conn.execute(SQL["retract"], {"events": list(events), "now": now}).fetchall()
    return _take_back(conn, [row["delivery_id"] for row in rows if row["took"]], now)


def suppress_rule(conn: Connection, org_id: OrgId, rule_id: RuleId, *, now: datetime | None = None) -> int:
    """Suppress the queued alerts of a rule that was disabled or turned to shadow; return how many."""
    parameters = {"org": org_id, "rule": rule_id, "reason": Suppression.DISABLED, "now": now}
    return len(conn.execute(SQL["suppress_rule"], parameters).fetchall())


def _take_back(conn: Connection, alerts: Sequence[DeliveryId], now: datetime | None) -> list[DeliveryId]:
    if not alerts:
        return []
    sources = conn.execute(SQL["sources"], {"deliveries": list(alerts)}).fetchall()
    retractions = [delivery_id(row["event_id"], row["channel"], DeliveryKind.RETRACTION) for row in sources]
    parameters = {"retractions": retractions, "deliveries": [row["delivery_id"] for row in sources], "now": now}
    return [row["delivery_id"] for row in conn.execute(SQL["take_back"], parameters)]


# --- out ----------------------------------------------------------------------------------------------------------


def lease(
    conn: Connection, free: Mapping[str, int], *, other: int, lease_s: float, now: datetime | None = None
) -> list[Leased]:
    """Lease deliveries that are due, the longest due first, and suppress those that must not be sent any more.

    Args:
        free: How many deliveries of each channel may be leased now.
        other: The same for each channel that `free` does not name.
    """
    conn.execute(SQL["turn"], {"lock": LOCK})
    parameters = {"channels": list(free), "free": list(free.values()), "other": other, "now": now}
    rows = conn.execute(SQL["due"], parameters).fetchall()
    admitted, suppressed = _sort(rows)
    if suppressed:
        reasons = {"deliveries": list(suppressed), "reasons": list(suppressed.values()), "now": now}
        conn.execute(SQL["suppress"], reasons)
    if not admitted:
        return []
    values = {"deliveries": admitted, "lease": timedelta(seconds=lease_s), "now": now}
    return [_leased(row) for row in conn.execute(SQL["start"], values)]


def _sort(rows: Iterable[Row]) -> tuple[list[DeliveryId], dict[DeliveryId, Suppression]]:
    """Return what is to be sent, and what is not and why; what goes first counts against the throttle of the rest."""
    admitted: list[DeliveryId] = []
    suppressed: dict[DeliveryId, Suppression] = {}
    first: Counter[tuple[UUID, str]] = Counter()
    for row in rows:
        sender = (row["rule_id"], row["channel"])
        due = Due(
            kind=DeliveryKind(row["kind"]),
            attempt=row["attempt"],
            event_time=row["event_time"],
            max_age_s=row["max_age_s"],
            throttle=Throttle(row["throttle_count"], row["per_s"]) if row["throttle_count"] else None,
            recent=row["recent"] + first[sender],
            retracted=row["retracted"],
        )
        reason = routing.suppression(due, row["now"])
        if reason is not None:
            suppressed[row["delivery_id"]] = reason
            continue
        admitted.append(row["delivery_id"])
        first[sender] += due.kind is DeliveryKind.ALERT and due.attempt == 0
    return admitted, suppressed


def record(
    conn: Connection, delivery: Delivery, sending: Sending, *, policy: RetryPolicy, now: datetime | None = None
) -> DeliveryState:
    """Record what a leased sending came to; return the state that the delivery has now.

    Raises:
        FencedError: the lease is over and another attempt may run: nothing is changed.
    """
    held = {
        "delivery": delivery.delivery_id,
        "attempt": delivery.attempt,
        "token": delivery.lease_token,
        "now": now,
    }
    match sending:
        case Sent():
            note = None if sending.note is None else storable(sending.note)
            row = conn.execute(SQL["delivered"], {**held, "note": note}).fetchone()
        case Unsent():
            row = conn.execute(SQL["failed"], {**held, **_failure(sending, policy)}).fetchone()
    if row is None:
        raise FencedError(f"delivery {delivery.delivery_id} attempt {delivery.attempt} is no longer held")
    state = DeliveryState(row["state"])
    received = state is DeliveryState.DELIVERED or row["in_doubt"]
    if row["retracted"] and received and row["kind"] == DeliveryKind.ALERT:
        _take_back(conn, [delivery.delivery_id], now)
    return state


def _failure(unsent: Unsent, policy: RetryPolicy) -> dict[str, object]:
    return {
        "error": storable(unsent.error),
        "retryable": unsent.retryable,
        "in_doubt": unsent.in_doubt,
        "retry_after": _interval(None if unsent.retry_after_s is None else min(unsent.retry_after_s, policy.cap_s)),
        "max_attempts": policy.max_attempts,
        "base": _interval(policy.base_s),
        "cap": _interval(policy.cap_s),
    }


def reap(conn: Connection, *, policy: RetryPolicy, now: datetime | None = None) -> list[DeliveryId]:
    """End leases that ran out, each as a failed attempt, and return their deliveries; at most 100."""
    rows = conn.execute(SQL["ended"], {"limit": REAPED, "now": now}).fetchall()
    values = _failure(Unsent(LOST, in_doubt=True), policy)
    for row in rows:
        held = {"delivery": row["delivery_id"], "attempt": row["attempt"], "token": row["lease_token"], "now": now}
        ended = conn.execute(SQL["failed"], {**held, **values}).fetchone()
        if ended is not None and ended["retracted"] and ended["kind"] == DeliveryKind.ALERT:
            _take_back(conn, [row["delivery_id"]], now)
    return [row["delivery_id"] for row in rows]


# --- operators ----------------------------------------------------------------------------------------------------


def replay(
    conn: Connection,
    org_id: OrgId,
    *,
    delivery: DeliveryId | None = None,
    channel: str | None = None,
    now: datetime | None = None,
) -> int:
    """Queue dead deliveries again with fresh attempts and return how many: one, those of a channel, or all.

    One that is named may also be suppressed. What is put back is sent however old it is, and past its throttle.

    Raises:
        NotFound: there is no such delivery.
        RefusedInput: it is not to be put back: it is on its way, delivered, or retracted.
    """
    parameters = {"org": org_id, "delivery": delivery, "channel": channel, "now": now}
    replayed = conn.execute(SQL["replay"], parameters).fetchall()
    if delivery is not None and not replayed:
        row = conn.execute(SQL["find"], {"org": org_id, "delivery": delivery}).fetchone()
        if row is None:
            raise NotFound(f"there is no delivery {delivery}: `trace-ray alerts deliveries` lists them")
        why = "its block is gone" if row["retracted"] else f"it is {row['state']}"
        raise RefusedInput(f"delivery {delivery} cannot be put back, {why}: only dead and suppressed ones can")
    return len(replayed)


def listing(
    conn: Connection,
    org_id: OrgId,
    *,
    state: str | None = None,
    rule: str | None = None,
    channel: str | None = None,
    event: EventId | None = None,
    limit: int = 100,
) -> list[DeliveryView]:
    """Return deliveries of an organisation, newest first."""
    parameters = {"org": org_id, "state": state, "rule": rule, "channel": channel, "limit": limit} | {"event": event}
    return [
        DeliveryView(
            delivery=_delivery(row),
            rule=row["rule"],
            reason=row["reason"],
            failures=row["failures"],
            replays=row["replays"],
            created_at=row["created_at"],
            due_at=row["due_at"],
            settled_at=row["settled_at"],
        )
        for row in conn.execute(SQL["listing"], parameters)
    ]


def event_of(conn: Connection, org_id: OrgId, delivery: DeliveryId) -> EventId | None:
    """Return the event that a delivery of an organisation is about."""
    row = conn.execute(SQL["find"], {"org": org_id, "delivery": delivery}).fetchone()
    return None if row is None else EventId(row["event_id"])


def depths(conn: Connection, org_id: OrgId) -> list[ChannelDepth]:
    """Return how much of each channel is open or dead, for those that have any."""
    rows = conn.execute(SQL["depths"], {"org": org_id})
    return [ChannelDepth(row["channel"], row["queued"], row["sending"], row["dead"], row["oldest"]) for row in rows]


# --- rows ---------------------------------------------------------------------------------------------------------


def _interval(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _delivery(row: Row) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        event_id=row["event_id"],
        kind=DeliveryKind(row["kind"]),
        channel=row["channel"],
        state=DeliveryState(row["state"]),
        attempt=row["attempt"],
        lease_token=row["lease_token"],
        retracts=row["retracts"],
        last_error=row["last_error"],
    )


def _leased(row: Row) -> Leased:
    notice = Notice(
        delivery_id=row["delivery_id"],
        event_id=row["event_id"],
        kind=DeliveryKind(row["kind"]),
        rule_id=row["rule_id"],
        rule=row["rule"],
        severity=Severity(row["severity"]),
        dedupe_key=row["dedupe_key"],
        event_time=row["event_time"],
        chain_id=row["chain_id"],
        block_number=row["block_number"],
        block_hash=row["block_hash"],
        tx_hash=row["tx_hash"],
        payload=row["payload"],
        created_at=row["created_at"],
        retracts=row["retracts"],
    )
    return Leased(_delivery(row), notice)
