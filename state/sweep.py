"""What of the object store is the ledger's: where its objects lie, and which objects nothing can ever need again.

The caller owns the transaction and deletes inside it: the locks keep every task that could offer the object from
beginning again meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from state.db import Connection, statements
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
    """What may become of one object: `registered` ones are part of a version, `garbage` nothing can need again."""

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
    rows = conn.execute(SQL["judge"], parameters)
    return [Verdict(row["key"], row["registered"], row["ended"] and not row["registered"]) for row in rows]
