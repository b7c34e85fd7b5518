"""What operators look at: tasks, their attempts, and how a range came to stand where it stands. Reads only.

No view shows a lease token: who knows one could finish an attempt.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from state import standing
from state.datasets import certificate_of
from state.db import Connection, Row, statements
from state.gaps import without
from state.standing import Blocks, Object, Version
from trace_ray.contracts import (
    BlockRange,
    DataFile,
    DatasetUuid,
    OrgId,
    TaskId,
    VersionId,
    by_range,
)
from trace_ray.errors import NotFound, RefusedInput
from trace_ray.ledger_reports import (
    AttemptView,
    Explanation,
    Problem,
    PublishedView,
    RangeView,
    Standing,
    TaskView,
)

SQL: Final = statements("views")

FEW: Final = 20  # versions that may share one object


def tasks(
    conn: Connection, org_id: OrgId, *, job: str | None = None, state: str | None = None, limit: int = 100
) -> list[TaskView]:
    """Return tasks of the organisation: the newest trouble first, then what moved last.

    Raises:
        NotFound: there is no such job.
    """
    if job is not None:
        known = [row["name"] for row in conn.execute(SQL["job_names"], {"org": org_id})]
        if job not in known:
            hint = f"choose one of {', '.join(known)}" if known else "apply a job file first"
            raise NotFound(f"there is no job {job}: {hint}")
    return [_task(row) for row in _tasks(conn, org_id, job=job, state=state, limit=limit)]


def attempts(conn: Connection, org_id: OrgId, task_id: TaskId) -> tuple[TaskView, tuple[AttemptView, ...]]:
    """Return a task and its attempts, the first one first.

    Raises:
        NotFound: there is no such task.
    """
    for row in _tasks(conn, org_id, ids=[task_id]):
        return _task(row), tuple(_attempts(conn, [task_id])[task_id])
    raise NotFound(f"there is no task {task_id}: `trace-ray ledger tasks` lists them")


def explain(conn: Connection, org_id: OrgId, asked: str, *, limit: int = 100) -> Explanation:
    """Return how ranges came to stand where they stand, from their objects back to the attempts.

    Args:
        asked: A dataset version, the key or the digest of an object, `DATASET:BLOCK`, or `DATASET:START-END`.
        limit: Of the ranges; what is left is named by `truncated`.

    Raises:
        RefusedInput: it is none of them.
        NotFound: it is not in the ledger.
    """
    match standing.parse(asked):
        case Blocks(name, blocks):
            return _explain_blocks(conn, org_id, _dataset(conn, org_id, name), blocks, limit)
        case Version(version):
            rows = conn.execute(SQL["find_version"], {"org": org_id, "version": version}).fetchall()
            if not rows:
                raise NotFound(f"there is no dataset version {version}: `trace-ray coverage DATASET --json` lists them")
        case Object() as wanted:
            rows = _holding(conn, org_id, wanted)
    return _explain_versions(conn, org_id, rows)


# --- ranges -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger knows of a span: rows of `tasks` by id, of `versions`, and planned ranges."""

    tasks: dict[TaskId, Row]
    versions: Sequence[Row]
    planned: Sequence[Row]


def _dataset(conn: Connection, org_id: OrgId, name: str) -> Row:
    row = conn.execute(SQL["dataset"], {"org": org_id, "name": name}).fetchone()
    if row is None:
        known = [one["name"] for one in conn.execute(SQL["dataset_names"], {"org": org_id})]
        hint = f"choose one of {', '.join(known)}" if known else "apply a job file first"
        raise NotFound(f"there is no dataset {name}: {hint}")
    return row


def _holding(conn: Connection, org_id: OrgId, wanted: Object) -> list[Row]:
    parameters = {"org": org_id, "name": wanted.name, "version": wanted.version, "digest": wanted.digest, "limit": FEW}
    rows = conn.execute(SQL["find_object"], parameters).fetchall()
    if not rows:
        raise NotFound("no published object has this key or digest: ask for its blocks instead, as DATASET:START-END")
    if len({row["dataset_uuid"] for row in rows}) > 1 or len(rows) == FEW:
        raise RefusedInput("several objects have a digest that begins like this: give more of it")
    return rows


def _explain_versions(conn: Connection, org_id: OrgId, found: Sequence[Row]) -> Explanation:
    first = found[0]
    span = BlockRange(min(row["range_start"] for row in found), max(row["range_end"] for row in found))
    versions = _versions(conn, first, span, ids=[row["dataset_version"] for row in found], limit=len(found))
    known = _Known(_by_id(_tasks(conn, org_id, ids=[row["task_id"] for row in versions])), versions, ())
    return _explanation(first, span, _published(conn, known), truncated=False)


def _explain_blocks(conn: Connection, org_id: OrgId, dataset: Row, blocks: BlockRange, limit: int) -> Explanation:
    """Ranges first, versions last: what is published in between is then found as published, and never as nothing."""
    place = {"dataset": dataset["dataset_uuid"], "start": blocks.start, "end": blocks.end, "limit": limit + 1}
    planned = conn.execute(SQL["planned"], place).fetchall()
    before = _by_id(_tasks(conn, org_id, ids=[row["task_id"] for row in planned]))
    versions = _versions(conn, dataset, blocks, ids=None, limit=limit + 1)
    told = [rows[limit]["range_start"] for rows in (planned, versions) if len(rows) > limit]
    reached = BlockRange(blocks.start, max(min(told), blocks.start + 1)) if told else blocks
    planned, versions = ([row for row in rows if row["range_start"] < reached.end] for rows in (planned, versions))
    after = _by_id(_tasks(conn, org_id, ids=[row["task_id"] for row in versions]))
    known = _Known(before | after, versions, planned)
    ranges = _published(conn, known) + _unpublished(conn, known)
    covered = [_span(row) for row in planned] + [_span(row) for row in versions if row["replaced_snapshot"] is None]
    streams = conn.execute(SQL["streams"], {"dataset": dataset["dataset_uuid"]}).fetchall()
    for piece, reason in standing.never_planned(without(reached, by_range(covered)), streams):
        ranges.append(RangeView(piece, 0, Standing.NEVER_PLANNED, reason, None, (), None))
    ranges.sort(key=lambda one: (one.blocks.start, -one.generation))
    return _explanation(dataset, blocks, ranges[:limit], truncated=len(ranges) > limit or bool(told))


