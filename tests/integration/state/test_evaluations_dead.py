"""Dead evaluations that an operator puts back: all of a rule, once, with what a fresh evaluation may spend."""

from dataclasses import replace

from state import evaluations, rules, tasks
from state.judge import Reason
from tests.integration.state.ledger import NO_WAIT, Ledger, job, publication
from tests.integration.state.watching import batch, claim, complete, drain, fail, rule, states, watch
from trace_ray.alerts import EvaluationLease, Rule
from trace_ray.contracts import DEFAULT_ORG


def retry(ledger: Ledger, one: Rule) -> int:
    with ledger.conn.transaction():
        return evaluations.retry_dead(ledger.conn, one.rule_id)


def dead(ledger: Ledger) -> list[EvaluationLease]:
    """Two rules over three ranges each: of both two evaluations are dead, and one succeeded."""
    ledger.sync(job("blocks", to_block=300))
    for name in ("watch", "other"):
        watch(ledger, rule(name=name))
    ledger.drain_once()
    drain(ledger)
    leases = claim(ledger, 6)
    for lease in leases:
        if lease.evaluation.blocks.start == 100:
            complete(ledger, lease, None)
        else:
            fail(ledger, lease, retryable=False)
    return [one for one in leases if one.rule.name == "watch" and one.evaluation.blocks.start != 100]


def test_the_dead_evaluations_of_one_rule_are_put_back_once(ledger: Ledger) -> None:
    dead(ledger)
    assert retry(ledger, rule()) == 2
    assert states(ledger, rule()) == ["queued", "succeeded", "queued"]
    assert states(ledger, rule(name="other")) == ["dead", "succeeded", "dead"]
    before = ledger.rows(b"SELECT xmin::text, t::text FROM state.tasks t ORDER BY task_id")
    assert retry(ledger, rule()) == 0
    assert ledger.rows(b"SELECT xmin::text, t::text FROM state.tasks t ORDER BY task_id") == before


def test_what_is_put_back_may_spend_all_attempts_again_and_counts_on(ledger: Ledger) -> None:
    dead(ledger)
    retry(ledger, rule())
    for attempt, end in ((2, "queued"), (3, "dead")):  # as many as a bundle has: one failure more would be too many
        found = claim(ledger, 9)
        assert [one.attempt for one in found] == [attempt] * 2
        for one in found:
            fail(ledger, one)
        assert states(ledger, rule()) == [end, "succeeded", end]
    assert retry(ledger, rule()) == 2
    for one in claim(ledger, 9):
        assert one.attempt == 4
        assert complete(ledger, one, batch(one)).accepted
    assert states(ledger, rule()) == ["succeeded"] * 3


def test_a_late_reply_of_an_attempt_that_died_of_silence_is_refused(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    watch(ledger, rule())
    ledger.complete(publication(ledger.lease()))
    drain(ledger)
    (late,) = claim(ledger, ttl_s=-1)
    assert tasks.reap(ledger.conn, ledger.epoch, policy=replace(NO_WAIT, max_infra_failures=1)) == 1
    assert states(ledger, rule()) == ["dead"]
    assert retry(ledger, rule()) == 1
    assert complete(ledger, late, batch(late)).reason is Reason.STALE_ATTEMPT
    assert tasks.adopt(ledger.conn, ledger.epoch, {late.worker_id: [late.key]}, ttl_s=60) == []
    (again,) = claim(ledger)
    assert complete(ledger, again, batch(again)).accepted


def test_what_is_put_back_of_a_paused_rule_waits_until_it_goes_on(ledger: Ledger) -> None:
    dead(ledger)
    rules.pause(ledger.conn, DEFAULT_ORG, "watch")
    assert retry(ledger, rule()) == 2
    assert claim(ledger, 9) == []
    rules.resume(ledger.conn, DEFAULT_ORG, "watch")
    assert len(claim(ledger, 9)) == 2
