"""The registry of datasets: what a snapshot shows, what it covers, and grants pinned to its files. Reads only.

A version is visible in snapshot `s` when it was published at or before `s` and not replaced at or before `s`. Snapshot
numbers come from one counter per organisation, so one number fixes all datasets of a query at the same instant.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg.rows import tuple_row

from state.db import Connection, Row, statements
from state.gaps import missing
from trace_ray.contracts import (
    BlockRange,
    Certificate,
    DatasetUuid,
    Grant,
    GrantedDataset,
    GrantedFile,
    Level,
    OrgId,
    Receipts,
    VersionId,
)
from trace_ray.errors import NotFound
from trace_ray.reports import Coverage, Missing, MissingReason, VersionView

SQL: Final = statements("datasets")


@dataclass(frozen=True, slots=True)
class _Sizes:
    rows: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Extent:
    """What a dataset spans in a snapshot, and what of it is published. `end` equals `start` when it spans nothing."""

    start: int
    end: int
    published: Sequence[BlockRange]

    @property
    def gaps(self) -> tuple[BlockRange, ...]:
        """Return the unpublished blocks between start and end."""
        gaps: list[BlockRange] = []
        reached = self.start
        for blocks in self.published:
            if reached < blocks.start:
                gaps.append(BlockRange(reached, blocks.start))
            reached = blocks.end
        if reached < self.end:
            gaps.append(BlockRange(reached, self.end))
        return tuple(gaps)


def listing(conn: Connection, org_id: OrgId, roles: Collection[str] | None = None) -> list[Coverage]:
    """Return every dataset that these roles may read with its coverage, by name and without the single versions."""
    rows = _find(conn, org_id, None, None, roles)
    newest = _newest(rows)
    islands, sizes = _islands(conn, rows, newest), _sizes(conn, rows, newest)
    return [_coverage(row, _planned(row, islands[row["dataset_uuid"]]), sizes[row["dataset_uuid"]], ()) for row in rows]


def coverage(
    conn: Connection,
    org_id: OrgId,
    name: str,
    snapshot: int | None = None,
    roles: Collection[str] | None = None,
) -> Coverage:
    """Return what is published of a dataset now, or in a snapshot. Now, planned blocks count as gaps until published.

    Raises:
        NotFound: the dataset or the snapshot does not exist, or these roles may not read it.
    """
    rows = _find(conn, org_id, [name], snapshot, roles)
    row = rows[0]
    seen = row["newest"] if snapshot is None else snapshot
    islands = _islands(conn, rows, seen)[row["dataset_uuid"]]
    extent = _planned(row, islands) if snapshot is None else _published(row, islands)
    sizes = _sizes(conn, rows, seen)[row["dataset_uuid"]]
    versions = conn.execute(SQL["versions"], {"dataset": row["dataset_uuid"], "snapshot": seen})
    found = _coverage(row, extent, sizes, tuple(map(_version, versions)))
    return found if snapshot is not None else replace(found, missing=_missing(conn, row, extent))


def pin(
    conn: Connection,
    org_id: OrgId,
    names: Sequence[str] | None,
    as_of: int | None,
    roles: Collection[str] | None = None,
) -> Grant:
    """Return the right to read datasets (None: all of the organisation) exactly as a snapshot shows them.

    A pin is repeatable: `as_of` the snapshot that it names, or the newest of several, gives the same files again.
    `roles` are those of who asks, None for an operator, who may read all. What they may not read is not there.

    Raises:
        NotFound: a dataset or the snapshot does not exist, or these roles may not read it.
    """
    rows = _find(conn, org_id, names, as_of, roles)
    seen = _newest(rows) if as_of is None else as_of
    islands = _islands(conn, rows, seen)
    files = _files(conn, rows, seen)
    granted: list[GrantedDataset] = []
    for row in rows:
        uuid = DatasetUuid(row["dataset_uuid"])
        extent = _published(row, islands[uuid])
        granted.append(
            GrantedDataset(
                name=row["name"],
                dataset_uuid=uuid,
                cryo_dataset_name=row["cryo_dataset_name"],
                snapshot=row["snapshot"],
                from_block=extent.start,
                to_block=extent.end,
                gaps=extent.gaps,
                files=tuple(files[uuid]),
            )
        )
    return Grant(org_id, tuple(granted))


# --- parts --------------------------------------------------------------------------------------------------------


def _find(
    conn: Connection,
    org_id: OrgId,
    names: Sequence[str] | None,
    snapshot: int | None,
    roles: Collection[str] | None,
) -> list[Row]:
    wanted = None if names is None else [name for name in names if name.isprintable()]  # no text for Postgres: NUL
    who = {"org": org_id, "roles": None if roles is None else list(roles)}
    rows = conn.execute(SQL["find"], {**who, "names": wanted, "snapshot": snapshot}).fetchall()
    missing = sorted(set(names or ()) - {row["name"] for row in rows})
    if missing:
        known = [row["name"] for row in conn.execute(SQL["names"], who)]
        hint = f"choose one of {', '.join(known)}" if known else "apply a job file first"
        raise NotFound([f"there is no dataset {name}: {hint}" for name in missing])
    newest = _newest(rows)
    if snapshot is not None and not 0 <= snapshot <= newest:
        raise NotFound(f"there is no snapshot {snapshot}: the newest is {newest}; leave it out to read the newest")
    return rows


def _newest(rows: Sequence[Row]) -> int:
    return max((row["newest"] for row in rows), default=0)


def _islands(conn: Connection, rows: Sequence[Row], snapshot: int) -> defaultdict[DatasetUuid, list[BlockRange]]:
    found: defaultdict[DatasetUuid, list[BlockRange]] = defaultdict(list)
    for row in conn.execute(SQL["islands"], _seen(rows, snapshot)):
        found[row["dataset_uuid"]].append(BlockRange(row["range_start"], row["range_end"]))
    return found


def _sizes(conn: Connection, rows: Sequence[Row], snapshot: int) -> defaultdict[DatasetUuid, _Sizes]:
    found: defaultdict[DatasetUuid, _Sizes] = defaultdict(_Sizes)
    for row in conn.execute(SQL["sizes"], _seen(rows, snapshot)):
        found[row["dataset_uuid"]] = _Sizes(row["rows"], row["files"], row["bytes"])
    return found


def _seen(rows: Sequence[Row], snapshot: int) -> dict[str, object]:
    return {"datasets": [row["dataset_uuid"] for row in rows], "snapshot": snapshot}


def _files(conn: Connection, rows: Sequence[Row], snapshot: int) -> defaultdict[DatasetUuid, list[GrantedFile]]:
    found: defaultdict[DatasetUuid, list[GrantedFile]] = defaultdict(list)
    with conn.cursor(row_factory=tuple_row) as cursor:  # a long chain has many files: a dict for each is waste
        for uuid, key, min_block, max_block, size, count in cursor.execute(SQL["files"], _seen(rows, snapshot)):
            found[uuid].append(GrantedFile(key, min_block, max_block, size, count))
    return found


def _published(row: Row, islands: Sequence[BlockRange]) -> _Extent:
    """The span of a snapshot: up to the furthest published block, which no later plan can move."""
    start = min([row["from_block"], *(blocks.start for blocks in islands)])
    return _Extent(start, islands[-1].end if islands else start, islands)


def _planned(row: Row, islands: Sequence[BlockRange]) -> _Extent:
    """The span now: up to the furthest planned block."""
    published = _published(row, islands)
    return _Extent(published.start, max(published.end, row["planned_to"]), islands)


def _missing(conn: Connection, row: Row, extent: _Extent) -> tuple[Missing, ...]:
    """Explain what is not published, up to the last block that a job with a fixed target wants."""
    wanted_to = row["wanted_to"] or 0
    beyond = [BlockRange(extent.end, wanted_to)] if wanted_to > extent.end else []
    place = {"dataset": row["dataset_uuid"]}
    known = [_piece(one, MissingReason(one["reason"])) for one in conn.execute(SQL["unpublished"], place)]
    gone = [_piece(one, MissingReason.REPLACED) for one in conn.execute(SQL["out_of_sight"], place)]
    return missing([*extent.gaps, *beyond], known, gone)


def _piece(row: Row, reason: MissingReason) -> Missing:
    return Missing(BlockRange(row["range_start"], row["range_end"]), reason, row["detail"])


def _coverage(row: Row, extent: _Extent, sizes: _Sizes, versions: tuple[VersionView, ...]) -> Coverage:
    return Coverage(
        dataset=row["name"],
        dataset_uuid=DatasetUuid(row["dataset_uuid"]),
        cryo_dataset_name=row["cryo_dataset_name"],
        snapshot=row["snapshot"],
        from_block=extent.start,
        to_block=extent.end,
        blocks=sum(map(len, extent.published)),
        rows=sizes.rows,
        files=sizes.files,
        bytes=sizes.bytes,
        gaps=extent.gaps,
        versions=versions,
    )


def certificate_of(row: Row) -> Certificate:
    """Return the certificate that a row of `state.dataset_versions` holds."""
    proof = row["certificate"]
    return Certificate(
        level=Level(proof["level"]),
        checks=tuple(proof["checks"]),
        parent_hash=row["parent_hash"],
        end_hash=row["end_hash"],
        receipts=Receipts(proof["receipts"]),
        engine=proof["engine"],
        engine_version=proof["engine_version"],
        engine_digest=proof["engine_digest"],
        provider=proof["provider"],
        engine_arguments=tuple(proof.get("engine_arguments", ())),  # absent from what older versions published
    )


def _version(row: Row) -> VersionView:
    return VersionView(
        VersionId(row["dataset_version"]),
        BlockRange(row["range_start"], row["range_end"]),
        row["row_count"],
        certificate_of(row),
    )