def _explanation(dataset: Row, blocks: BlockRange, ranges: Sequence[RangeView], *, truncated: bool) -> Explanation:
    return Explanation(
        dataset=dataset["name"],
        dataset_uuid=DatasetUuid(dataset["dataset_uuid"]),
        chain_id=dataset["chain_id"],
        cryo_dataset_name=dataset["cryo_dataset_name"],
        blocks=blocks,
        ranges=tuple(ranges),
        truncated=truncated,
    )


def _published(conn: Connection, known: _Known) -> list[RangeView]:
    objects = _objects(conn, [row["dataset_version"] for row in known.versions])
    tries = _attempts(conn, [row["task_id"] for row in known.versions])
    views: list[RangeView] = []
    for row in known.versions:
        place, reason = standing.of_version(row)
        made_by = known.tasks.get(row["task_id"])
        published = PublishedView(
            dataset_version=VersionId(row["dataset_version"]),
            rows=row["row_count"],
            digest=row["digest"],
            attempt=row["attempt"],
            published_at=row["published_at"],
            published_snapshot=row["published_snapshot"],
            replaced_snapshot=row["replaced_snapshot"],
            certificate=certificate_of(row),
            objects=tuple(objects[row["dataset_version"]]),
        )
        task = None if made_by is None else _task(made_by)
        history = tuple(tries[row["task_id"]])
        views.append(RangeView(_span(row), row["generation"], place, reason, task, history, published))
    return views


def _unpublished(conn: Connection, known: _Known) -> list[RangeView]:
    made = {row["task_id"] for row in known.versions}
    rows = [known.tasks[one["task_id"]] for one in known.planned if one["task_id"] in known.tasks.keys() - made]
    tries = _attempts(conn, [row["task_id"] for row in rows])
    return [
        RangeView(_span(row), row["generation"], *standing.of_task(row), _task(row), tuple(tries[row["task_id"]]), None)
        for row in rows
    ]


# --- rows ---------------------------------------------------------------------------------------------------------


def _tasks(
    conn: Connection,
    org_id: OrgId,
    *,
    job: str | None = None,
    state: str | None = None,
    ids: Collection[TaskId] | None = None,
    limit: int | None = None,
) -> list[Row]:
    wanted = None if ids is None else list(ids)
    parameters = {"org": org_id, "job": job, "state": state, "tasks": wanted, "limit": limit}
    return conn.execute(SQL["tasks"], parameters).fetchall()


def _versions(
    conn: Connection, dataset: Row, blocks: BlockRange, *, ids: Sequence[UUID] | None, limit: int
) -> list[Row]:
    parameters = {
        "dataset": dataset["dataset_uuid"],
        "start": blocks.start,
        "end": blocks.end,
        "versions": ids,
        "limit": limit,
    }
    return conn.execute(SQL["versions"], parameters).fetchall()


def _attempts(conn: Connection, ids: Sequence[TaskId]) -> defaultdict[TaskId, list[AttemptView]]:
    found: defaultdict[TaskId, list[AttemptView]] = defaultdict(list)
    for row in conn.execute(SQL["attempts"], {"tasks": list(ids)}):
        view = AttemptView(
            attempt=row["attempt"],
            worker_id=row["worker_id"],
            epoch=row["epoch"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            outcome=row["outcome"],
            problem=_problem(row),
            seconds=row["seconds"],
        )
        found[row["task_id"]].append(view)
    return found


def _objects(conn: Connection, ids: Sequence[UUID]) -> defaultdict[UUID, list[DataFile]]:
    found: defaultdict[UUID, list[DataFile]] = defaultdict(list)
    for row in conn.execute(SQL["objects"], {"versions": list(ids)}):
        file = DataFile(row["key"], row["bytes"], row["row_count"], row["digest"], row["min_block"], row["max_block"])
        found[row["dataset_version"]].append(file)
    return found


def _task(row: Row) -> TaskView:
    return TaskView(
        task_id=TaskId(row["task_id"]),
        job=row["job"],
        dataset=row["dataset"],
        blocks=_span(row),
        generation=row["generation"],
        state=row["state"],
        attempt=row["attempt"],
        task_failures=row["task_failures"],
        infra_failures=row["infra_failures"],
        rpc_pool=row["rpc_pool"],
        worker_id=row["worker_id"],
        created_at=row["created_at"],
        run_at=row["run_at"],
        lease_expires_at=row["lease_expires_at"],
        finished_at=row["finished_at"],
        problem=_problem(row),
    )


def _problem(row: Row) -> Problem | None:
    error = row["error"]
    if error is None:
        return None
    at = error.get("at")
    return Problem(
        error["kind"], error["message"], None if at is None else datetime.fromisoformat(at), error.get("provider")
    )


def _span(row: Row) -> BlockRange:
    return BlockRange(row["range_start"], row["range_end"])


def _by_id(rows: Iterable[Row]) -> dict[TaskId, Row]:
    return {TaskId(row["task_id"]): row for row in rows}
