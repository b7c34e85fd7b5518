"""The ledger of evaluations: which blocks a rule looks at, leases on them, and their ends.

An evaluation is a task of kind `evaluation`: heartbeat, reap, free, adopt, cancel and fail are those of `state.tasks`.
The caller owns the transaction and has fenced it. Only planning presents no epoch of its own: it adds tasks, and one
that is there already stays as it is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from psycopg.types.json import Jsonb

from state import arrays, buffer, bundles, rules, tasks
from state.cells import Span, cells
from state.db import Connection, Row, statements
from state.judge import Reason
from state.tasks import Settlement
from trace_ray.alerts import QUEUE, Evaluation, EvaluationLease, EventBatch, Rule, RuleId, batch_key
from trace_ray.contracts import (
    AttemptKey,
    BlockRange,
    DatasetUuid,
    Epoch,
    Failure,
    LeaseToken,
    OrgId,
    TaskId,
    VersionId,
    WorkerId,
    by_range,
)
from trace_ray.errors import BundleRejected, NotFound
from trace_ray.outcomes import MAX_ATTEMPTS
from trace_ray.retry import RetryPolicy

SQL: Final = statements("evaluations")

LIVE: Final = 0  # priorities: the lower one is leased first
BACKFILL: Final = 1
PART: Final = 5_000  # evaluations queued by one statement
MAX_BLOCK: Final = 2**62  # beyond every block


@dataclass(frozen=True, slots=True)
class _Watch:
    """One rule: its datasets, and the published versions that it is to be planned for (None: all that are visible)."""

    rule_id: RuleId
    chain_id: int
    datasets: tuple[DatasetUuid, ...]
    published: Collection[VersionId] | None


# --- planning -----------------------------------------------------------------------------------------------------


def plan_evaluations(conn: Connection, versions: Sequence[VersionId]) -> list[Evaluation]:
    """Queue what rules have to look at since these versions were published, and return what is new.

    `state.cells` says which blocks these are, and proves that none is lost and none is planned twice. Each evaluation
    is pinned to the snapshot that is the newest now. A version that was replaced meanwhile gives none: its successor
    has its own event. A paused rule is planned like any other, and nothing of it is leased: so it misses no block.
    To be called while the outbox is drained: that statement has presented the epoch.
    """
    if not versions:
        return []
    rows = conn.execute(SQL["watched"], {"versions": arrays.uuids(versions)}).fetchall()
    if not rows:
        return []
    published: dict[RuleId, set[VersionId]] = {}
    touched: dict[RuleId, list[BlockRange]] = {}
    for row in rows:
        published.setdefault(row["rule_id"], set()).add(row["dataset_version"])
        touched.setdefault(row["rule_id"], []).append(BlockRange(row["range_start"], row["range_end"]))
    watches = _watches(conn, published)
    spans: dict[DatasetUuid, list[BlockRange]] = {}
    for watch in watches:
        for dataset in watch.datasets:
            spans.setdefault(dataset, []).extend(touched[watch.rule_id])
    return _plan(conn, watches, spans, priority=LIVE)


def backfill(conn: Connection, rule_id: RuleId, since: int) -> list[Evaluation]:
    """Queue evaluations of what is published from a block on, the range that holds it included; return what is new.

    What was left out of them is queued after all, and counts as new.
    """
    watches = _watches(conn, {rule_id: None})
    spans = {dataset: [BlockRange(since, MAX_BLOCK)] for watch in watches for dataset in watch.datasets}
    return _plan(conn, watches, spans, priority=BACKFILL)


def preview(conn: Connection, rule: Rule, blocks: BlockRange) -> list[Evaluation]:
    """Return the evaluations that a rule, applied or not, has over these blocks as they are published now; queue none.

    They are those that planning makes, in order of their blocks, with the newest snapshot: whole ones, so the first
    and the last may reach beyond `blocks`, which each overlaps. Empty where not all of its datasets are published.
    """
    rows = conn.execute(SQL["named"], {"org": rule.org_id, "names": arrays.texts(rule.datasets)}).fetchall()
    members = [DatasetUuid(row["dataset_uuid"]) for row in rows]
    visible, newest = _visible(conn, {dataset: [blocks] for dataset in members})
    return [
        Evaluation.make(rule.rule_id, rows[0]["chain_id"], cell.blocks, newest[members[0]], cell.inputs)
        for cell in cells([visible.get(dataset, []) for dataset in members])
    ]


def _watches(conn: Connection, published: Mapping[RuleId, Collection[VersionId] | None]) -> list[_Watch]:
    members: dict[RuleId, list[DatasetUuid]] = {}
    chains: dict[RuleId, int] = {}
    for row in conn.execute(SQL["members"], {"rules": arrays.uuids(published)}):
        members.setdefault(row["rule_id"], []).append(row["dataset_uuid"])
        chains[row["rule_id"]] = row["chain_id"]
    return [_Watch(rule, chains[rule], tuple(datasets), published[rule]) for rule, datasets in members.items()]


def _plan(
    conn: Connection, watches: Sequence[_Watch], spans: Mapping[DatasetUuid, Sequence[BlockRange]], *, priority: int
) -> list[Evaluation]:
    visible, newest = _visible(conn, spans)
    planned = [
        Evaluation.make(watch.rule_id, watch.chain_id, cell.blocks, newest[watch.datasets[0]], cell.inputs)
        for watch in watches
        for cell in cells([visible.get(dataset, []) for dataset in watch.datasets], watch.published)
    ]
    new: set[TaskId] = set()
    for start in range(0, len(planned), PART):
        part = planned[start : start + PART]
        new |= _add(conn, part, priority)
        if priority == BACKFILL:  # by order of a person: an event that comes twice brings nothing back
            parameters = {"tasks": arrays.uuids(one.task_id for one in part), "priority": priority}
            new |= {TaskId(row["task_id"]) for row in conn.execute(SQL["restore"], parameters)}
    return [one for one in planned if one.task_id in new]


def _visible(
    conn: Connection, spans: Mapping[DatasetUuid, Sequence[BlockRange]]
) -> tuple[dict[DatasetUuid, list[Span]], dict[DatasetUuid, int]]:
    """Return what overlaps the spans, sorted, and the newest snapshot: read by one statement, so that they fit."""
    pairs = [(dataset, blocks) for dataset, ranges in spans.items() for blocks in by_range(ranges)]
    parameters = {
        "datasets": arrays.uuids(dataset for dataset, _ in pairs),
        "starts": arrays.bigints([blocks.start for _, blocks in pairs]),
        "ends": arrays.bigints([blocks.end for _, blocks in pairs]),
    }
    found: dict[DatasetUuid, set[Span]] = {}
    newest: dict[DatasetUuid, int] = {}
    for row in conn.execute(SQL["visible"], parameters):
        span = Span(row["dataset_version"], BlockRange(row["range_start"], row["range_end"]))
        found.setdefault(row["dataset_uuid"], set()).add(span)  # one version may reach into several spans
        newest[row["dataset_uuid"]] = row["newest"]
    return {dataset: sorted(one, key=lambda span: span.blocks) for dataset, one in found.items()}, newest


def _add(conn: Connection, planned: Sequence[Evaluation], priority: int) -> set[TaskId]:
    parameters = {
        "tasks": arrays.uuids(one.task_id for one in planned),
        "rules": arrays.uuids(one.rule_id for one in planned),
        "chains": arrays.bigints([one.chain_id for one in planned]),
        "starts": arrays.bigints([one.blocks.start for one in planned]),
        "ends": arrays.bigints([one.blocks.end for one in planned]),
        "snapshots": arrays.bigints([one.as_of for one in planned]),
        "inputs": arrays.texts(one.inputs for one in planned),
        "priority": priority,
    }
    return {TaskId(row["task_id"]) for row in conn.execute(SQL["add"], parameters)}


# --- leases and ends ----------------------------------------------------------------------------------------------


def claim_evaluations(
    conn: Connection, epoch: Epoch, slots: Sequence[WorkerId], *, ttl_s: float, now: datetime | None = None
) -> list[EvaluationLease]:
    """Lease due evaluations of enabled rules, one per slot; rules take turns.

    Each attempt is recorded with the revision of its rule that its lease tells of, whatever is applied meanwhile.

    Args:
        slots: One worker id per free slot.
        now: For tests, which move time instead of sleeping.
    """
    parameters = {"epoch": epoch, "slots": arrays.texts(slots), "ttl": timedelta(seconds=ttl_s), "now": now}
    rows = conn.execute(SQL["claim"], parameters).fetchall()
    said = rules.revisions(conn, {(row["rule_id"], row["revision"]) for row in rows}) if rows else {}
    return [
        EvaluationLease(
            evaluation=_evaluation(row),
            rule=said[row["rule_id"], row["revision"]].rule,
            attempt=row["attempt"],
            lease_token=LeaseToken(row["lease_token"]),
            worker_id=WorkerId(row["worker_id"]),
            ttl_s=ttl_s,
        )
        for row in rows
    ]


def complete_evaluation(
    conn: Connection,
    epoch: Epoch,
    attempt: AttemptKey,
    batch: EventBatch | None,
    *,
    max_deliveries: int,
    seconds: Mapping[str, float] | None = None,
) -> Settlement:
    """End a running attempt that succeeded: its task is done and its batch is in the buffer queue, or neither.

    Args:
        batch: What the attempt emitted, None when that is nothing. One that is not of this attempt and its rule is
            refused (`mismatch`), and the attempt goes on.
        seconds: Durations of the attempt's stages.
    """
    row = conn.execute(SQL["source"], {"task": attempt.task_id}).fetchone()
    if row is None or not _holds(row, attempt):
        return Settlement(attempt, False, tasks.refusals(conn, [attempt])[attempt])
    if batch is not None:
        if not _fits(row, attempt, batch):
            return Settlement(attempt, False, Reason.MISMATCH)
        (settled,) = buffer.publish(conn, epoch, [_message(batch)], max_deliveries=max_deliveries)
        if not settled.accepted:
            return settled
    parameters = {
        "task": attempt.task_id,
        "attempt": attempt.attempt,
        "token": attempt.lease_token,
        "epoch": epoch,
        "durations": None if seconds is None else Jsonb(dict(seconds)),
    }
    if conn.execute(SQL["finish"], parameters).fetchone() is not None:
        return Settlement(attempt, True)
    return Settlement(attempt, False, tasks.refusals(conn, [attempt])[attempt])


def fail_evaluations(
    conn: Connection, epoch: Epoch, failures: Sequence[Failure], *, policy: RetryPolicy
) -> list[Settlement]:
    """Count failed attempts as `tasks.fail` does, with the fewer attempts that a bundle has."""
    budget = replace(policy, max_attempts=min(policy.max_attempts, MAX_ATTEMPTS))
    return tasks.fail(conn, epoch, failures, policy=budget)


# --- by order of an operator --------------------------------------------------------------------------------------


def retry_dead(conn: Connection, rule_id: RuleId) -> int:
    """Put the dead evaluations of a rule back with fresh budgets and return how many. Attempts go on counting."""
    return len(conn.execute(SQL["replay"], {"rule": rule_id}).fetchall())


def leave_out(conn: Connection, rule_id: RuleId) -> list[BlockRange]:
    """Cancel the queued evaluations of a rule and return their blocks in order, one range per evaluation.

    Only `backfill` brings them back.
    """
    rows = conn.execute(SQL["queued"], {"rule": rule_id}).fetchall()
    for start in range(0, len(rows), PART):
        tasks.cancel(conn, [TaskId(row["task_id"]) for row in rows[start : start + PART]])
    return [BlockRange(row["range_start"], row["range_end"]) for row in rows]


def withdraw(conn: Connection, epoch: Epoch, running: Sequence[AttemptKey]) -> list[AttemptKey]:
    """Return which of these attempts are to be stopped: they are not held any more, or may not go on.

    What may not go on loses its lease here and is evaluated again, if ever: its rule is paused or gone, or its bundle,
    or the last trusted key that signed it, is revoked. No budget is spent.
    """
    rows = conn.execute(SQL["standing"], {**_keys(running), "epoch": epoch}).fetchall()
    over = [_key(row) for row in rows if row["over"] or (row["doubted"] and not _vouched(conn, row))]
    if over:
        conn.execute(SQL["withdraw"], {**_keys(over), "epoch": epoch})
    standing = {_key(row) for row in rows} - set(over)
    return [key for key in running if key not in standing]


def _vouched(conn: Connection, row: Row) -> bool:
    try:
        bundles.usable(conn, OrgId(row["org_id"]), row["bundle"])
    except (BundleRejected, NotFound):
        return False
    return True


def _keys(attempts: Sequence[AttemptKey]) -> dict[str, arrays.Packed]:
    return {
        "tasks": arrays.uuids(one.task_id for one in attempts),
        "attempts": arrays.ints([one.attempt for one in attempts]),
        "tokens": arrays.uuids(one.lease_token for one in attempts),
    }


def _key(row: Row) -> AttemptKey:
    return AttemptKey(TaskId(row["task_id"]), row["attempt"], LeaseToken(row["lease_token"]))


# --- what the sink may believe ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """What the ledger knows of where a batch comes from. `accepted` is the attempt that succeeded, None before."""

    evaluation: Evaluation
    rule: Rule
    accepted: int | None


def source(conn: Connection, task_id: TaskId) -> Source | None:
    """Return what is known of an evaluation and its rule as it is now, or None when there is no such evaluation."""
    row = conn.execute(SQL["source"], {"task": task_id}).fetchone()
    if row is None:
        return None
    rule = rules.by_ids(conn, [RuleId(row["rule_id"])])[RuleId(row["rule_id"])]
    return Source(_evaluation(row), rule, row["attempt"] if row["state"] == "succeeded" else None)


def _holds(row: Row, attempt: AttemptKey) -> bool:
    held = (row["state"], row["attempt"], row["lease_token"])
    return held == ("running", attempt.attempt, attempt.lease_token)


def _fits(row: Row, attempt: AttemptKey, batch: EventBatch) -> bool:
    return (
        batch.attempt == attempt
        and batch.org_id == OrgId(row["org_id"])
        and batch.rule_id == RuleId(row["rule_id"])
        and batch.batch_uri == batch_key(attempt.task_id, attempt.attempt)
    )


def _message(batch: EventBatch) -> buffer.Batch:
    """The lease token stays out: who reads the queue could finish the attempt."""
    payload = {
        "task_id": str(batch.attempt.task_id),
        "attempt": batch.attempt.attempt,
        "org_id": str(batch.org_id),
        "rule_id": str(batch.rule_id),
        "batch_uri": batch.batch_uri,
        "digest": batch.digest,
        "size": batch.size,
        "events": batch.events,
    }
    return buffer.Batch(batch.attempt, QUEUE, batch.batch_uri, payload)


def _evaluation(row: Row) -> Evaluation:
    payload = row["payload"]
    return Evaluation(
        task_id=TaskId(row["task_id"]),
        rule_id=RuleId(row["rule_id"]),
        chain_id=payload["chain_id"],
        blocks=BlockRange(row["range_start"], row["range_end"]),
        as_of=payload["as_of"],
        inputs=payload["inputs"],
    )
