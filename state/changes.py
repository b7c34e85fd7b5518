"""Compares a job file with what the ledger holds: what is refused, and what changes, in words. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trace_ray.contracts import DatasetUuid, FixedTarget, FollowHead, Job, Receipts, Stream, dataset_uuid


@dataclass(frozen=True, slots=True)
class KnownStream:
    """A stream as the ledger holds it; `enabled` is False after it left the job file."""

    stream: Stream
    enabled: bool
    next_block: int


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job as the ledger holds it; `streams` by dataset_key."""

    chain_id: int
    chain_name: str
    enabled: bool
    mode: FixedTarget | FollowHead
    receipts: Receipts
    streams: Mapping[str, KnownStream]


@dataclass(frozen=True, slots=True)
class OtherClaim:
    """Blocks of a dataset that another job owns: `[start, end)`, or all from `start` on when `end` is None."""

    job: str
    dataset_uuid: DatasetUuid
    dataset: str
    start: int
    end: int | None


def problems(
    job: Job, known: KnownJob | None, claims: Sequence[OtherClaim], names: Mapping[str, DatasetUuid]
) -> list[str]:
    """Return everything that forbids to apply the job, one sentence each.

    Args:
        claims: What other jobs own of the job's datasets.
        names: Datasets of the organisation that have one of the job's published names.
    """
    found = list(_forbidden_changes(job, known)) if known else []
    if known and job.chain_id != known.chain_id:
        return found  # its datasets would be others, so what follows says nothing
    uuids = {stream.dataset_key: dataset_uuid(job.org_id, job.chain_id, stream.dataset_key) for stream in job.streams}
    for stream in job.streams:
        uuid = uuids[stream.dataset_key]
        owner = names.get(stream.dataset, uuid)
        if owner != uuid and owner not in uuids.values():  # within one file, names may be exchanged
            found.append(
                f"streams.{stream.dataset_key}: the name {stream.dataset} belongs to another dataset: "
                "set publish_as to a free name"
            )
        found += _taken(job, stream, [claim for claim in claims if claim.dataset_uuid == uuid])
    return found


def _forbidden_changes(job: Job, known: KnownJob) -> Iterator[str]:
    if job.chain_id != known.chain_id:
        yield f"chain_id: the job syncs chain {known.chain_id} and keeps it: give a job for another chain another name"
    if type(job.mode) is not type(known.mode):
        yield f"mode: the job is {mode_name(known.mode)} and stays so: give the new job another name"
    if job.mode.from_block != known.mode.from_block:
        yield f"from_block: the job began at {known.mode.from_block} and keeps it: add a second job for earlier blocks"
    kept = {stream.dataset_key for stream in job.streams}
    planned = max((one.next_block for key, one in known.streams.items() if key in kept), default=0)
    if isinstance(job.mode, FixedTarget) and job.mode.to_block < planned:
        yield f"to_block: blocks below {planned} are planned already: set it to {planned} or more"
    for stream in job.streams:
        before = known.streams.get(stream.dataset_key)
        if before is not None and before.stream.cryo_dataset_name != stream.cryo_dataset_name:
            yield (
                f"streams.{stream.dataset_key}: it holds {before.stream.cryo_dataset_name} and cannot become "
                f"{stream.cryo_dataset_name}: add a stream with another key"
            )


def _taken(job: Job, stream: Stream, claims: Sequence[OtherClaim]) -> Iterator[str]:
    start = job.mode.from_block
    end = job.mode.to_block if isinstance(job.mode, FixedTarget) else None
    for claim in claims:
        if (claim.end is None or start < claim.end) and (end is None or claim.start < end):
            until = "" if claim.end is None else f" to {claim.end}"
            yield (
                f"streams.{stream.dataset_key}: job {claim.job} syncs this dataset from block {claim.start}{until}: "
                "choose blocks outside of it, or change that job"
            )
        if claim.dataset != stream.dataset:
            yield (
                f"streams.{stream.dataset_key}: job {claim.job} publishes this dataset as {claim.dataset}: "
                f"set publish_as: {claim.dataset}"
            )


def sentences(job: Job, known: KnownJob | None) -> list[str]:
    """Return one sentence for each thing that applying the job changes."""
    if known is None:
        created = f"job {job.name} created: chain {job.chain_id}, {describe(job.mode)}"
        return [created, *(_added(stream) for stream in job.streams)]
    found = list(_job_changes(job, known))
    for stream in job.streams:
        found += _stream_changes(stream, known.streams.get(stream.dataset_key))
    kept = {stream.dataset_key for stream in job.streams}
    found += [
        f"stream {key} stopped: it left the job file, its data stays"
        for key, before in known.streams.items()
        if before.enabled and key not in kept
    ]
    return found


def _job_changes(job: Job, known: KnownJob) -> Iterator[str]:
    if job.enabled != known.enabled:
        yield "job resumed" if job.enabled else "job paused"
    match job.mode, known.mode:
        case FixedTarget(to_block=new), FixedTarget(to_block=old) if new != old:
            yield f"to_block {'raised' if new > old else 'lowered'} from {old} to {new}"
        case FollowHead(), FollowHead() if job.mode != known.mode:
            yield from _following_changes(job.mode, known.mode)
        case _:
            pass
    if job.receipts != known.receipts:
        yield f"receipts changed from {known.receipts} to {job.receipts}"
    if job.chain_name != known.chain_name:
        yield f"chain_name changed from {known.chain_name} to {job.chain_name}"


def _following_changes(new: FollowHead, old: FollowHead) -> Iterator[str]:
    if new.tail_lag != old.tail_lag:
        yield f"tail_lag changed from {old.tail_lag} to {new.tail_lag}"
    if new.head_poll_interval_s != old.head_poll_interval_s:
        yield f"head_poll_interval_seconds changed from {old.head_poll_interval_s:g} to {new.head_poll_interval_s:g}"
    if new.max_head_age_s != old.max_head_age_s:
        yield f"max_head_age_seconds changed from {old.max_head_age_s:g} to {new.max_head_age_s:g}"


def _stream_changes(stream: Stream, known: KnownStream | None) -> Iterator[str]:
    key = stream.dataset_key
    if known is None:
        yield _added(stream)
        return
    old = known.stream
    if not known.enabled:
        yield f"stream {key} resumed from block {known.next_block}"
    if stream.dataset != old.dataset:
        yield f"stream {key}: dataset {old.dataset} is now named {stream.dataset}"
    if stream.rpc_pool != old.rpc_pool:
        yield f"stream {key}: rpc_pool changed from {old.rpc_pool} to {stream.rpc_pool}"
    if stream.chunk_size != old.chunk_size:
        yield f"stream {key}: chunk_size changed from {old.chunk_size} to {stream.chunk_size}"
    if stream.max_inflight != old.max_inflight:
        yield f"stream {key}: max_inflight changed from {old.max_inflight} to {stream.max_inflight}"


def _added(stream: Stream) -> str:
    return f"stream {stream.dataset_key} added: {stream.cryo_dataset_name} as {stream.dataset}"


def mode_name(mode: FixedTarget | FollowHead) -> str:
    return "fixed_target" if isinstance(mode, FixedTarget) else "follow_head"


def describe(mode: FixedTarget | FollowHead) -> str:
    """Return the blocks that a mode covers, in words."""
    if isinstance(mode, FixedTarget):
        return f"blocks {mode.from_block} to {mode.to_block}"
    return f"blocks from {mode.from_block} on, {mode.tail_lag} behind the head"
