"""Which running evaluations are to be stopped, and what the ledger then says of them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from state import bundles, evaluations, rules, tasks
from state.db import Connection
from state.judge import Reason
from tests.bundles import ALL, Made, key, make
from tests.integration.state.ledger import NO_WAIT, Ledger, job
from tests.integration.state.watching import backfill, claim, complete, rule
from trace_ray.alerts import EvaluationLease
from trace_ray.bundle import signing
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import keyid_of, public_bytes
from trace_ray.contracts import DEFAULT_ORG, AttemptKey

MADE = make()
OTHER = make({"handler.py": Packed(b"def handler(event, context): ...", False)}, version="2.0")


@pytest.fixture
def running(ledger: Ledger) -> EvaluationLease:
    """An attempt of a rule whose bundle two keys have signed, as one may be published by two people."""
    ledger.sync(job("blocks", to_block=100))
    ledger.drain_once()
    for seed in (1, 2):
        bundles.trust(ledger.conn, DEFAULT_ORG, public_bytes(key(seed)), ALL)
    return watched(ledger, MADE, "watch")


def watched(ledger: Ledger, made: Made, name: str) -> EvaluationLease:
    both = signing.sign(made.payload, key(2), signing.sign(made.payload, key(1)))
    bundles.push(ledger.conn, DEFAULT_ORG, made.digest, signing.render_envelope(both))
    one = rule(name=name)
    with ledger.conn.transaction():
        rules.apply(ledger.conn, replace(one, bundle=made.digest), lambda _conn, _org, reference: reference)
    backfill(ledger, one)
    (lease,) = claim(ledger)
    return lease


def withdraw(ledger: Ledger, *leases: EvaluationLease) -> list[AttemptKey]:
    with ledger.conn.transaction():
        return evaluations.withdraw(ledger.conn, ledger.epoch, [one.key for one in leases])


def task(ledger: Ledger) -> tuple[object, ...]:
    (row,) = ledger.rows(
        b"SELECT state, attempt, task_failures, infra_failures, lease_token FROM state.tasks WHERE kind = 'evaluation'"
    )
    return tuple(row.values())


def pause(conn: Connection) -> None:
    rules.pause(conn, DEFAULT_ORG, "watch")


def delete(conn: Connection) -> None:
    conn.execute("DELETE FROM state.rule_datasets")
    conn.execute("DELETE FROM state.rules")


def revoke_bundle(conn: Connection) -> None:
    bundles.revoke(conn, DEFAULT_ORG, MADE.digest)


def revoke_keys(conn: Connection) -> None:
    for seed in (1, 2):
        bundles.revoke(conn, DEFAULT_ORG, keyid_of(public_bytes(key(seed))))


@pytest.mark.parametrize("order", [pause, delete, revoke_bundle, revoke_keys])
def test_what_may_not_go_on_loses_its_lease_and_spends_nothing(
    ledger: Ledger, running: EvaluationLease, order: Callable[[Connection], None]
) -> None:
    assert withdraw(ledger, running) == []
    order(ledger.conn)

    assert withdraw(ledger, running) == [running.key]
    assert task(ledger) == ("queued", 1, 0, 0, None)
    (attempt,) = ledger.rows(b"SELECT outcome FROM state.attempts WHERE task_id = %s", running.evaluation.task_id)
    assert attempt["outcome"] == "released"
    assert withdraw(ledger, running) == [running.key], "the call to stop it may have been lost"
    if order is not delete:
        assert complete(ledger, running, None).reason is not None
        assert task(ledger) == ("queued", 1, 0, 0, None)


def test_a_rule_that_goes_on_has_its_blocks_evaluated_by_another_attempt(
    ledger: Ledger, running: EvaluationLease
) -> None:
    pause(ledger.conn)
    withdraw(ledger, running)
    assert claim(ledger) == []
    rules.resume(ledger.conn, DEFAULT_ORG, "watch")

    (again,) = claim(ledger)
    assert (again.evaluation, again.attempt) == (running.evaluation, 2)
    assert withdraw(ledger, running, again) == [running.key]
    assert complete(ledger, running, None).reason is Reason.STALE_ATTEMPT
    assert complete(ledger, again, None).accepted


def test_a_bundle_goes_on_while_one_of_its_keys_is_trusted(ledger: Ledger, running: EvaluationLease) -> None:
    bundles.revoke(ledger.conn, DEFAULT_ORG, keyid_of(public_bytes(key(1))))
    assert withdraw(ledger, running) == []
    assert complete(ledger, running, None).accepted


def test_what_counts_is_the_bundle_of_the_attempt_not_that_of_its_rule(
    ledger: Ledger, running: EvaluationLease
) -> None:
    both = signing.sign(OTHER.payload, key(2), signing.sign(OTHER.payload, key(1)))
    bundles.push(ledger.conn, DEFAULT_ORG, OTHER.digest, signing.render_envelope(both))
    with ledger.conn.transaction():
        rules.apply(ledger.conn, replace(rule(name="watch"), bundle=OTHER.digest), lambda _conn, _org, found: found)
    assert withdraw(ledger, running) == []
    revoke_bundle(ledger.conn)
    assert withdraw(ledger, running) == [running.key]


def test_what_is_revoked_stops_nothing_else(ledger: Ledger, running: EvaluationLease) -> None:
    other = watched(ledger, OTHER, "other")
    revoke_bundle(ledger.conn)
    assert withdraw(ledger, running, other) == [running.key]
    assert complete(ledger, other, None).accepted


def test_an_attempt_that_another_one_follows_is_stopped(ledger: Ledger, running: EvaluationLease) -> None:
    ledger.conn.execute("UPDATE state.tasks SET lease_expires_at = now() - interval '1 s' WHERE kind = 'evaluation'")
    assert withdraw(ledger, running) == [], "until it is taken back it holds"
    with ledger.conn.transaction():
        assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 1
        (next_one,) = evaluations.claim_evaluations(
            ledger.conn, ledger.epoch, [running.worker_id], ttl_s=60.0, now=datetime(2100, 1, 1, tzinfo=UTC)
        )
    assert withdraw(ledger, running, next_one) == [running.key]
    assert complete(ledger, next_one, None).accepted
    assert withdraw(ledger, running, next_one) == [running.key, next_one.key]


def test_an_old_term_withdraws_nothing(ledger: Ledger, running: EvaluationLease) -> None:
    pause(ledger.conn)
    with ledger.conn.transaction():
        tasks.take_over(ledger.conn, holder="cluster/space/2", ttl_s=60.0)
    with pytest.raises(psycopg.DatabaseError, match="epoch 1 is fenced"):
        withdraw(ledger, running)
    assert task(ledger)[0] == "running"
