"""Which published versions may have taken the blocks of alert events away, and where they can be read. Events are known
in database `data` alone, so what is announced here is a message, and its consumer looks at both databases.

A version of a later generation is announced once, in the transaction that takes its event out of the outbox, which
has presented the epoch. An evaluation that read what was replaced may end after that: the sink, once it has kept its
events, announces anew what ever replaced its blocks. So each event meets each replacement, whichever comes first.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from state import arrays
from state.db import Connection, Row, statements
from trace_ray.alerts import Evaluation
from trace_ray.contracts import BlockRange, GrantedFile, OrgId, VersionId

SQL: Final = statements("retractions")

QUEUE: Final = "retractions"


@dataclass(frozen=True, slots=True)
class Shown:
    """A version that is visible now, and its objects in order of their blocks."""

    version: VersionId
    org_id: OrgId
    chain_id: int
    dataset: str
    cryo_dataset_name: str
    blocks: BlockRange
    files: tuple[GrantedFile, ...]


def announce(conn: Connection, versions: Sequence[VersionId], *, max_deliveries: int) -> None:
    """Announce those versions that replace others, in organisations that have alert rules. Waits for no answer."""
    parameters = {"versions": arrays.uuids(versions), "queue": QUEUE, "max_deliveries": max_deliveries}
    conn.execute(SQL["announce"], parameters)


def announce_late(
    conn: Connection, org_id: OrgId, evaluation: Evaluation, attempt: int, *, max_deliveries: int
) -> None:
    """Announce anew what replaced blocks of an evaluation, once its events are kept.

    Also what its snapshot shows: of two datasets that are replaced one after the other, it may have read one from
    before. The names of these messages are their own: one that a consumer has now may have been compared before the
    events were there.
    """
    parameters = {
        "org": org_id,
        "chain": evaluation.chain_id,
        "start": evaluation.blocks.start,
        "end": evaluation.blocks.end,
        "cause": f"{evaluation.task_id}:{attempt}",
        "queue": QUEUE,
        "max_deliveries": max_deliveries,
    }
    conn.execute(SQL["announce_late"], parameters)


def shown(conn: Connection, version: VersionId) -> Shown | None:
    """Return a version as it is visible now; None when it was replaced or withdrawn meanwhile."""
    for found in _shown(conn, conn.execute(SQL["shown"], {"version": version}).fetchall()):
        return found
    return None


def showing(conn: Connection, org_id: OrgId, chain_id: int, block: int) -> list[Shown]:
    """Return the visible versions that hold a block, of every dataset of a chain; those of blocks come first."""
    rows = conn.execute(SQL["showing"], {"org": org_id, "chain": chain_id, "block": block}).fetchall()
    return _shown(conn, rows)


def _shown(conn: Connection, rows: Iterable[Row]) -> list[Shown]:
    known = list(rows)
    files: defaultdict[UUID, list[GrantedFile]] = defaultdict(list)
    for row in conn.execute(SQL["files"], {"versions": arrays.uuids(one["dataset_version"] for one in known)}):
        file = GrantedFile(row["key"], row["min_block"], row["max_block"], row["bytes"], row["row_count"])
        files[row["dataset_version"]].append(file)
    return [
        Shown(
            version=VersionId(row["dataset_version"]),
            org_id=OrgId(row["org_id"]),
            chain_id=row["chain_id"],
            dataset=row["name"],
            cryo_dataset_name=row["cryo_dataset_name"],
            blocks=BlockRange(row["range_start"], row["range_end"]),
            files=tuple(files[row["dataset_version"]]),
        )
        for row in known
    ]
