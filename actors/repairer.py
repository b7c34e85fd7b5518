"""Finds published versions whose objects are gone from the object store, so that a repair can make them anew."""

from typing import Final

from state import repair
from state.db import Database
from trace_ray.contracts import OrgId, VersionId
from trace_ray.storage import ObjectStore

LOST: Final = "an object of it is gone from the object store, or has another size"


def withdraw_lost(database: Database, store: ObjectStore, org_id: OrgId, name: str) -> int:
    """Withdraw every visible version of a job with an object that is missing or of another size; return how many.

    Sizes are compared, not digests: one listing instead of reading everything. An object that vanishes afterwards is
    found by the next call.

    Raises:
        StoreUnavailable, DatabaseUnavailable: nothing was withdrawn.
    """
    with database.transaction() as conn:
        wanted = repair.registered(conn, org_id, name)
    lost: set[VersionId] = set()
    for prefix, objects in wanted.items():
        sizes = {found.key: found.bytes for found in store.list(prefix)}
        lost |= {one.dataset_version for one in objects if sizes.get(one.key) != one.bytes}
    if not lost:
        return 0
    with database.transaction() as conn:
        return repair.withdraw(conn, lost, reason=LOST)
