"""What people are told of a job: rows of the ledger -> state, reason, rate and what is left. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from typing import Final

from state.db import Row
from trace_ray.contracts import BlockRange, FixedTarget, FollowHead, JobId
from trace_ray.plan import target_end
from trace_ray.reports import JobState, JobStatus, RangeCounts, StreamStatus

RATE_WINDOW: Final = timedelta(seconds=60)  # long enough to smooth single ranges, short enough to show a stall


def mode_of(row: Row) -> FixedTarget | FollowHead:
    """Return the mode that a row of `state.jobs` holds."""
    if row["mode"] == "fixed_target":
        return FixedTarget(row["from_block"], row["to_block"])
    return FollowHead(row["from_block"], row["tail_lag"], row["head_poll_s"], row["max_head_age_s"])


def jobs(rows: Sequence[Row]) -> list[JobStatus]:
    """Return one status per job; the rows are those of its streams, jobs one after another."""
    return [_job(list(streams)) for _, streams in groupby(rows, key=lambda row: row["job_id"])]


def _job(streams: Sequence[Row]) -> JobStatus:
    first = streams[0]
    state, reason = _state(streams)
    return JobStatus(
        job_id=JobId(first["job_id"]),
        name=first["name"],
        chain_id=first["chain_id"],
        mode=first["mode"],
        enabled=first["enabled"],
        state=state,
        reason=reason,
        streams=tuple(map(_stream, streams)),
    )


def _state(streams: Sequence[Row]) -> tuple[JobState, str | None]:
    unfinished = [row for row in streams if not _finished(row)]
    if not unfinished:
        return JobState.COMPLETE, None
    if not streams[0]["enabled"]:
        return JobState.PAUSED, None
    if not streams[0]["led"]:
        return JobState.BLOCKED, "no Dispatcher is running: run `trace-ray up`"
    reasons = [reason for row in unfinished if (reason := _why_blocked(row)) is not None]
    if len(reasons) < len(unfinished):
        return JobState.RUNNING, None
    return JobState.BLOCKED, reasons[0]


def _finished(row: Row) -> bool:
    return row["mode"] == "fixed_target" and row["next_block"] >= row["to_block"] and not (_open(row) or row["dead"])


def _open(row: Row) -> int:
    return row["queued"] + row["running"]


def _why_blocked(row: Row) -> str | None:
    if row["head_error"] is not None:
        return f"rpc pool {row['rpc_pool']}: {row['head_error']}"
    if row["head_stale"]:
        return f"the head of rpc pool {row['rpc_pool']} is older than {row['max_head_age_s']:g} s"
    if row["mode"] == "follow_head" or _open(row) or row["head"] is None:
        return None
    if row["next_block"] < row["to_block"]:
        waits = row["next_block"] > row["head"]
        return f"block {row['next_block']} does not exist yet: the chain ends at {row['head']}" if waits else None
    ranges = "1 range" if row["dead"] == 1 else f"{row['dead']} ranges"
    return f"{ranges} of stream {row['dataset_key']} failed for good: run `trace-ray retry {row['name']}`"


def _stream(row: Row) -> StreamStatus:
    mode = mode_of(row)
    follows = isinstance(mode, FollowHead)
    to_block = target_end(mode, row["head"]) if follows else mode.to_block
    rate = row["recent_blocks"] / row["recent_s"] if row["recent_blocks"] and row["recent_s"] > 0 else None
    return StreamStatus(
        dataset_key=row["dataset_key"],
        dataset=row["dataset"],
        from_block=mode.from_block,
        to_block=to_block,
        next_block=row["next_block"],
        ranges=RangeCounts(row["queued"], row["running"], row["succeeded"], row["dead"]),
        blocks_done=row["blocks_done"],
        blocks_per_second=rate,
        eta_seconds=_eta_s(row, to_block, rate),
        head=row["head"],
        lag_blocks=max(0, row["head"] + 1 - row["first_undone"]) if follows and row["head"] is not None else None,
        last_error=_last_error(row),
    )


def _eta_s(row: Row, to_block: int | None, rate: float | None) -> float | None:
    """Seconds until what is wanted now is done; dead ranges are not waited for."""
    if to_block is None:
        return None
    left = to_block - row["from_block"] - row["blocks_done"] - row["dead_blocks"]
    if left <= 0:
        return 0.0
    return left / rate if rate else None


def _last_error(row: Row) -> str | None:
    if row["last_error"] is None:
        return row["head_error"]
    start, end, message = row["last_error"]
    return f"blocks {BlockRange(start, end)}: {message}"
