"""The sweeper on a real ledger and a real directory: it removes what nothing can need, and never a committed object."""

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import errors as pg

from actors.sweeper import OWNER, Sweeper, staging_kept_s, sweep_staging
from state import sweep, tasks
from state.db import Database
from tests.conftest import free_port
from tests.integration.state.ledger import Ledger, failure, job, publication
from trace_ray import config, manifest
from trace_ray.contracts import Lease, S3Credentials
from trace_ray.errors import RefusedInput, StoreUnavailable
from trace_ray.storage import ObjectStore, open_store

DAY_S = 24 * 3600.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(root: Path, tmp_path: Path) -> ObjectStore:
    root.mkdir()
    return open_store(root.as_uri(), data_dir=tmp_path)


@pytest.fixture
def sweeper(state_url: str, store: ObjectStore, tmp_path: Path, root: Path) -> Sweeper:
    made = Sweeper(
        Database(state_url, application_name="test-sweep"),
        store,
        tmp_path / "staging",
        kept_s=DAY_S,
        staging_kept_s=DAY_S,
        answers=Database(state_url, application_name="test-sweep"),
        audit_kept_s=DAY_S,
    )
    made.claim_store(root.as_uri())
    return made


def put(store: ObjectStore, root: Path, key: str, *, age_s: float = 2 * DAY_S) -> str:
    source = root.parent / "source"
    source.write_bytes(b"rows")
    store.put(source, key)
    _age(root / key, age_s)
    return key


