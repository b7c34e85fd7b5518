"""The ledger of jobs: what users declared, how far it is planned, and the heads that planning needs.

The caller owns the transaction; what a Dispatcher calls takes its epoch and needs `tasks.fence` before it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import uuid5

from psycopg import Cursor
from psycopg import errors as pg

from state import arrays, progress
from state.changes import KnownJob, KnownStream, OtherClaim, mode_name, problems, sentences
from state.db import Connection, Row, pipelined, statements, storable
from trace_ray.contracts import (
    BlockRange,
    DatasetUuid,
    Epoch,
    FixedTarget,
    FollowHead,
    HeadRequest,
    Job,
    JobId,
    OrgId,
    Receipts,
    Stream,
    TaskId,
    dataset_uuid,
    task_id,
)
from trace_ray.errors import LedgerConflict, NotFound, RefusedInput
from trace_ray.manifest import config_hash
from trace_ray.plan import next_ranges, target_end
from trace_ray.reports import Applied, JobStatus

SQL: Final = statements("jobs")

HEAD_POLL_S: Final = 10.0  # of a fixed target: finds out that a provider is down before attempts are spent on it
PLANNED_PART: Final = 1000  # ranges inserted by one statement
HEAD_RETRY_S: Final = 2.0  # after an error nothing of that pool is leased, so its end should be noticed soon


Locked = Cursor[Row]
"""Rows of locked cursors, read when they are needed."""


# --- what users declare -------------------------------------------------------------------------------------------


def apply(conn: Connection, job: Job) -> Applied:
    """Create or update a job; the same file again changes nothing.

    Raises:
        RefusedInput: with one sentence per problem, and nothing is changed.
    """
    conn.execute(SQL["lock_organisation"], {"org": job.org_id})
    known = _find(conn, job.job_id)
    refused = problems(job, known, _other_claims(conn, job), _taken_names(conn, job))
    if refused:
        raise RefusedInput(refused)
    _save(conn, job)
    return Applied(job.job_id, known is None, tuple(sentences(job, known)))


def pause(conn: Connection, org_id: OrgId, name: str) -> None:
    """Plan and lease nothing more of a job; running ranges finish. Raises NotFound."""
    _set_enabled(conn, org_id, name, enabled=False)


def resume(conn: Connection, org_id: OrgId, name: str) -> None:
    """Go on with a paused job. Raises NotFound."""
    _set_enabled(conn, org_id, name, enabled=True)


def status(conn: Connection, org_id: OrgId, name: str | None = None) -> list[JobStatus]:
    """Return how far the organisation's jobs are, or one of them. Raises NotFound for an unknown name."""
    parameters = {"org": org_id, "name": name, "window": progress.RATE_WINDOW}
    rows = conn.execute(SQL["status"], parameters).fetchall()
    if name is not None and not rows:
        raise _not_found(conn, org_id, name)
    return progress.jobs(rows)


def _set_enabled(conn: Connection, org_id: OrgId, name: str, *, enabled: bool) -> None:
    found = conn.execute(SQL["set_enabled"], {"org": org_id, "name": name, "enabled": enabled}).fetchone()
    if found is None:
        raise _not_found(conn, org_id, name)


def _not_found(conn: Connection, org_id: OrgId, name: str) -> NotFound:
    known = [row["name"] for row in conn.execute(SQL["job_names"], {"org": org_id})]
    hint = f"choose one of {', '.join(known)}" if known else "apply a job file first"
    return NotFound(f"there is no job {name}: {hint}")


def _find(conn: Connection, job: JobId) -> KnownJob | None:
    row = conn.execute(SQL["find_job"], {"job": job}).fetchone()
    if row is None:
        return None
    streams = {one["dataset_key"]: _known_stream(one) for one in conn.execute(SQL["find_streams"], {"job": job})}
    return KnownJob(
        row["chain_id"], row["chain_name"], row["enabled"], progress.mode_of(row), Receipts(row["receipts"]), streams
    )


