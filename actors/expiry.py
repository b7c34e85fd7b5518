"""Removes stored answers of queries when their time is over, and old rows of the audit.

Of an answer the object goes first, then the row that names it.

Killed in between, the next sweep finds the row again. An object that several answers share stays until the last of
them expires, and one without a row (its service died before it wrote one) goes when it is as old.
"""

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from state import audit, sweep
from state.db import Database
from trace_ray.storage import ObjectStore, StoredObject

RESULTS: Final = "results/"  # every stored answer lies under it
BATCH: Final = 50  # objects that are deleted under one lock
ROWS: Final = 5000  # of the audit, in one transaction


def sweep_results(database: Database, store: ObjectStore, *, kept_s: float, dry_run: bool = False) -> int:
    """Remove what has expired in database `data` and its objects; return how many answers and lost objects that are.

    Raises:
        StoreUnavailable, DatabaseUnavailable: try again; nothing is half done.
    """
    return _expired(database, store, dry_run=dry_run) + _lost(database, store, kept_s=kept_s, dry_run=dry_run)


def sweep_audit(database: Database, *, kept_s: float, dry_run: bool = False) -> int:
    """Remove the rows of the audit that are older than `kept_s`; return how many that are.

    Raises:
        DatabaseUnavailable: try again; nothing is half done.
    """
    if dry_run:
        return database.read(lambda conn: audit.old_count(conn, kept_s=kept_s))
    removed = 0
    while True:
        with database.transaction() as conn:
            batch = audit.forget_old(conn, kept_s=kept_s, limit=ROWS)
        removed += batch
        if not batch:
            return removed


def _expired(database: Database, store: ObjectStore, *, dry_run: bool) -> int:
    if dry_run:
        with database.transaction() as conn:
            return audit.expired_count(conn)
    removed = 0
    while True:
        with database.transaction() as conn:
            sweep.hold(conn)
            batch = audit.expired_results(conn, limit=BATCH)
            for key in {one.result.key for one in batch if not one.shared}:
                store.delete(key)
            audit.forget_results(conn, [one.result.query_id for one in batch])
        removed += len(batch)
        if not batch:
            return removed


def _lost(database: Database, store: ObjectStore, *, kept_s: float, dry_run: bool) -> int:
    """Remove old objects that no row names; a row is written moments after its object."""
    before = datetime.now(UTC) - timedelta(seconds=kept_s)
    old = (found for found in store.list(RESULTS) if found.modified_at < before)
    removed = 0
    while page := list(islice(old, BATCH)):
        lost = _without_row(database, page)
        for key in [] if dry_run else lost:
            store.delete(key)
        removed += len(lost)
    return removed


def _without_row(database: Database, page: list[StoredObject]) -> list[str]:
    keys = [found.key for found in page]
    with database.transaction() as conn:
        known = audit.known_keys(conn, keys)
    return [key for key in keys if key not in known]