def _age(path: Path, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(path, times=(then, then))


def other_object(lease: Lease, mark: str = "f") -> str:
    """The key of an object that another attempt of the lease's task made and never offered."""
    return manifest.object_key(lease, digest=mark * 64)


def test_committed_objects_are_never_swept_and_what_lost_attempts_left_is(
    ledger: Ledger, store: ObjectStore, sweeper: Sweeper, root: Path
) -> None:
    ledger.sync(job(to_block=400))
    committed: set[str] = set()
    lost: set[str] = set()
    for lease in ledger.drain():
        committed.update(put(store, root, file.key) for file in publication(lease).files)
        lost.add(put(store, root, other_object(lease)))
    assert len(committed) == 4
    would = sweeper.sweep(dry_run=True)
    assert {found.key for found in store.list("cryo/")} == committed | lost
    swept = sweeper.sweep()
    assert swept == would
    assert (swept.objects, swept.bytes, swept.kept) == (4, 16, 0)
    assert {found.key for found in store.list("cryo/")} == committed


def test_objects_of_replaced_and_withdrawn_versions_stay(
    ledger: Ledger, store: ObjectStore, sweeper: Sweeper, root: Path
) -> None:
    ledger.sync(job(to_block=100))
    (lease,) = ledger.drain()
    key = put(store, root, publication(lease).files[0].key)
    ledger.conn.execute(b"UPDATE state.dataset_versions SET replaced_snapshot = 2, withdrawn = 'gone'")
    assert sweeper.sweep().objects == 0
    assert [found.key for found in store.list("cryo/")] == [key]


def test_objects_of_open_and_unknown_tasks_and_young_ones_stay(
    ledger: Ledger, store: ObjectStore, sweeper: Sweeper, root: Path
) -> None:
    ledger.sync(job(to_block=400))
    running = ledger.lease()
    ended = ledger.lease()
    ledger.fail(failure(ended, retryable=False))
    kept = {
        put(store, root, other_object(running)),
        put(store, root, other_object(ended, "a"), age_s=DAY_S / 2),
        put(store, root, other_object(running).replace(str(running.task.dataset_uuid), str(uuid4()))),
        put(store, root, "cryo/notes.txt"),
    }
    put(store, root, other_object(ended, "b"))
    swept = sweeper.sweep()
    assert (swept.objects, swept.kept) == (1, 3)
    assert {found.key for found in store.list("cryo/")} == kept


def test_no_task_begins_again_while_its_objects_are_deleted(ledger: Ledger, sweeper: Sweeper, state_url: str) -> None:
    wanted = ledger.sync(job(to_block=100))
    lease = ledger.lease()
    ledger.fail(failure(lease, retryable=False))
    name = manifest.object_name(other_object(lease))
    assert name is not None
    with Database(state_url, application_name="sweep").transaction() as sweeping:
        (verdict,) = sweep.judge(sweeping, [name])
        assert verdict.garbage
        ledger.conn.execute(b"SET lock_timeout = '100ms'")
        with pytest.raises(pg.LockNotAvailable), ledger.conn.transaction():
            tasks.retry_dead(ledger.conn, wanted.job_id)
    assert tasks.retry_dead(ledger.conn, wanted.job_id) == 1
    with Database(state_url, application_name="sweep").transaction() as sweeping:
        (verdict,) = sweep.judge(sweeping, [name])
        assert not verdict.garbage  # it may be offered again


def test_a_task_that_somebody_has_locked_counts_as_open(ledger: Ledger, state_url: str) -> None:
    ledger.sync(job(to_block=100))
    lease = ledger.lease()
    ledger.fail(failure(lease, retryable=False))
    name = manifest.object_name(other_object(lease))
    assert name is not None
    with ledger.conn.transaction():
        ledger.conn.execute(b"SELECT FROM state.tasks FOR UPDATE")
        with Database(state_url, application_name="sweep").transaction() as sweeping:
            assert not sweep.judge(sweeping, [name])[0].garbage


def test_an_object_store_of_another_ledger_is_neither_claimed_nor_swept(
    ledger: Ledger, store: ObjectStore, sweeper: Sweeper, root: Path
) -> None:
    sweeper.claim_store(root.as_uri())  # again is harmless
    (root / OWNER).write_text(f"{uuid4()}\n")
    with pytest.raises(RefusedInput, match="another ledger"):
        sweeper.claim_store(root.as_uri())
    with pytest.raises(RefusedInput, match="not of this ledger"):
        sweeper.sweep()


def test_a_store_that_changed_under_published_objects_is_refused_until_it_is_said_that_they_moved(
    ledger: Ledger, sweeper: Sweeper
) -> None:
    ledger.sync(job(to_block=100))
    sweeper.claim_store("file:///elsewhere")  # nothing is published yet
    ledger.drain()
    with pytest.raises(RefusedInput, match="--moved-store"):
        sweeper.claim_store("s3://bucket/new")
    sweeper.claim_store("s3://bucket/new", moved=True)
    sweeper.claim_store("s3://bucket/new")


def test_staging_directories_of_killed_workers_go_and_those_in_use_stay(tmp_path: Path) -> None:
    for name, age_s in (("attempt-old", 2 * DAY_S), ("attempt-new", 0.0), ("notes", 2 * DAY_S)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.parquet").write_bytes(b"rows")
        _age(tmp_path / name, age_s)
    assert sweep_staging(tmp_path, kept_s=DAY_S, dry_run=True) == 1
    assert sweep_staging(tmp_path, kept_s=DAY_S) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"attempt-new", "notes"}
    assert sweep_staging(tmp_path / "missing", kept_s=DAY_S) == 0


def test_a_directory_that_an_attempt_may_still_use_is_never_old_enough() -> None:
    settings = config.read_settings({"TRACE_RANGE_TIMEOUT_SECONDS": "7200"})
    assert staging_kept_s(settings, 3600.0) == 14_400.0  # `sweep --older-than 1` beside ranges of two hours
    assert staging_kept_s(settings) == DAY_S


def test_a_store_that_does_not_answer_leaves_the_ledger_unbound(ledger: Ledger, state_url: str, tmp_path: Path) -> None:
    url, who = "s3://bucket/data", S3Credentials(access_key="a", secret_key="b")
    store = open_store(url, data_dir=tmp_path, s3_endpoint=f"http://127.0.0.1:{free_port()}", s3=who)
    database = Database(state_url, application_name="test-sweep")
    with pytest.raises(StoreUnavailable):
        Sweeper(
            database, store, tmp_path, kept_s=DAY_S, staging_kept_s=DAY_S, answers=database, audit_kept_s=DAY_S
        ).claim_store(url)
    assert ledger.one(b"SELECT object_store FROM state.ledger") is None
