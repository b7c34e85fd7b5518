"""Alert events, in database `data`. An event is written once; the same one again changes nothing.

The caller owns the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from state import arrays
from state.db import Connection, Row, ask, statements
from trace_ray.alert_reports import StoredEvent
from trace_ray.alerts import AlertEvent, Draft, EventId, Mode, Rule, RuleId, Severity, event_id
from trace_ray.contracts import BlockRange, OrgId, TaskId
from trace_ray.drafts import compact

SQL: Final = statements("alerts")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Added:
    """What became of drafts. `repeated` were known; `conflicting` ones with another content, which was kept."""

    new: tuple[AlertEvent, ...]
    repeated: int
    conflicting: tuple[EventId, ...]


def add(conn: Connection, rule: Rule, task_id: TaskId, attempt: int, drafts: Sequence[Draft]) -> Added:
    """Keep drafts of one evaluation as events of its rule: all of them, or none when this raises.

    Args:
        drafts: As `trace_ray.drafts.read` returns them: each key once. A few thousand at a time.
    """
    placed = {event_id(rule.org_id, draft.dedupe_key): draft for draft in drafts}
    ids = sorted(placed, key=lambda one: one.int)  # two sinks lock the same events in the same order
    ordered = [placed[one] for one in ids]
    rule_id = rule.rule_id  # made anew at each look
    columns = _columns(ids, ordered) | {
        "org": rule.org_id,
        "rule_id": rule_id,
        "rule": rule.name,
        "task": task_id,
        "attempt": attempt,
        "severity": rule.severity,
        "mode": rule.mode,
        "keys": arrays.texts(draft.dedupe_key for draft in ordered),
    }
    created: dict[EventId, datetime] = {EventId(row[0]): row[1] for row in ask(conn, SQL["add"], columns)}
    new = tuple(
        AlertEvent(one, rule.org_id, rule_id, task_id, attempt, rule.severity, rule.mode, placed[one], at)
        for one, at in created.items()
    )
    known = [one for one in ids if one not in created]
    if not known:
        return Added(new, 0, ())
    parameters = _columns(known, [placed[one] for one in known]) | {"rule_id": rule_id}
    differ = tuple(EventId(row[0]) for row in ask(conn, SQL["differ"], parameters))
    return Added(new, len(known), differ)


def blocks(conn: Connection, org_id: OrgId, chain_id: int, span: BlockRange) -> dict[int, set[bytes]]:
    """Return the hashes of blocks that events of an organisation are about, by number; retracted ones left out."""
    parameters = {"org": org_id, "chain": chain_id, "start": span.start, "end": span.end}
    found: dict[int, set[bytes]] = {}
    for number, block_hash in ask(conn, SQL["blocks"], parameters):
        found.setdefault(number, set()).add(bytes(block_hash))
    return found


def retract(
    conn: Connection, org_id: OrgId, chain_id: int, gone: Sequence[tuple[int, bytes]], *, limit: int
) -> list[EventId]:
    """Mark events whose blocks, by number and hash, are gone; return those that were not marked before.

    At most `limit` of them: none means that no more are left. Their deliveries belong into the same transaction.
    """
    parameters = {
        "org": org_id,
        "chain": chain_id,
        "blocks": arrays.bigints([number for number, _ in gone]),
        "hashes": arrays.blobs(block_hash for _, block_hash in gone),
        "limit": limit,
    }
    return [EventId(row["event_id"]) for row in conn.execute(SQL["retract"], parameters)]


def find(conn: Connection, org_id: OrgId, event: EventId) -> StoredEvent | None:
    """Return an event of an organisation."""
    row = conn.execute(SQL["find"], {"org": org_id, "event": event}).fetchone()
    return None if row is None else _stored(row)


def recent(conn: Connection, org_id: OrgId, *, rule_id: RuleId | None = None, limit: int = 100) -> list[StoredEvent]:
    """Return the newest events of an organisation, of one rule or of all."""
    rows = conn.execute(SQL["recent"], {"org": org_id, "rule_id": rule_id, "limit": limit})
    return [_stored(row) for row in rows]


def _columns(ids: Sequence[EventId], drafts: Sequence[Draft]) -> dict[str, object]:
    return {
        "events": arrays.uuids(ids),
        "times": arrays.bigints([(draft.event_time - EPOCH) // MICROSECOND for draft in drafts]),
        "chains": arrays.bigints([draft.chain_id for draft in drafts]),
        "blocks": arrays.bigints([draft.block_number for draft in drafts]),
        "block_hashes": arrays.blobs(_raw(draft.block_hash) for draft in drafts),
        "tx_hashes": arrays.blobs(_raw(draft.tx_hash) if draft.tx_hash else b"" for draft in drafts),
        "payloads": arrays.documents(compact(draft.payload) for draft in drafts),
    }


def _raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _stored(row: Row) -> StoredEvent:
    draft = Draft(
        alert_definition_id=RuleId(row["rule_id"]),
        dedupe_key=row["dedupe_key"],
        event_time=row["event_time"],
        chain_id=row["chain_id"],
        block_number=row["block_number"],
        block_hash=f"0x{row['block_hash'].hex()}",
        tx_hash=None if row["tx_hash"] is None else f"0x{row['tx_hash'].hex()}",
        payload=row["payload"],
    )
    event = AlertEvent(
        event_id=EventId(row["event_id"]),
        org_id=OrgId(row["org_id"]),
        rule_id=RuleId(row["rule_id"]),
        task_id=TaskId(row["task_id"]),
        attempt=row["attempt"],
        severity=Severity(row["severity"]),
        mode=Mode(row["mode"]),
        draft=draft,
        created_at=row["created_at"],
        retracted_at=row["retracted_at"],
    )
    return StoredEvent(row["rule"], event)
