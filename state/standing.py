"""What an operator asks about, and where a range stands, in words. Pure: text and rows in, values out."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from state.db import Row
from state.gaps import cut
from trace_ray.contracts import BlockRange, VersionId
from trace_ray.errors import RefusedInput
from trace_ray.ledger_reports import Standing

UUID_TEXT: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
VERSION: Final = re.compile(UUID_TEXT, re.IGNORECASE)
BLOCKS: Final = re.compile(r"([a-z][a-z0-9_]{0,127}):(\d{1,19})(?:-(\d{1,19}))?")
OBJECT: Final = re.compile(rf"(?:.*?/)??(?:({UUID_TEXT})/)?([^/]+\.parquet)", re.DOTALL)
DIGEST: Final = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)
LAST_BLOCK: Final = 2**63 - 1  # of a bigint


# --- what is asked ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a dataset."""

    dataset: str
    blocks: BlockRange


@dataclass(frozen=True, slots=True)
class Version:
    """One dataset version."""

    version: VersionId


@dataclass(frozen=True, slots=True)
class Object:
    """Versions that hold an object, by the last part of its key (and its version), or by how its digest begins."""

    name: str | None = None
    version: VersionId | None = None
    digest: str | None = None


def parse(text: str) -> Blocks | Version | Object:
    """Read what `explain` is asked about.

    Raises:
        RefusedInput
    """
    text = text.strip()
    if VERSION.fullmatch(text):
        return Version(VersionId(UUID(text)))
    if found := BLOCKS.fullmatch(text):
        return Blocks(found[1], _blocks(int(found[2]), None if found[3] is None else int(found[3])))
    if found := OBJECT.fullmatch(text):
        return Object(name=found[2], version=None if found[1] is None else VersionId(UUID(found[1])))
    if DIGEST.fullmatch(text):
        return Object(digest=text.lower())
    raise RefusedInput(
        "this names no range and no version: write DATASET:BLOCK, DATASET:START-END (the end is not in it), the id of a"
        " dataset version, or the key or the digest (8 digits or more) of an object"
    )


def _blocks(start: int, end: int | None) -> BlockRange:
    end = start + 1 if end is None else end
    if end > LAST_BLOCK:
        raise RefusedInput(f"block {max(start, end)} is too large: the largest is {LAST_BLOCK - 1}")
    if end <= start:
        raise RefusedInput(f"{start}-{end} holds no block: START-END is end-exclusive, so END must be above START")
    return BlockRange(start, end)


# --- where a range stands -----------------------------------------------------------------------------------------


def of_version(row: Row) -> tuple[Standing, str]:
    """Return how a row of `versions` stands, and why."""
    if row["replaced_snapshot"] is None:
        return Standing.PUBLISHED, f"published in snapshot {row['published_snapshot']}"
    if row["withdrawn"] is not None:
        return Standing.WITHDRAWN, f"withdrawn in snapshot {row['replaced_snapshot']}: {row['withdrawn']}"
    return Standing.REPLACED, f"replaced by a later generation in snapshot {row['replaced_snapshot']}"


def of_task(row: Row) -> tuple[Standing, str]:
    """Return how a row of `tasks` without a version stands, and why."""
    standing = Standing(row["state"])
    job, attempt = row["job"], row["attempt"]
    message = row["error"]["message"] if row["error"] else None
    match standing:
        case Standing.RUNNING:
            return standing, f"attempt {attempt} runs on {row['worker_id']}"
        case Standing.DEAD:
            return standing, f"dead after attempt {attempt}: {message}; `trace-ray retry {job}` puts it back"
        case Standing.CANCELLED:
            return standing, f"cancelled; `trace-ray retry {job}` puts it back"
        case _:
            last = f"; attempt {attempt} failed: {message}" if message else ""
            return standing, f"{_waits_for(row)}{last}"


def _waits_for(row: Row) -> str:
    if not row["job_enabled"]:
        return f"its job is paused: `trace-ray resume {row['job']}` goes on"
    if not row["stream_enabled"]:
        return "its stream left the job file: add it again, and apply"
    if row["head_error"] is not None:
        return f"rpc pool {row['rpc_pool']} gives no head: {row['head_error']}"
    if row["waits"]:
        return f"its next attempt may begin at {row['run_at']:%Y-%m-%d %H:%M:%S} UTC"
    return "waits for a free worker"


def never_planned(pieces: Sequence[BlockRange], streams: Iterable[Row]) -> list[tuple[BlockRange, str]]:
    """Say why no task covers these blocks, in order; `streams` are those that want their dataset."""
    spans: list[tuple[BlockRange, str]] = []
    for row in streams:
        start, cursor, end = row["from_block"], row["next_block"], row["to_block"] or LAST_BLOCK
        if start < cursor:
            reason = f"job {row['job']} passed these blocks by: `trace-ray repair {row['job']}` plans them"
            spans.append((BlockRange(start, cursor), reason))
        if cursor < end:
            spans.append((BlockRange(cursor, end), _ahead(row)))
    inside, outside = cut(pieces, sorted(spans, key=lambda one: one[0]))
    unwanted = [(blocks, "no job wants these blocks") for blocks in outside]
    return sorted([*inside, *unwanted], key=lambda one: one[0])


def _ahead(row: Row) -> str:
    job, cursor = row["job"], row["next_block"]
    if not row["job_enabled"]:
        return f"job {job} is paused at block {cursor}: `trace-ray resume {job}` goes on"
    return f"the cursor of job {job} stands at block {cursor}"
