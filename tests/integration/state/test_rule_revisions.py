"""Revisions of rules: what a rule said is kept, and each attempt names what it ran with."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from psycopg.types.json import Jsonb

from state import db, migrate, rules
from state.db import Connection
from tests.integration.state.ledger import NO_WAIT, Ledger, job
from tests.integration.state.watching import BUNDLES, claim, complete, drain, resolve, rule, watch
from trace_ray.alerts import Rule, Severity, rule_id
from trace_ray.contracts import DEFAULT_ORG, Failure

FIRST = rule()
SECOND = replace(FIRST, bundle="watcher@2", parameters={"threshold": 6}, severity=Severity.CRITICAL)
FILES = migrate.migrations("state")


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    ledger.sync(job("blocks", "logs", to_block=200))
    return ledger


def said(ledger: Ledger, *numbers: int) -> list[Rule]:
    found = rules.revisions(ledger.conn, [(FIRST.rule_id, number) for number in numbers])
    return [found[FIRST.rule_id, number].rule for number in numbers]


def newest(ledger: Ledger) -> int:
    return rules.report(ledger.conn, DEFAULT_ORG, "watch").revision


def recorded(ledger: Ledger) -> list[tuple[int, int, int]]:
    rows = ledger.rows(
        b"SELECT t.range_start, a.attempt, a.rule_revision FROM state.attempts a JOIN state.tasks t USING (task_id)"
        b" WHERE t.kind = 'evaluation' ORDER BY t.range_start, a.attempt"
    )
    return [(row["range_start"], row["attempt"], row["rule_revision"]) for row in rows]


def pinned(one: Rule) -> Rule:
    return replace(one, bundle=BUNDLES[one.bundle])


def test_each_change_of_the_file_is_a_revision_and_the_earlier_ones_stay(ledger: Ledger) -> None:
    third = replace(SECOND, datasets=("devnet_logs", "devnet_blocks"))
    for one in (FIRST, SECOND, third):
        watch(ledger, one)
        watch(ledger, one)
    assert newest(ledger) == 3
    assert said(ledger, 1, 2, 3) == [pinned(FIRST), pinned(SECOND), pinned(third)]
    assert rules.revisions(ledger.conn, [(FIRST.rule_id, 4)]) == {}


def test_a_pause_is_no_revision_however_it_comes(ledger: Ledger) -> None:
    watch(ledger, FIRST)
    rules.pause(ledger.conn, DEFAULT_ORG, "watch")
    rules.resume(ledger.conn, DEFAULT_ORG, "watch")
    assert watch(ledger, replace(FIRST, enabled=False)).changes == ("rule paused",)
    assert newest(ledger) == 1
    watch(ledger, SECOND)  # which resumes it as well
    assert newest(ledger) == 2


def test_an_attempt_is_recorded_with_the_revision_that_its_lease_tells_of(ledger: Ledger) -> None:
    watch(ledger, FIRST)
    ledger.drain_once()
    drain(ledger)
    (first,) = claim(ledger)
    watch(ledger, SECOND)
    second, *_ = claim(ledger)
    assert [first.rule, second.rule] == [pinned(FIRST), pinned(SECOND)]
    ledger.fail(Failure(first.key, "timeout", "timeout: 30 s", True), policy=NO_WAIT)
    (again,) = claim(ledger)
    assert again.rule == pinned(SECOND)
    assert complete(ledger, again, None).accepted
    assert recorded(ledger) == [(0, 1, 1), (0, 2, 2), (100, 1, 2)]


def test_a_change_that_is_not_committed_is_neither_run_nor_recorded(
    ledger: Ledger, connection: Callable[[], Connection]
) -> None:
    watch(ledger, FIRST)
    ledger.drain_once()
    drain(ledger)
    other = connection()
    with other.transaction():
        rules.apply(other, SECOND, resolve)
        (lease,) = claim(ledger)
    assert lease.rule == pinned(FIRST)
    assert [revision for *_, revision in recorded(ledger)] == [1]


def test_rules_from_before_revisions_have_their_first_one(ledger: Ledger, empty_url: str) -> None:
    """The rules of a ledger of the release before, brought to this schema."""
    place = next(place for place, one in enumerate(FILES) if one.name == "rule_revisions")
    migrate.migrate(empty_url, files_=FILES[:place])
    watch(ledger, replace(SECOND, datasets=("devnet_logs", "devnet_blocks")))
    with db.connect(empty_url, application_name="trace-test") as old:
        old.execute(b"SET session_replication_role = 'replica'")  # without the organisation
        for table in (b"datasets", b"rules", b"rule_datasets"):
            (row,) = ledger.rows(b"SELECT jsonb_agg(r) AS found FROM state." + table + b" r")
            copy = b"INSERT INTO state.%b SELECT * FROM jsonb_populate_recordset(NULL::state.%b, %%s::jsonb)"
            old.execute(copy % (table, table), (Jsonb(row["found"]),))
        migrate.migrate(empty_url)
        key = (rule_id(DEFAULT_ORG, "watch"), 1)
        before, after = (rules.revisions(conn, [key])[key] for conn in (ledger.conn, old))
        assert (after.rule, after.revision) == (before.rule, before.revision)
        assert rules.report(old, DEFAULT_ORG, "watch").revision == 1
