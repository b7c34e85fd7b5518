"""Removes what attempts left behind: staging directories of killed workers, objects that were never committed, and
batches of drafts that the sink has kept or that nobody ever offered.

A committed object is never touched. Only what is old, what nothing registers, and what no task can publish any more is
deleted, and only in an object store that carries the id of this ledger (promise 1: nothing is lost, at any line).
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from actors.expiry import sweep_audit, sweep_results
from state import sweep
from state.db import Database
from state.sweep import Verdict
from trace_ray.alerts import BATCHES, batch_name
from trace_ray.config import RESULTS_KEPT_S, STAGING_KEPT_S, Settings, data_url, state_url
from trace_ray.errors import ObjectMissing, RefusedInput
from trace_ray.manifest import OBJECTS, object_name
from trace_ray.storage import ObjectStore, StoredObject, open_store

logger = logging.getLogger(__name__)

OWNER: Final = "ledger-id.txt"  # key of the object that says whose store it is
BATCH: Final = 50  # objects that are deleted under one lock: well below the lock timeout of whoever waits
DAY_S: Final = 24 * 3600.0
ATTEMPTS: Final = "attempt-*"


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed, or with `dry_run` would be. `kept` are old objects that are none of this ledger's business.

    `batches` are drafts of alert events, `bytes` theirs and those of `objects`. `results` are stored answers of
    queries, `audited` old rows of their audit.
    """

    directories: int
    objects: int
    bytes: int
    kept: int
    batches: int = 0
    results: int = 0
    audited: int = 0


def sweep_staging(staging: Path, *, kept_s: float, dry_run: bool = False) -> int:
    """Remove the directories of attempts that ended long ago without cleaning up; return how many."""
    swept = 0
    for directory in staging.glob(ATTEMPTS):
        try:
            age_s = time.time() - directory.stat().st_mtime
        except FileNotFoundError:  # its attempt ended at this moment
            continue
        if age_s > kept_s:
            swept += 1
            if not dry_run:
                shutil.rmtree(directory, ignore_errors=True)
    return swept


def for_stack(settings: Settings, *, kept_s: float = STAGING_KEPT_S) -> "Sweeper":
    """Return what sweeps the object store of a stack, and the staging directories of this machine."""
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    database = Database(state_url(settings), application_name="trace-sweeper")
    return Sweeper(
        database,
        store,
        settings.data_dir / "staging",
        kept_s=kept_s,
        staging_kept_s=staging_kept_s(settings, kept_s),
        answers=Database(data_url(settings), application_name="trace-sweeper"),
        audit_kept_s=settings.audit_kept_days * DAY_S,
    )


def staging_kept_s(settings: Settings, kept_s: float = STAGING_KEPT_S) -> float:
    """How long a staging directory is kept: always longer than an attempt that works in it may last."""
    return max(kept_s, 2 * settings.range_timeout_s)