def _known_stream(row: Row) -> KnownStream:
    stream = Stream(
        dataset_key=row["dataset_key"],
        cryo_dataset_name=row["cryo_dataset_name"],
        rpc_pool=row["rpc_pool"],
        chunk_size=row["chunk_size"],
        max_inflight=row["max_inflight"],
        dataset=row["dataset"],
    )
    return KnownStream(stream, row["enabled"], row["next_block"])


def _other_claims(conn: Connection, job: Job) -> list[OtherClaim]:
    rows = conn.execute(SQL["other_claims"], {"job": job.job_id, "datasets": list(_datasets(job).values())})
    return [
        OtherClaim(row["job"], DatasetUuid(row["dataset_uuid"]), row["dataset"], row["span_start"], row["span_end"])
        for row in rows
    ]


def _taken_names(conn: Connection, job: Job) -> dict[str, DatasetUuid]:
    names = [stream.dataset for stream in job.streams]
    rows = conn.execute(SQL["taken_names"], {"org": job.org_id, "names": names})
    return {row["name"]: DatasetUuid(row["dataset_uuid"]) for row in rows}


def _save(conn: Connection, job: Job) -> None:
    mode = job.mode
    follow = mode if isinstance(mode, FollowHead) else None
    conn.execute(SQL["save_organisation"], {"org": job.org_id})
    conn.execute(
        SQL["save_job"],
        {
            "job": job.job_id,
            "org": job.org_id,
            "name": job.name,
            "chain_id": job.chain_id,
            "chain_name": job.chain_name,
            "enabled": job.enabled,
            "mode": mode_name(mode),
            "from_block": mode.from_block,
            "to_block": mode.to_block if isinstance(mode, FixedTarget) else None,
            "tail_lag": follow and follow.tail_lag,
            "head_poll_s": follow and follow.head_poll_interval_s,
            "max_head_age_s": follow and follow.max_head_age_s,
            "receipts": job.receipts,
            "yaml_hash": job.yaml_hash,
        },
    )
    _save_streams(conn, job)


def _save_streams(conn: Connection, job: Job) -> None:
    datasets = _datasets(job)
    columns = {
        "job": job.job_id,
        "org": job.org_id,
        "chain_id": job.chain_id,
        "from_block": job.mode.from_block,
        "streams": [uuid5(job.job_id, f"stream/{stream.dataset_key}") for stream in job.streams],
        "keys": [stream.dataset_key for stream in job.streams],
        "datasets": [datasets[stream.dataset_key] for stream in job.streams],
        "names": [stream.dataset for stream in job.streams],
        "cryo_names": [stream.cryo_dataset_name for stream in job.streams],
        "pools": [stream.rpc_pool for stream in job.streams],
        "config_hashes": [config_hash(datasets[one.dataset_key], one.cryo_dataset_name) for one in job.streams],
        "chunk_sizes": [stream.chunk_size for stream in job.streams],
        "max_inflights": [stream.max_inflight for stream in job.streams],
    }
    for name in ("free_names", "save_datasets", "save_streams", "disable_streams"):
        conn.execute(SQL[name], columns)


def _datasets(job: Job) -> dict[str, DatasetUuid]:
    keys = (stream.dataset_key for stream in job.streams)
    return {key: dataset_uuid(job.org_id, job.chain_id, key) for key in keys}


# --- heads --------------------------------------------------------------------------------------------------------


def heads_wanted(conn: Connection, *, now: datetime | None = None) -> list[HeadRequest]:
    """Return the heads that are due to be asked for. `now` moves time in tests."""
    rows = conn.execute(SQL["heads_wanted"], {"poll": HEAD_POLL_S, "retry": HEAD_RETRY_S, "now": now})
    return [HeadRequest(row["rpc_pool"], row["chain_id"], row["poll_s"]) for row in rows]


def record_head(conn: Connection, epoch: Epoch, rpc_pool: str, chain_id: int, head: int) -> None:
    """Keep the newest block that a pool named, as of now."""
    conn.execute(SQL["record_head"], {"epoch": epoch, "pool": rpc_pool, "chain_id": chain_id, "head": head})


