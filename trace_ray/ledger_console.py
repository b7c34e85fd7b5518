"""How operators see the ledgers: tables and lines for people, one JSON document for scripts.

What came from a chain, a provider or a consumer passes through `printable`. JSON escapes what could steer a terminal.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trace_ray.console import certificate_document, out, print_json, printable, say, table
from trace_ray.contracts import BlockRange, DataFile
from trace_ray.ledger_reports import (
    AttemptView,
    DeadLetter,
    Explanation,
    PendingEvent,
    Problem,
    PublishedView,
    QueueDepth,
    RangeView,
    TaskView,
)


def print_tasks(found: Sequence[TaskView], *, as_json: bool) -> None:
    """List tasks with their newest failure."""
    if as_json:
        print_json({"tasks": [_task(task) for task in found]})
        return
    if not found:
        say("No such task")
        return
    rows = (
        (
            task.task_id, task.job, task.dataset, task.blocks, task.generation, task.state, task.attempt,
            _when(task.problem.at if task.problem else None), task.problem.message if task.problem else None,
        )
        for task in found
    )  # fmt: skip
    headings = ("task", "job", "dataset", "blocks", "generation", "state", "attempt", "failed at", "failure")
    out.print(table(headings, rows))


def print_attempts(task: TaskView, found: Sequence[AttemptView], *, as_json: bool) -> None:
    """Show the attempts of a task."""
    if as_json:
        print_json(attempts_document(task, found))
        return
    _line(f"Task {task.task_id}: blocks {task.blocks} of {task.dataset}, job {task.job}, {task.state}")
    if not found:
        say("No attempt was made yet")
        return
    out.print(_attempts_table(found))


def attempts_document(task: TaskView, found: Sequence[AttemptView]) -> dict[str, Any]:
    """Return a task and its attempts as JSON."""
    return {"task": _task(task), "attempts": [_attempt(one) for one in found]}


def print_outbox(found: Sequence[PendingEvent], *, as_json: bool) -> None:
    """List the events that are not handled yet."""
    if as_json:
        print_json({"events": [_event(event) for event in found]})
        return
    if not found:
        say("The outbox is empty: everything that had to follow has followed")
        return
    rows = (
        (
            event.event_id, event.topic, event.idempotency_key, "failed" if event.failed else "pending", event.attempts,
            _when(event.available_at), event.last_error,
        )
        for event in found
    )  # fmt: skip
    out.print(table(("event", "topic", "cause", "state", "attempts", "available at", "failure"), rows))


def print_dead_letters(found: Sequence[DeadLetter], depths: Sequence[QueueDepth], *, as_json: bool) -> None:
    """List dead letters, and how full each queue is."""
    if as_json:
        print_json({"dead_letters": [_letter(one) for one in found], "queues": [_depth(one) for one in depths]})
        return
    if depths:
        rows = (
            (one.queue, one.ready, one.delivered, one.waiting, one.spent, one.dead, _when(one.oldest)) for one in depths
        )
        out.print(table(("queue", "ready", "delivered", "waiting", "spent", "dead", "oldest"), rows))
    if not found:
        say("No dead letter")
        return
    letters = (
        (one.message_id, one.queue, one.idempotency_key, one.deliveries, one.replays, _when(one.dead_at), one.reason,
         one.last_error)
        for one in found
    )  # fmt: skip
    headings = ("message", "queue", "cause", "deliveries", "replays", "dead since", "reason", "failure")
    out.print(table(headings, letters))


# --- the history of a range ---------------------------------------------------------------------------------------


def print_explanation(found: Explanation, *, as_json: bool) -> None:
    """Tell how each range came to stand where it stands."""
    if as_json:
        print_json(explanation_document(found))
        return
    _line(f"{found.dataset} ({found.cryo_dataset_name} of chain {found.chain_id}), blocks {found.blocks}")
    for one in found.ranges:
        _print_range(one)
    if found.truncated:
        say("There are more ranges: ask for fewer blocks, or raise --limit")


def _print_range(one: RangeView) -> None:
    generation = f", generation {one.generation}" if one.generation else ""
    word = one.standing.replace("_", " ")
    _line(f"{one.blocks}{generation}: {one.reason if one.reason.startswith(word) else f'{word}; {one.reason}'}")
    if one.published is not None:
        _print_published(one.published)
    if one.task is not None:
        task, times = one.task, _times(one)
        _line(f"  task       {task.task_id} of job {task.job}, rpc pool {task.rpc_pool}, {task.state}")
        told = ", ".join(f"{what} {at:%Y-%m-%d %H:%M:%S}" for what, at in times.items() if at is not None)
        _line(f"  times      {told} (UTC)")
    if one.attempts:
        out.print(Padding(_attempts_table(one.attempts), (0, 0, 0, 2)))


def _print_published(published: PublishedView) -> None:
    proof = published.certificate
    _line(f"  version    {published.dataset_version}, {published.rows:,} rows, made by attempt {published.attempt}")
    for file in published.objects:
        _line(f"  object     {file.key}, {file.bytes:,} bytes, {file.rows:,} rows, sha256 {file.digest}")
    _line(f"  proof      {proof.level}: {', '.join(proof.checks)}")
    _line(f"  provider   {proof.provider}")
    _line(f"  engine     {proof.engine} {proof.engine_version}, digest {proof.engine_digest}")
    for arguments in proof.engine_arguments:
        _line(f"  called as  {arguments}")


def explanation_document(found: Explanation) -> dict[str, Any]:
    """Return the document of `explain --json`."""
    return {
        "dataset": found.dataset,
        "dataset_uuid": str(found.dataset_uuid),
        "chain_id": found.chain_id,
        "cryo_dataset_name": found.cryo_dataset_name,
        **_blocks(found.blocks),
        "ranges": [_range(one) for one in found.ranges],
        "truncated": found.truncated,
    }


def _range(one: RangeView) -> dict[str, Any]:
    return {
        **_blocks(one.blocks),
        "generation": one.generation,
        "standing": str(one.standing),
        "reason": one.reason,
        "job": one.task.job if one.task else None,
        "times": {what: _iso(at) for what, at in _times(one).items()},
        "published": _published(one.published) if one.published else None,
        "task": _task(one.task) if one.task else None,
        "attempts": [_attempt(attempt) for attempt in one.attempts],
    }


def _times(one: RangeView) -> dict[str, datetime | None]:
    """When the range was planned, leased to the attempt that published it (or to the last one), and published."""
    attempt = one.published.attempt if one.published else max((each.attempt for each in one.attempts), default=0)
    return {
        "planned": one.task.created_at if one.task else None,
        "leased": next((each.started_at for each in one.attempts if each.attempt == attempt), None),
        "published": one.published.published_at if one.published else None,
    }


def _published(published: PublishedView) -> dict[str, Any]:
    proof = published.certificate
    return {
        "dataset_version": str(published.dataset_version),
        "rows": published.rows,
        "digest": published.digest,
        "attempt": published.attempt,
        "published_at": _iso(published.published_at),
        "published_snapshot": published.published_snapshot,
        "replaced_snapshot": published.replaced_snapshot,
        "objects": [_object(file) for file in published.objects],
        "certificate": {**certificate_document(proof), "engine_arguments": list(proof.engine_arguments) or None},
    }


def _object(file: DataFile) -> dict[str, Any]:
    return {
        "key": file.key,
        "bytes": file.bytes,
        "rows": file.rows,
        "sha256": file.digest,
        "min_block": file.min_block,
        "max_block": file.max_block,
    }


# --- documents ----------------------------------------------------------------------------------------------------


def _task(task: TaskView) -> dict[str, Any]:
    return {
        "task_id": str(task.task_id),
        "job": task.job,
        "dataset": task.dataset,
        **_blocks(task.blocks),
        "generation": task.generation,
        "state": task.state,
        "attempt": task.attempt,
        "task_failures": task.task_failures,
        "infra_failures": task.infra_failures,
        "rpc_pool": task.rpc_pool,
        "worker_id": task.worker_id,
        "created_at": _iso(task.created_at),
        "run_at": _iso(task.run_at),
        "lease_expires_at": _iso(task.lease_expires_at),
        "finished_at": _iso(task.finished_at),
        "error": _problem(task.problem),
    }


def _attempt(one: AttemptView) -> dict[str, Any]:
    return {
        "attempt": one.attempt,
        "worker_id": one.worker_id,
        "epoch": one.epoch,
        "started_at": _iso(one.started_at),
        "ended_at": _iso(one.ended_at),
        "outcome": one.outcome,
        "error": _problem(one.problem),
        "seconds": None if one.seconds is None else dict(one.seconds),
    }


def _problem(problem: Problem | None) -> dict[str, Any] | None:
    if problem is None:
        return None
    return {
        "kind": problem.kind,
        "message": problem.message,
        "at": _iso(problem.at),
        "provider": problem.provider,
    }


def _event(event: PendingEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "topic": event.topic,
        "idempotency_key": event.idempotency_key,
        "payload": dict(event.payload),
        "available_at": _iso(event.available_at),
        "attempts": event.attempts,
        "failed": event.failed,
        "last_error": event.last_error,
    }


def _letter(one: DeadLetter) -> dict[str, Any]:
    return {
        "message_id": str(one.message_id),
        "queue": one.queue,
        "idempotency_key": one.idempotency_key,
        "payload": dict(one.payload),
        "published_at": _iso(one.published_at),
        "dead_at": _iso(one.dead_at),
        "deliveries": one.deliveries,
        "max_deliveries": one.max_deliveries,
        "replays": one.replays,
        "reason": one.reason,
        "last_error": one.last_error,
    }


def _depth(one: QueueDepth) -> dict[str, Any]:
    return {
        "queue": one.queue,
        "ready": one.ready,
        "delivered": one.delivered,
        "waiting": one.waiting,
        "spent": one.spent,
        "dead": one.dead,
        "oldest": _iso(one.oldest),
    }


def _blocks(blocks: BlockRange) -> dict[str, int]:
    return {"range_start": blocks.start, "range_end": blocks.end}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


# --- tables -------------------------------------------------------------------------------------------------------


def _attempts_table(found: Iterable[AttemptView]) -> Table:
    rows = (
        (
            one.attempt, one.outcome or "runs", one.worker_id, one.epoch, _when(one.started_at), _when(one.ended_at),
            _stages(one.seconds), one.problem.message if one.problem else None,
        )
        for one in found
    )  # fmt: skip
    return table(("attempt", "outcome", "worker", "epoch", "started", "ended", "seconds", "failure"), rows)


def _stages(seconds: Mapping[str, float] | None) -> str:
    return ", ".join(f"{stage} {spent:.2f}" for stage, spent in (seconds or {}).items())


def _line(text: str) -> None:
    out.print(Text(printable(text)))


def _when(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
