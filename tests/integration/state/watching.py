"""Rules and their evaluations for the tests: applied, planned by the Dispatcher's own handlers, leased, ended."""

from dataclasses import replace
from hashlib import sha256

from actors.dispatcher import HANDLERS
from state import buffer, evaluations, outbox, rules
from state.db import Connection
from state.tasks import Settlement
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, job
from trace_ray.alert_reports import AppliedRule
from trace_ray.alerts import QUEUE, EvaluationLease, EventBatch, Mode, Rule, Severity, batch_key
from trace_ray.contracts import DEFAULT_ORG, BlockRange, Failure, OrgId, WorkerId
from trace_ray.errors import NotFound

BUNDLES = {"watcher": "ab" * 32, "watcher@2": "cd" * 32}


def rule(*datasets: str, name: str = "watch", org_id: OrgId = DEFAULT_ORG) -> Rule:
    return Rule(
        org_id=org_id,
        name=name,
        bundle="watcher",
        datasets=datasets or ("devnet_blocks",),
        parameters={"threshold": 5},
        channels=("ops",),
        severity=Severity.WARNING,
        mode=Mode.LIVE,
        enabled=True,
        timeout_s=30.0,
        memory_mib=256,
        max_delivery_age_s=None,
        throttle=None,
        yaml_hash="0",
    )


def resolve(_conn: Connection, _org_id: OrgId, reference: str) -> str:
    """The bundles of the tests, as the ledger of bundles finds them."""
    if reference in BUNDLES:
        return BUNDLES[reference]
    raise NotFound(f"there is no bundle {reference}")


def watch(ledger: Ledger, one: Rule) -> AppliedRule:
    with ledger.conn.transaction():
        return rules.apply(ledger.conn, one, resolve)


def drain(ledger: Ledger, limit: int = 100) -> int:
    """Handle events of the outbox as a tick does; return how many."""
    with ledger.conn.transaction():
        drained = outbox.drain(ledger.conn, ledger.epoch, HANDLERS, limit=limit, policy=POLICY)
    assert drained.unhandled == ()
    return len(drained.handled)


def backfill(ledger: Ledger, one: Rule, since: int = 0) -> list[BlockRange]:
    with ledger.conn.transaction():
        return [made.blocks for made in evaluations.backfill(ledger.conn, one.rule_id, since)]


def claim(ledger: Ledger, slots: int = 1, *, ttl_s: float = 60.0, worker: str = "e/0.0") -> list[EvaluationLease]:
    with ledger.conn.transaction():
        return evaluations.claim_evaluations(ledger.conn, ledger.epoch, [WorkerId(worker)] * slots, ttl_s=ttl_s)


def batch(lease: EvaluationLease, data: bytes = b"") -> EventBatch:
    """What a worker offers after it stored an attempt's drafts."""
    return EventBatch(
        attempt=lease.key,
        org_id=lease.rule.org_id,
        rule_id=lease.rule.rule_id,
        batch_uri=batch_key(lease.evaluation.task_id, lease.attempt),
        digest=sha256(data).hexdigest(),
        size=len(data),
        events=data.count(b"\n"),
    )


def complete(ledger: Ledger, lease: EvaluationLease, made: EventBatch | None) -> Settlement:
    with ledger.conn.transaction():
        return evaluations.complete_evaluation(ledger.conn, ledger.epoch, lease.key, made, max_deliveries=3)


def planned(ledger: Ledger, one: Rule) -> list[tuple[int, int]]:
    """Return the blocks of every evaluation of a rule, in order."""
    rows = ledger.rows(
        b"SELECT range_start, range_end FROM state.tasks WHERE kind = 'evaluation' AND job_id = %s::uuid"
        b" ORDER BY range_start, range_end",
        one.rule_id,
    )
    return [(row["range_start"], row["range_end"]) for row in rows]


def of_other(one: Rule, org_id: OrgId) -> Rule:
    return replace(one, org_id=org_id)


def ready(ledger: Ledger, *, to_block: int = 300) -> Rule:
    """Publish ranges of 100 blocks under a rule that looks at each, and plan."""
    ledger.sync(job("blocks", to_block=to_block))
    watch(ledger, rule())
    ledger.drain_once()
    drain(ledger)
    return rule()


def fail(ledger: Ledger, lease: EvaluationLease, *, retryable: bool = True, infra: bool = False) -> None:
    """End an attempt with a failure that counts."""
    failures = [Failure(lease.key, "timeout", "timeout: 30 s", retryable, infra=infra)]
    with ledger.conn.transaction():
        (settled,) = evaluations.fail_evaluations(ledger.conn, ledger.epoch, failures, policy=NO_WAIT)
    assert settled.accepted


def states(ledger: Ledger, one: Rule | None = None) -> list[str]:
    """Return the states of the evaluations of a rule, `watch` by default, in order of their blocks."""
    query = b"SELECT state FROM state.tasks WHERE kind = 'evaluation' AND job_id = %s::uuid ORDER BY range_start"
    return [str(row["state"]) for row in ledger.rows(query, (one or rule()).rule_id)]


def messages(ledger: Ledger) -> list[buffer.Delivery]:
    """Return what the sink would receive, and leave it there."""
    with ledger.conn.transaction(force_rollback=True):
        return buffer.receive(ledger.conn, QUEUE, 10, 60.0)
