"""Alert rules: applied once, pinned to a bundle, paused, listed; organisations know nothing of each other."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from state import jobs, rules
from state.db import Connection
from tests.integration.state import watching
from tests.integration.state.ledger import POLICY, Ledger, job, stream
from tests.integration.state.watching import BUNDLES, resolve, rule, watch
from trace_ray.alerts import Mode, Rule, Severity, Throttle
from trace_ray.contracts import DEFAULT_ORG, Failure, OrgId
from trace_ray.errors import NotFound, RefusedInput

OTHER = OrgId(UUID(int=7))


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    ledger.sync(job("blocks", "logs"))
    return ledger


def stored(conn: Connection, one: Rule) -> Rule:
    return rules.by_ids(conn, [one.rule_id])[one.rule_id]


def problems(ledger: Ledger, one: Rule) -> list[str]:
    with pytest.raises(RefusedInput) as caught:
        watch(ledger, one)
    return caught.value.problems


def test_a_rule_is_stored_as_it_was_written_and_pinned_to_its_bundle(ledger: Ledger) -> None:
    one = replace(
        rule("devnet_logs", "devnet_blocks"),
        throttle=Throttle(3, 60.0),
        max_delivery_age_s=900.0,
        mode=Mode.SHADOW,
        parameters={"deep": [{"address": "0xab", "on": True}]},
    )
    applied = watch(ledger, one)
    assert applied.created
    assert applied.rule == replace(one, bundle=BUNDLES["watcher"]) == stored(ledger.conn, one)
    assert applied.changes == (f"rule watch created: bundle {BUNDLES['watcher']} on devnet_logs, devnet_blocks",)


def test_the_same_file_again_changes_nothing(ledger: Ledger) -> None:
    watch(ledger, rule())
    before = ledger.rows(b"SELECT xmin::text, r::text FROM state.rules r")
    applied = watch(ledger, rule())
    assert (applied.created, applied.changes) == (False, ())
    assert ledger.rows(b"SELECT xmin::text, r::text FROM state.rules r") == before


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "watcher@2"},
        {"datasets": ("devnet_logs", "devnet_blocks")},
        {"parameters": {"threshold": 6}},
        {"channels": ()},
        {"severity": Severity.CRITICAL},
        {"mode": Mode.SHADOW},
        {"enabled": False},
        {"timeout_s": 1.0},
        {"memory_mib": 64},
        {"max_delivery_age_s": 1.0},
        {"throttle": Throttle(1, 1.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_key_of_a_known_rule_can_be_changed(ledger: Ledger, change: dict[str, Any]) -> None:
    watch(ledger, rule())
    one = replace(rule(), **change)
    applied = watch(ledger, one)
    assert (applied.created, len(applied.changes)) == (False, 1)
    assert stored(ledger.conn, one) == applied.rule == replace(one, bundle=BUNDLES[one.bundle])


def test_what_a_rule_names_and_is_not_there_is_told_at_once(ledger: Ledger) -> None:
    ledger.sync(replace(job("blocks", name="far"), chain_id=5, streams=(replace(stream("blocks"), dataset="far_b"),)))
    found = problems(ledger, replace(rule("devnet_blocks", "no_a", "far_b", "no_b"), bundle="nobody"))
    known = "choose one of devnet_blocks, devnet_logs, far_b"
    assert found == [
        f"datasets: there is no dataset no_a: {known}",
        f"datasets: there is no dataset no_b: {known}",
        "datasets: they are of the chains 5, 31337: write a rule for each chain",
        "bundle: there is no bundle nobody",
    ]
    assert rules.listing(ledger.conn, DEFAULT_ORG) == []


def test_a_rule_watches_the_dataset_also_under_its_new_name(ledger: Ledger) -> None:
    watch(ledger, rule("devnet_blocks"))
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job(replace(stream("blocks"), dataset="renamed"), "logs"))
    assert stored(ledger.conn, rule()).datasets == ("renamed",)


def test_organisations_have_rules_of_their_own(ledger: Ledger) -> None:
    ledger.sync(replace(job("blocks"), org_id=OTHER))
    here, there = rule(), replace(rule(org_id=OTHER), bundle="watcher@2")
    assert problems(ledger, rule("devnet_logs", org_id=OTHER))[0].endswith("choose one of devnet_blocks")
    watch(ledger, here)
    watch(ledger, there)
    assert here.rule_id != there.rule_id
    for org, digest in ((DEFAULT_ORG, BUNDLES["watcher"]), (OTHER, BUNDLES["watcher@2"])):
        (found,) = rules.listing(ledger.conn, org)
        assert (found.rule.org_id, found.rule.bundle) == (org, digest)
    rules.pause(ledger.conn, OTHER, "watch")
    assert stored(ledger.conn, here).enabled
    assert not stored(ledger.conn, there).enabled


def test_pause_and_resume_name_what_there_is(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="there is no rule watch: apply a rule file first"):
        rules.pause(ledger.conn, DEFAULT_ORG, "watch")
    watch(ledger, rule())
    with pytest.raises(NotFound, match="there is no rule other: choose one of watch"):
        rules.resume(ledger.conn, DEFAULT_ORG, "other")
    rules.pause(ledger.conn, DEFAULT_ORG, "watch")
    assert not stored(ledger.conn, rule()).enabled
    rules.resume(ledger.conn, DEFAULT_ORG, "watch")
    assert stored(ledger.conn, rule()).enabled
    with pytest.raises(NotFound, match="there is no rule other"):
        rules.report(ledger.conn, DEFAULT_ORG, "other")


def test_a_paused_rule_is_resumed_by_its_file(ledger: Ledger) -> None:
    watch(ledger, rule())
    rules.pause(ledger.conn, DEFAULT_ORG, "watch")
    assert watch(ledger, rule()).changes == ("rule resumed",)


def test_a_report_counts_evaluations_and_tells_the_newest_trouble(ledger: Ledger) -> None:
    watch(ledger, rule())
    ledger.drain_once()
    watching.drain(ledger)
    first, second, _ = watching.claim(ledger, 3)
    watching.complete(ledger, first, None)
    message = "user_error: KeyError"
    ledger.fail(Failure(second.key, "user_error", message, retryable=False), policy=POLICY)
    found = rules.report(ledger.conn, DEFAULT_ORG, "watch")
    assert found.evaluations == {"queued": 1, "running": 1, "succeeded": 1, "dead": 1}
    (trouble,) = found.troubles
    assert (trouble.task_id, trouble.state, trouble.kind) == (second.evaluation.task_id, "dead", "user_error")
    assert (trouble.blocks, trouble.message) == (second.evaluation.blocks, message)


def test_a_bundle_is_resolved_in_the_organisation_of_the_rule(ledger: Ledger) -> None:
    asked: list[tuple[OrgId, str]] = []

    def noting(conn: Connection, org_id: OrgId, reference: str) -> str:
        asked.append((org_id, reference))
        return resolve(conn, org_id, reference)

    with ledger.conn.transaction():
        rules.apply(ledger.conn, rule(), noting)
    assert asked == [(DEFAULT_ORG, "watcher")]
