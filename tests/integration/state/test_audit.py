"""The audit and the stored answers: written once, seen by their own organisation, swept when their time is over."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg import errors as pg

from actors import expiry
from state import audit
from state.db import Connection, Database
from trace_ray.access import AuditedDataset, AuditRow, StoredResult, sql_hash
from trace_ray.contracts import DEFAULT_ORG, OrgId, TaskId
from trace_ray.errors import LedgerConflict, NotFound
from trace_ray.storage import ObjectStore, open_store

OTHER = OrgId(UUID(int=7))
DAY_S = 24 * 3600.0
WEEK_S = 7 * DAY_S


def answered(user: str = "alice", *, org_id: OrgId = DEFAULT_ORG, outcome: str = "OK") -> AuditRow:
    return AuditRow(
        query_id=uuid4(),
        outcome=outcome,
        org_id=org_id,
        user=user,
        datasets=(AuditedDataset("devnet_blocks", 7), AuditedDataset("devnet_logs", 5)),
        rows=10,
        bytes=2**40,
        bytes_read=2**41,
        seconds=0.25,
        sql_hash=sql_hash(b"k" * 32, "select 1"),
    )


# --- the audit ----------------------------------------------------------------------------------------------------


def test_an_answer_and_a_refusal_are_found_as_they_were_written(conn: Connection) -> None:
    task = AuditRow(uuid4(), "WORKER_CRASH", reason="x", org_id=DEFAULT_ORG, task_id=TaskId(uuid4()), attempt=2,
                    hostile=True, killed=True)  # fmt: skip
    for row in (answered(), task):
        audit.record(conn, row)
        found = audit.find(conn, DEFAULT_ORG, row.query_id)
        assert found.at is not None
        assert abs(datetime.now(UTC) - found.at) < timedelta(minutes=1)
        assert found == replace(row, at=found.at)


def test_a_row_is_written_once(conn: Connection) -> None:
    row = answered()
    audit.record(conn, row)
    with pytest.raises(pg.UniqueViolation):
        audit.record(conn, row)


@pytest.mark.parametrize(
    "row",
    [
        AuditRow(uuid4(), "OK", org_id=DEFAULT_ORG, user="alice", task_id=TaskId(uuid4()), attempt=1),
        AuditRow(uuid4(), "OK", org_id=DEFAULT_ORG, task_id=TaskId(uuid4())),
        AuditRow(uuid4(), "OK", user="alice"),
        AuditRow(uuid4(), "OK", task_id=TaskId(uuid4()), attempt=1),
    ],
)
def test_a_row_names_one_asker_of_one_organisation(conn: Connection, row: AuditRow) -> None:
    with pytest.raises(pg.CheckViolation):
        audit.record(conn, row)


def test_the_newest_rows_come_first_and_can_be_chosen(conn: Connection) -> None:
    rows = [answered("alice"), answered("bob"), answered("alice", outcome="SQL_REJECTED")]
    for row in rows:
        audit.record(conn, row)

    def ids(*, user: str | None = None, outcome: str | None = None, limit: int = 100) -> list[UUID]:
        return [one.query_id for one in audit.recent(conn, DEFAULT_ORG, user=user, outcome=outcome, limit=limit)]

    assert ids() == [row.query_id for row in reversed(rows)]
    assert ids(limit=1) == [rows[2].query_id]
    assert ids(user="alice") == [rows[2].query_id, rows[0].query_id]
    assert ids(user="alice", outcome="OK") == [rows[0].query_id]


def test_organisations_do_not_see_each_other_and_only_operators_see_refused_tokens(conn: Connection) -> None:
    mine, theirs = answered(), answered(org_id=OTHER)
    stranger = AuditRow(uuid4(), "UNAUTHENTICATED", reason="expired")
    for row in (mine, theirs, stranger):
        audit.record(conn, row)
    assert [row.query_id for row in audit.recent(conn, DEFAULT_ORG)] == [mine.query_id]
    seen = audit.recent(conn, DEFAULT_ORG, strangers=True)
    assert {row.query_id for row in seen} == {mine.query_id, stranger.query_id}
    for query_id in (theirs.query_id, stranger.query_id, uuid4()):
        with pytest.raises(NotFound, match="there is no query"):
            audit.find(conn, DEFAULT_ORG, query_id)


def test_rows_go_when_they_are_older_than_they_are_kept(
    conn: Connection, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "ROWS", 2)  # so that several transactions are needed
    old = [answered() for _ in range(4)] + [AuditRow(uuid4(), "UNAUTHENTICATED")]
    young = answered()
    for row in (*old, young):
        audit.record(conn, row)
    ids = [row.query_id for row in old]
    conn.execute(b"UPDATE data.query_audit SET at = at - interval '30 d' WHERE query_id = ANY(%s::uuid[])", (ids,))
    database = Database(state_url, application_name="test-expiry")
    assert expiry.sweep_audit(database, kept_s=31 * DAY_S) == 0
    assert expiry.sweep_audit(database, kept_s=29 * DAY_S, dry_run=True) == len(old)
    assert len(audit.recent(conn, DEFAULT_ORG, strangers=True)) == len(old) + 1
    assert expiry.sweep_audit(database, kept_s=29 * DAY_S) == len(old)
    database.close()
    assert [row.query_id for row in audit.recent(conn, DEFAULT_ORG, strangers=True)] == [young.query_id]


# --- stored answers -----------------------------------------------------------------------------------------------


def stored(content: str = "a", *, query_id: UUID | None = None, key: str | None = None) -> StoredResult:
    query = query_id or uuid4()
    return StoredResult(
        query, DEFAULT_ORG, key or f"results/{DEFAULT_ORG}/{query}/{content}.parquet", 5, 9, content * 64
    )


def test_a_result_is_kept_once_and_a_different_one_is_refused(conn: Connection) -> None:
    one = stored()
    kept = audit.save_result(conn, one, kept_s=WEEK_S)
    assert kept.expires_at is not None
    assert abs(kept.expires_at - datetime.now(UTC) - timedelta(seconds=WEEK_S)) < timedelta(minutes=1)
    assert audit.save_result(conn, one, kept_s=2 * WEEK_S) == kept
    with pytest.raises(LedgerConflict, match="another result"):
        audit.save_result(conn, stored("b", query_id=one.query_id), kept_s=WEEK_S)
    assert audit.result(conn, DEFAULT_ORG, one.query_id) == kept
    assert audit.result(conn, OTHER, one.query_id) is None
    assert audit.result(conn, DEFAULT_ORG, uuid4()) is None


def test_equal_answers_are_found_within_an_organisation_only(conn: Connection) -> None:
    kept = audit.save_result(conn, stored(), kept_s=WEEK_S)
    assert audit.same_content(conn, DEFAULT_ORG, "a" * 64) == kept
    assert audit.same_content(conn, OTHER, "a" * 64) is None
    assert audit.same_content(conn, DEFAULT_ORG, "b" * 64) is None


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    root = tmp_path / "objects"
    root.mkdir()
    return open_store(root.as_uri(), data_dir=tmp_path)


def put(store: ObjectStore, tmp_path: Path, key: str) -> Path:
    source = tmp_path / "source"
    source.write_bytes(b"rows")
    store.put(source, key)
    return tmp_path / "objects" / key


def expire(conn: Connection, *results: StoredResult) -> None:
    conn.execute(
        b"UPDATE data.query_results SET expires_at = now() - interval '1 s' WHERE query_id = ANY(%s::uuid[])",
        ([one.query_id for one in results],),
    )


def swept(state_url: str, store: ObjectStore, *, dry_run: bool = False, kept_s: float = WEEK_S) -> int:
    database = Database(state_url, application_name="test-expiry")
    try:
        return expiry.sweep_results(database, store, kept_s=kept_s, dry_run=dry_run)
    finally:
        database.close()


def test_expired_answers_go_with_their_objects_and_others_stay(
    conn: Connection, state_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    old = [stored(content) for content in "abc"] + [stored("d") for _ in range(60)]
    young = stored("e")
    files = {one.query_id: put(store, tmp_path, one.key) for one in [*old, young]}
    for one in [*old, young]:
        audit.save_result(conn, one, kept_s=WEEK_S)
    expire(conn, *old)
    assert audit.result(conn, DEFAULT_ORG, old[0].query_id) is None, "it is gone for readers before it is swept"
    assert swept(state_url, store, dry_run=True) == len(old)
    assert all(file.exists() for file in files.values())
    assert swept(state_url, store) == len(old)
    assert [query for query, file in files.items() if file.exists()] == [young.query_id]
    assert swept(state_url, store) == 0
    assert audit.result(conn, DEFAULT_ORG, young.query_id) is not None


def test_an_object_that_two_answers_share_goes_with_the_last(
    conn: Connection, state_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    first = stored()
    file = put(store, tmp_path, first.key)
    audit.save_result(conn, first, kept_s=WEEK_S)
    second = stored(key=first.key)
    audit.save_result(conn, second, kept_s=WEEK_S)
    expire(conn, first)
    assert swept(state_url, store) == 1
    assert file.exists()
    expire(conn, second)
    assert swept(state_url, store) == 1
    assert not file.exists()


def test_an_object_that_is_about_to_be_shared_is_not_swept_meanwhile(
    connection: Callable[[], Connection], state_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    conn, sharer = connection(), connection()
    first = stored()
    file = put(store, tmp_path, first.key)
    audit.save_result(conn, first, kept_s=WEEK_S)
    with sharer.transaction():
        assert audit.same_content(sharer, DEFAULT_ORG, first.digest) is not None
        conn.execute(b"SET lock_timeout = '100ms'")
        with pytest.raises(pg.LockNotAvailable):
            expire(conn, first)
        assert swept(state_url, store) == 0
        audit.save_result(sharer, stored(key=first.key), kept_s=WEEK_S)
    expire(conn, first)
    assert swept(state_url, store) == 1
    assert file.exists()


def test_an_old_object_that_no_row_names_is_swept_and_a_young_one_is_not(
    conn: Connection, state_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    kept = stored()
    files = [
        put(store, tmp_path, key) for key in (kept.key, f"results/{OTHER}/{uuid4()}/lost.parquet", "cryo/1/x.parquet")
    ]
    audit.save_result(conn, kept, kept_s=WEEK_S)
    assert swept(state_url, store) == 0
    assert swept(state_url, store, kept_s=-60, dry_run=True) == 1
    assert swept(state_url, store, kept_s=-60) == 1
    assert [file.exists() for file in files] == [True, False, True]