def record_head_error(conn: Connection, epoch: Epoch, rpc_pool: str, chain_id: int, message: str) -> None:
    """Keep why a pool named no head: nothing of it is leased until it does. `message` is redacted text for people."""
    parameters = {"epoch": epoch, "pool": rpc_pool, "chain_id": chain_id, "error": storable(message)}
    conn.execute(SQL["record_head_error"], parameters)


def doubt_heads(conn: Connection, epoch: Epoch, tasks: Sequence[TaskId]) -> None:
    """Ask the pools of tasks that could not reach their provider again, and lease nothing of them before they answer.

    Without it an outage of seconds would use up the attempts of every range that was under way.
    """
    conn.execute(SQL["doubt_heads"], {"epoch": epoch, "tasks": list(tasks)})


# --- planning -----------------------------------------------------------------------------------------------------


def lock_cursors(conn: Connection, epoch: Epoch) -> Locked:
    """Lock the cursors of streams that may have something left to plan, for `plan` in the same transaction.

    Cursors are locked before tasks, by whoever locks both.
    """
    return conn.execute(SQL["lock_cursors"], {"epoch": epoch})


def plan(conn: Connection, epoch: Epoch, *, locked: Locked | None = None, now: datetime | None = None) -> int:
    """Schedule the next ranges of every stream that has room, and return how many. `now` moves time in tests.

    Ranges, tasks and cursors change together, and doing it again changes nothing: ids come from the ranges.

    Args:
        locked: What `lock_cursors` returned in this transaction, if it was called before.

    Raises:
        LedgerConflict: a range is known already with other content.
    """
    streams = [row["stream_id"] for row in locked or lock_cursors(conn, epoch)]
    if not streams:
        return 0
    rows = conn.execute(SQL["plannable"], {"streams": streams, "now": now}).fetchall()
    planned = [(blocks, row) for row in rows for blocks in _next(row)]
    if not planned:
        return 0
    planned.sort(key=lambda pair: pair[0].start)  # tasks of one range become neighbours, to be leased together
    return _add(conn, planned)


def _next(row: Row) -> list[BlockRange]:
    end = target_end(progress.mode_of(row), row["head"])
    if end is None:
        return []
    return next_ranges(
        row["next_block"],
        end=end,
        chunk_size=row["chunk_size"],
        open_ranges=row["open_ranges"],
        max_inflight=row["max_inflight"],
    )


def _add(conn: Connection, planned: Sequence[tuple[BlockRange, Row]]) -> int:
    parts = range(0, len(planned), PLANNED_PART)
    try:
        with pipelined(conn):  # the server inserts one part while the ids of the next are computed
            asked = [_add_part(conn, planned[start : start + PLANNED_PART]) for start in parts]
            known = [row for one in asked for row in one.fetchall()]
    except pg.UniqueViolation as error:
        raise LedgerConflict("a planned range ends where a known one ends and starts elsewhere") from error
    _refuse_conflicts(row for row in known if row["conflict"])
    return len(planned) - sum(row["known"] for row in known)


def _add_part(conn: Connection, planned: Sequence[tuple[BlockRange, Row]]) -> Cursor[Row]:
    parameters = {
        "tasks": arrays.uuids(task_id(JobId(row["job_id"]), row["dataset_key"], blocks) for blocks, row in planned),
        "streams": arrays.uuids(row["stream_id"] for _, row in planned),
        "starts": arrays.bigints([blocks.start for blocks, _ in planned]),
        "ends": arrays.bigints([blocks.end for blocks, _ in planned]),
    }
    return conn.execute(SQL["add_ranges"], parameters)


def _refuse_conflicts(conflicts: Iterable[Row]) -> None:
    for row in conflicts:
        blocks = BlockRange(row["range_start"], row["range_end"])
        raise LedgerConflict(f"blocks {blocks} of stream {row['dataset_key']} are planned already with other content")
