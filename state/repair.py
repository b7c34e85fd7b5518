"""Repairs: exactly the missing blocks of a job are planned again, while it goes on.

A dead range goes back into the queue; blocks that were never planned get ranges; a range whose version is out of sight
gets a task that makes its next generation. Published and open ranges are left alone. The caller owns the transaction.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from state.db import Connection, Row, statements
from state.gaps import chunks, without
from trace_ray.contracts import BlockRange, JobId, OrgId, TaskId, VersionId, by_range, task_id
from trace_ray.errors import NotFound

SQL: Final = statements("repair")


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair planned of one stream, by its cause."""

    dataset_key: str
    put_back: tuple[BlockRange, ...]
    regenerated: tuple[BlockRange, ...]
    never_planned: tuple[BlockRange, ...]

    @property
    def ranges(self) -> int:
        return len(self.put_back) + len(self.regenerated) + len(self.never_planned)


@dataclass(frozen=True, slots=True)
class Registered:
    """One object that visible versions need: `prefix` is where those of its dataset lie."""

    dataset_version: VersionId
    prefix: str
    key: str
    bytes: int


def repair(conn: Connection, org_id: OrgId, name: str) -> list[Repaired]:
    """Plan what is missing of a job below its cursors; one report per stream. Again at once, it plans nothing.

    `max_inflight` does not hold it back: the planner waits until fewer ranges are open.

    Raises:
        NotFound: there is no such job, or none of its streams is enabled.
    """
    streams = conn.execute(SQL["lock_streams"], {"org": org_id, "name": name}).fetchall()
    if not streams:
        raise NotFound(f"there is no job {name} with streams: run `trace-ray status` to see the jobs")
    return [_repair_stream(conn, stream) for stream in streams if stream["next_block"] > stream["from_block"]]


def withdraw(conn: Connection, versions: Collection[VersionId], *, reason: str) -> int:
    """Take versions out of sight from the next snapshot on, and return how many were visible. Their blocks are gaps."""
    return len(conn.execute(SQL["withdraw"], {"versions": list(versions), "reason": reason}).fetchall())


def registered(conn: Connection, org_id: OrgId, name: str) -> dict[str, list[Registered]]:
    """Return the objects that the visible versions of a job's datasets need, by the prefix under which they lie."""
    rows = conn.execute(SQL["registered"], {"org": org_id, "name": name})
    found = [
        Registered(
            VersionId(row["dataset_version"]),
            f"cryo/{row['chain_id']}/{row['dataset_uuid']}/",
            row["key"],
            row["bytes"],
        )
        for row in rows
    ]
    return {prefix: list(objects) for prefix, objects in groupby(found, key=lambda one: one.prefix)}


def _repair_stream(conn: Connection, stream: Row) -> Repaired:
    span = BlockRange(stream["from_block"], stream["next_block"])
    rows = conn.execute(SQL["ranges"], {"stream": stream["stream_id"], "dataset": stream["dataset_uuid"]}).fetchall()
    dead, gone = [row for row in rows if not row["done"]], [row for row in rows if row["done"]]
    if dead:
        conn.execute(SQL["requeue"], {"tasks": [row["task_id"] for row in dead]})
    place = {"stream": stream["stream_id"], "dataset": stream["dataset_uuid"], "start": span.start, "end": span.end}
    taken = [_range(row) for name in ("planned", "published") for row in conn.execute(SQL[name], place)]
    holes = [part for hole in without(span, by_range(taken)) for part in chunks(hole, stream["chunk_size"])]
    _plan(conn, stream, [*((blocks, 0) for blocks in holes), *((_range(row), row["generation"]) for row in gone)])
    return Repaired(stream["dataset_key"], tuple(map(_range, dead)), tuple(map(_range, gone)), tuple(holes))


def _plan(conn: Connection, stream: Row, planned: Sequence[tuple[BlockRange, int]]) -> None:
    if not planned:
        return
    job, key = JobId(stream["job_id"]), stream["dataset_key"]
    tasks: list[TaskId] = [task_id(job, key, blocks, generation) for blocks, generation in planned]
    parameters = {
        "stream": stream["stream_id"],
        "tasks": tasks,
        "starts": [blocks.start for blocks, _ in planned],
        "ends": [blocks.end for blocks, _ in planned],
        "generations": [generation for _, generation in planned],
    }
    conn.execute(SQL["plan"], parameters)


def _range(row: Row) -> BlockRange:
    return BlockRange(row["range_start"], row["range_end"])