class Sweeper:
    """Sweeps one object store for one ledger. May run at any time, also several at once.

    `answers` is database `data`, which knows the stored answers of queries.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        staging: Path,
        *,
        kept_s: float,
        staging_kept_s: float,
        answers: Database,
        audit_kept_s: float,
    ) -> None:
        self._database = database
        self._store = store
        self._staging = staging
        self._kept_s = kept_s
        self._staging_kept_s = staging_kept_s
        self._answers = answers
        self._audit_kept_s = audit_kept_s

    def claim_store(self, url: str, *, moved: bool = False) -> None:
        """Tie ledger and object store together, before anything is written.

        Raises:
            RefusedInput: the store belongs to another ledger, or the ledger's objects lie in another store.
            StoreUnavailable, DatabaseUnavailable
        """
        with self._database.transaction() as conn:
            mine = str(sweep.ledger_id(conn))
        owner = self._owner()  # outside of a transaction: a slow store must not hold one open
        if owner not in (None, mine):
            raise RefusedInput(
                f"the object store {url} belongs to another ledger: choose another prefix in TRACE_OBJECT_STORE, "
                f"or, if that ledger is gone for good, delete the object {OWNER} there"
            )
        with self._database.transaction() as conn:
            sweep.bind_store(conn, url, moved=moved)
        if owner is None:
            self._sign(mine)

    def sweep(self, *, dry_run: bool = False) -> Swept:
        """Remove everything that is old and nobody's.

        Raises:
            RefusedInput: the object store belongs to another ledger; nothing was deleted.
            StoreUnavailable, DatabaseUnavailable: try again; nothing is half done.
        """
        directories = sweep_staging(self._staging, kept_s=self._staging_kept_s, dry_run=dry_run)
        with self._database.transaction() as conn:
            mine = str(sweep.ledger_id(conn))
        if self._owner() != mine:
            raise RefusedInput("the object store is not of this ledger: run `trace-ray up`, it says what to do")
        swept = Swept(directories, 0, 0, 0)
        for prefix, remove in ((OBJECTS, self._remove_objects), (BATCHES, self._remove_batches)):
            old = iter(self._old(prefix))
            while page := list(islice(old, BATCH)):
                swept = remove(page, swept, dry_run=dry_run)
        results = sweep_results(self._answers, self._store, kept_s=RESULTS_KEPT_S, dry_run=dry_run)
        audited = sweep_audit(self._answers, kept_s=self._audit_kept_s, dry_run=dry_run)
        swept = replace(swept, results=results, audited=audited)
        facts = {"directories": directories, "objects": swept.objects, "batches": swept.batches}
        facts |= {"results": results, "audited": audited}
        if any(facts.values()):
            facts["bytes"] = swept.bytes
            logger.info("swept", extra=facts)
        return swept

    def _old(self, prefix: str) -> Iterable[StoredObject]:
        before = datetime.now(UTC) - timedelta(seconds=self._kept_s)
        return (found for found in self._store.list(prefix) if found.modified_at < before)

    def _remove_objects(self, page: Sequence[StoredObject], swept: Swept, *, dry_run: bool) -> Swept:
        names = [name for found in page if (name := object_name(found.key)) is not None]
        with self._database.transaction() as conn:  # what is deleted under its locks, no task can publish meanwhile
            verdicts = sweep.judge(conn, names) if names else []
            garbage = self._delete(verdicts, dry_run=dry_run)
        swept = _counted(swept, page, verdicts)
        return replace(swept, objects=swept.objects + garbage)

    def _remove_batches(self, page: Sequence[StoredObject], swept: Swept, *, dry_run: bool) -> Swept:
        names = [name for found in page if (name := batch_name(found.key)) is not None]
        with self._database.transaction() as conn:
            verdicts = sweep.judge_batches(conn, names) if names else []
        garbage = self._delete(verdicts, dry_run=dry_run)  # what is garbage once, is so for good
        swept = _counted(swept, page, verdicts)
        return replace(swept, batches=swept.batches + garbage)

    def _delete(self, verdicts: Sequence[Verdict], *, dry_run: bool) -> int:
        garbage = [verdict.key for verdict in verdicts if verdict.garbage]
        for key in [] if dry_run else garbage:
            self._store.delete(key)
        return len(garbage)

    def _owner(self) -> str | None:
        with tempfile.TemporaryDirectory(prefix="trace-ray-") as directory:
            path = Path(directory) / "owner"
            try:
                self._store.get(OWNER, path)
            except ObjectMissing:
                return None
            return path.read_text(encoding="utf-8").strip()

    def _sign(self, mine: str) -> None:
        with tempfile.TemporaryDirectory(prefix="trace-ray-") as directory:
            path = Path(directory) / "owner"
            path.write_text(mine + "\n", encoding="utf-8")
            self._store.put(path, OWNER)


def _counted(swept: Swept, page: Sequence[StoredObject], verdicts: Sequence[Verdict]) -> Swept:
    """Add the bytes of what is garbage, and how much of a page is none of the ledger's business."""
    sizes = {found.key: found.bytes for found in page}
    return replace(
        swept,
        bytes=swept.bytes + sum(sizes[verdict.key] for verdict in verdicts if verdict.garbage),
        kept=swept.kept + len(page) - sum(verdict.garbage or verdict.registered for verdict in verdicts),
    )
