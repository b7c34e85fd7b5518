"""Alert events: each once in its organisation, the first content stays, and the newest come first."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from state import alerts
from state.db import Connection
from state.evaluations import TaskId
from tests.integration.state.ledger import CHAIN
from tests.integration.state.watching import rule
from trace_ray.alerts import Draft, Mode, Severity, event_id
from trace_ray.contracts import DEFAULT_ORG, OrgId

OTHER = OrgId(UUID(int=7))
TASK = TaskId(uuid4())
AT = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)


def draft(key: str = "k", **changes: Any) -> Draft:
    made = Draft(rule().rule_id, key, AT, CHAIN, 5, "0x" + "ab" * 32, "0x" + "cd" * 32, {"value": 1})
    return replace(made, **changes)


def add(conn: Connection, *drafts: Draft, task: TaskId = TASK, org_id: OrgId = DEFAULT_ORG) -> alerts.Added:
    return alerts.add(conn, rule(org_id=org_id), task, 1, drafts)


def test_an_event_is_stored_as_it_was_drafted_with_what_the_ledger_says(conn: Connection) -> None:
    one = draft(payload={"deep": [{"\u00e9": 1.5, "big": 2**70, "on": True, "none": None}]}, tx_hash=None)
    critical = replace(rule(), severity=Severity.CRITICAL, mode=Mode.SHADOW)
    (new,) = alerts.add(conn, critical, TASK, 3, [one]).new
    (stored,) = alerts.recent(conn, DEFAULT_ORG)
    assert stored.event == new
    assert (stored.rule, new.draft, new.event_id) == ("watch", one, event_id(DEFAULT_ORG, "k"))
    assert (new.severity, new.mode, new.task_id, new.attempt) == (Severity.CRITICAL, Mode.SHADOW, TASK, 3)
    assert new.retracted_at is None


def test_the_same_event_again_changes_nothing(conn: Connection) -> None:
    add(conn, draft("a"), draft("b"))
    before = conn.execute(b"SELECT xmin::text, e::text FROM data.alert_events e ORDER BY event_id").fetchall()
    again = add(conn, draft("b"), draft("c"), draft("a"), task=TaskId(uuid4()))
    assert ([one.draft.dedupe_key for one in again.new], again.repeated, again.conflicting) == (["c"], 2, ())
    after = conn.execute(
        b"SELECT xmin::text, e::text FROM data.alert_events e WHERE dedupe_key <> 'c' ORDER BY event_id"
    ).fetchall()
    assert after == before


@pytest.mark.parametrize(
    "change",
    [
        {"event_time": AT + timedelta(microseconds=1)},
        {"chain_id": 1},
        {"block_number": 6},
        {"block_hash": "0x" + "00" * 32},
        {"tx_hash": None},
        {"payload": {"value": True}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_of_two_contents_under_one_key_the_first_stays_and_the_second_is_told(
    conn: Connection, change: dict[str, Any]
) -> None:
    add(conn, draft())
    added = add(conn, draft(**change), draft("other"))
    assert ([one.draft.dedupe_key for one in added.new], added.repeated) == (["other"], 1)
    assert added.conflicting == (event_id(DEFAULT_ORG, "k"),)
    assert draft() in [one.event.draft for one in alerts.recent(conn, DEFAULT_ORG)]


def test_a_key_that_another_rule_used_is_a_conflict(conn: Connection) -> None:
    add(conn, draft())
    added = alerts.add(conn, rule(name="second"), TASK, 1, [draft()])
    assert (added.new, added.conflicting) == ((), (event_id(DEFAULT_ORG, "k"),))


def test_organisations_do_not_share_keys_nor_see_each_other(conn: Connection) -> None:
    add(conn, draft())
    (there,) = add(conn, draft(), org_id=OTHER).new
    assert [one.event.org_id for one in alerts.recent(conn, DEFAULT_ORG)] == [DEFAULT_ORG]
    assert [one.event.event_id for one in alerts.recent(conn, OTHER)] == [there.event_id]


def test_the_newest_come_first_of_one_rule_or_of_all(conn: Connection) -> None:
    for number in range(3):
        add(conn, draft(f"a{number}"))
    alerts.add(conn, rule(name="second"), TASK, 1, [draft("b")])
    assert [one.event.draft.dedupe_key for one in alerts.recent(conn, DEFAULT_ORG)] == ["b", "a2", "a1", "a0"]
    found = alerts.recent(conn, DEFAULT_ORG, rule_id=rule().rule_id, limit=2)
    assert [one.event.draft.dedupe_key for one in found] == ["a2", "a1"]


def test_all_or_none_is_kept(conn: Connection) -> None:
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        add(conn, draft("a"), draft("b", payload={"nul": "\0"}), draft("c"))
    assert alerts.recent(conn, DEFAULT_ORG) == []


@pytest.mark.parametrize("analysed", [True, False])
def test_listing_and_conflicts_read_no_table_from_end_to_end(conn: Connection, analysed: bool) -> None:
    conn.execute(
        b"INSERT INTO data.alert_events (event_id, org_id, rule_id, rule, task_id, attempt, severity, mode, dedupe_key,"
        b" event_time, chain_id, block_number, block_hash, payload)"
        b" SELECT gen_random_uuid(), %s::uuid, gen_random_uuid(), 'r', gen_random_uuid(), 1, 'info', 'live', n::text,"
        b" now(), 1, n, '', '{}' FROM generate_series(1, 20000) n",
        (DEFAULT_ORG,),
    )
    if analysed:
        conn.execute(b"ANALYZE data.alert_events")
    values = {
        "org": DEFAULT_ORG, "rule_id": rule().rule_id, "limit": 10, "events": [uuid4()], "times": [1], "chains": [1],
        "blocks": [1], "block_hashes": [b""], "tx_hashes": [b""], "payloads": ["{}"],
    }  # fmt: skip
    for statement in ("recent", "differ"):
        rows = conn.execute(b"EXPLAIN " + alerts.SQL[statement], values).fetchall()
        assert "Seq Scan" not in str(rows), statement
