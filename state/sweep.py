"""What of the object store is the ledger's: where its objects lie, and which objects nothing can ever need again.

The caller owns the transaction and deletes inside it: the locks keep every task that could offer the object from
beginning again meanwhile. Batches of drafts need no lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from state import arrays, buffer
from state.db import Connection, Row, statements
from trace_ray.alerts import BatchName
from trace_ray.errors import RefusedInput
from trace_ray.manifest import ObjectName

SQL: Final = statements("sweep")


def ledger_id(conn: Connection) -> UUID:
    """Return the name of this ledger: made with its database, and never changed."""
    (row,) = conn.execute(SQL["ledger"])  # its migration made it
    return UUID(str(row["ledger_id"]))


def bind_store(conn: Connection, url: str, *, moved: bool = False) -> None:
    """Remember where the objects lie; `moved` says that an operator has copied them to `url`.

    Raises:
        RefusedInput: versions are published elsewhere, and queries would not find them.
    """
    (row,) = conn.execute(SQL["ledger"])
    known = row["object_store"]
    if known == url:
        return
    has_objects = conn.execute(SQL["has_objects"]).fetchone()
    if known is not None and not moved and has_objects and has_objects["yes"]:
        raise RefusedInput(
            f"what is published lies in {known} and TRACE_OBJECT_STORE names {url}: set it back, "
            "or copy the objects there and run `trace-ray up --moved-store`"
        )
    conn.execute(SQL["bind"], {"url": url})


def hold(conn: Connection) -> None:
    """Let the locks of this transaction outlive a slow object store."""
    conn.execute(SQL["hold"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may become of one object. `garbage`: nothing can need it again.

    `registered`: it is part of a version, or of a message that is not handled.
    """

    key: str
    registered: bool
    garbage: bool


def judge(conn: Connection, objects: Sequence[ObjectName]) -> list[Verdict]:
    """Judge old objects and lock the tasks of their ranges until the transaction ends.

    A committed object is never garbage, neither is one of a task that is open, locked or unknown to this ledger.
    """
    hold(conn)
    parameters = {
        "keys": [one.key for one in objects],
        "datasets": [one.dataset_uuid for one in objects],
        "starts": [one.blocks.start for one in objects],
        "ends": [one.blocks.end for one in objects],
        "versions": [one.dataset_version for one in objects],
    }
    return [_verdict(row) for row in conn.execute(SQL["judge"], parameters)]


def judge_batches(conn: Connection, batches: Sequence[BatchName]) -> list[Verdict]:
    """Judge old batches of drafts.

    One is garbage when its attempt is over and no message stands for it: the sink has kept its events, or nobody ever
    offered it. A batch of an evaluation that is unknown to this ledger is never garbage.
    """
    parameters = {
        "keys": arrays.texts(one.key for one in batches),
        "tasks": arrays.uuids(one.task_id for one in batches),
        "attempts": arrays.ints([one.attempt for one in batches]),
        "messages": arrays.texts(buffer.idempotency_key(one.task_id, one.attempt, one.key) for one in batches),
    }
    return [_verdict(row) for row in conn.execute(SQL["judge_batches"], parameters)]


def _verdict(row: Row) -> Verdict:
    return Verdict(row["key"], row["registered"], row["ended"] and not row["registered"])
