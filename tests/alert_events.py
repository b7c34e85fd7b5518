"""Rules and accepted alert events for the tests of deliveries."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from state.db import Connection
from trace_ray import alerts
from trace_ray.alerts import AlertEvent, DeliveryId, DeliveryKind, Draft, Mode, Rule, Severity, Throttle
from trace_ray.contracts import DEFAULT_ORG, TaskId
from trace_ray.notices import Notice

T0: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HASH: Final = "0x" + "ab" * 32

INSERT: Final = b"""
INSERT INTO data.alert_events (event_id, org_id, rule_id, task_id, attempt, severity, mode, rule,
  dedupe_key, event_time, chain_id, block_number, block_hash, tx_hash, payload, created_at)
VALUES (%(event_id)s, %(org_id)s, %(rule_id)s, %(task_id)s, 1, %(severity)s, %(mode)s, 'r', %(dedupe_key)s,
  %(event_time)s, %(chain_id)s, %(block_number)s, %(block_hash)s, %(tx_hash)s, %(payload)s, %(created_at)s)
"""


def rule(*channels: str, throttle: Throttle | None = None, max_age_s: float | None = None, **changes: Any) -> Rule:
    made = Rule(
        org_id=DEFAULT_ORG,
        name="big_transfers",
        bundle="0" * 64,
        datasets=("devnet_logs",),
        parameters={},
        channels=channels or ("ops",),
        severity=Severity.CRITICAL,
        mode=Mode.LIVE,
        enabled=True,
        timeout_s=30,
        memory_mib=256,
        max_delivery_age_s=max_age_s,
        throttle=throttle,
        yaml_hash="y",
    )
    return replace(made, **changes)


def event(of: Rule, number: int = 1, *, at: datetime = T0, payload: Any = None) -> AlertEvent:
    key = f"transfer:{number}"
    draft = Draft(
        alert_definition_id=of.rule_id,
        dedupe_key=key,
        event_time=at,
        chain_id=31337,
        block_number=100 + number,
        block_hash=HASH,
        tx_hash=HASH if number % 2 else None,
        payload={"value": number} if payload is None else payload,
    )
    return AlertEvent(
        event_id=alerts.event_id(of.org_id, key),
        org_id=of.org_id,
        rule_id=of.rule_id,
        task_id=TaskId(uuid4()),
        attempt=1,
        severity=of.severity,
        mode=of.mode,
        draft=draft,
        created_at=T0,
    )


def accept(conn: Connection, *events: AlertEvent) -> list[AlertEvent]:
    """Write events as they are, at the instant that they name."""
    for one in events:
        draft = one.draft
        values = {
            "event_id": one.event_id, "org_id": one.org_id, "rule_id": one.rule_id, "task_id": one.task_id,
            "severity": one.severity, "mode": one.mode, "dedupe_key": draft.dedupe_key, "event_time": draft.event_time,
            "chain_id": draft.chain_id, "block_number": draft.block_number, "block_hash": raw(draft.block_hash),
            "tx_hash": raw(draft.tx_hash), "payload": Jsonb(draft.payload), "created_at": one.created_at,
        }  # fmt: skip
        conn.execute(INSERT, values)
    return list(events)


def raw(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text.removeprefix("0x"))


def notice(**changes: Any) -> Notice:
    """What a receiver is told of `event(rule())`."""
    one = event(rule())
    made = Notice(
        delivery_id=alerts.delivery_id(one.event_id, "ops", DeliveryKind.ALERT),
        event_id=one.event_id,
        kind=DeliveryKind.ALERT,
        rule_id=one.rule_id,
        rule="big_transfers",
        severity=one.severity,
        dedupe_key=one.draft.dedupe_key,
        event_time=one.draft.event_time,
        chain_id=one.draft.chain_id,
        block_number=one.draft.block_number,
        block_hash=one.draft.block_hash,
        tx_hash=one.draft.tx_hash,
        payload='{"value": 1}',
        created_at=T0,
    )
    return replace(made, **changes)


OTHER: Final = DeliveryId(UUID(int=7))
