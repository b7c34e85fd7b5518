"""Migrations: each applied once, whoever races, and never over an edited or newer schema."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pytest
from psycopg.types.json import Jsonb

from state import db, jobs, migrate, tasks
from state.db import Connection
from state.migrate import Migration
from tests import schema
from tests.conftest import wait_until
from tests.integration.state import laws
from tests.integration.state.ledger import POLICY, Ledger, failure, job, publication, stream
from trace_ray.contracts import DEFAULT_ORG, Lease
from trace_ray.errors import LedgerConflict, RefusedInput, SchemaAhead
from trace_ray.reports import JobState

FIRST = Migration(1, "first", "CREATE TABLE one (x int);\n INSERT INTO one VALUES (1);")
SECOND = Migration(2, "second", "INSERT INTO one VALUES (2);")


def values(url: str) -> list[object]:
    with db.connect(url, application_name="trace-test") as conn:
        return [row["x"] for row in conn.execute(b"SELECT x FROM one ORDER BY x")]


def test_missing_files_are_applied_in_order_and_once(empty_url: str) -> None:
    assert migrate.migrate(empty_url, files_=[FIRST]) == ["first"]
    assert migrate.migrate(empty_url, files_=[FIRST, SECOND]) == ["second"]
    assert migrate.migrate(empty_url, files_=[FIRST, SECOND]) == []
    assert values(empty_url) == [1, 2]


def _race(url: str, start: Barrier, answers: "Queue[list[str]]") -> None:
    start.wait()
    answers.put(migrate.migrate(url))


def test_processes_that_race_apply_each_file_once(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_race, args=(empty_url, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    applied = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(name for names in applied for name in names) == sorted(
        one.name for one in migrate.migrations("state")
    )
    migrate.check(empty_url)


def test_an_edited_file_is_refused(empty_url: str) -> None:
    migrate.migrate(empty_url, files_=[FIRST])
    with pytest.raises(LedgerConflict, match="migration 0001 was edited"):
        migrate.migrate(empty_url, files_=[replace(FIRST, text="CREATE TABLE two ()"), SECOND])
    assert values(empty_url) == [1]


def test_a_newer_database_is_refused(empty_url: str) -> None:
    migrate.migrate(empty_url, files_=[FIRST, SECOND])
    with pytest.raises(SchemaAhead):
        migrate.migrate(empty_url, files_=[FIRST])


def test_a_file_that_fails_leaves_nothing_and_can_be_mended(empty_url: str) -> None:
    broken = Migration(2, "second", "INSERT INTO one VALUES (2); SELECT 1 / 0;")
    with pytest.raises(Exception, match="division by zero"):
        migrate.migrate(empty_url, files_=[FIRST, broken])
    assert values(empty_url) == [1]
    assert migrate.migrate(empty_url, files_=[FIRST, SECOND]) == ["second"]


def test_work_on_a_database_without_the_schema_is_refused(empty_url: str) -> None:
    with pytest.raises(RefusedInput, match="run `trace-ray up`"):
        migrate.check(empty_url)
    migrate.migrate(empty_url)
    migrate.check(empty_url)


def test_the_ledgers_of_the_two_databases_are_numbered_apart(conn: Connection) -> None:
    for ledger in ("state", "data"):
        rows = conn.execute(
            b"SELECT version FROM public.trace_migrations WHERE ledger = %s::text ORDER BY version", (ledger,)
        )
        versions = [row["version"] for row in rows]
        assert versions == [one.version for one in migrate.migrations(ledger)]
        assert versions[0] == 1
        assert versions == sorted(set(versions))


def test_a_new_database_is_a_copy_of_the_template(connection: Callable[[], Connection]) -> None:
    names = connection().execute(b"SELECT schema_name FROM information_schema.schemata").fetchall()
    assert "state" in [row["schema_name"] for row in names]


def test_the_migrated_schema_is_the_reviewed_one(state_url: str) -> None:
    with db.connect(state_url, application_name="trace-test") as conn:
        assert schema.describe(conn) == schema.GOLDEN.read_text(), (
            "run `python -m tests.schema` and read the difference"
        )


# --- a process that dies in the middle ----------------------------------------------------------------------------

FILES = migrate.migrations("state")
DATA_FILES = [one.name for one in migrate.migrations("data")]


def _migrate_slowly(url: str, count: int) -> None:
    """Apply `count` files, the last of which stays open when all its statements have run."""
    last = FILES[count - 1]
    slow = replace(last, text=f"{last.text};\nSELECT pg_sleep(1);")
    migrate.migrate(url, files_=[*FILES[: count - 1], slow])


@pytest.mark.parametrize("count", range(1, len(FILES) + 1), ids=[one.name for one in FILES])
def test_a_process_killed_in_mid_file_leaves_the_file_undone(empty_url: str, count: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_migrate_slowly, args=(empty_url, count))
    process.start()
    with db.connect(empty_url, application_name="trace-test") as conn:
        wait_until(lambda: conn.execute(SLEEPING).fetchone() is not None, what="the last statement of the file")
        process.kill()
        process.join()
        assert applied_to(conn) == [one.version for one in FILES[: count - 1]]
        assert migrate.migrate(empty_url) == [one.name for one in FILES[count - 1 :]]
        assert applied_to(conn) == [one.version for one in FILES]
        assert migrate.migrate(empty_url, "data") == DATA_FILES
        assert schema.describe(conn) == schema.GOLDEN.read_text()


SLEEPING = b"""
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'trace-migrate' AND wait_event = 'PgSleep'
"""


def applied_to(conn: Connection) -> list[int]:
    found = conn.execute(b"SELECT to_regclass('public.trace_migrations') AS history").fetchone()
    if found is None or found["history"] is None:
        return []
    rows = conn.execute(b"SELECT version FROM public.trace_migrations WHERE ledger = 'state' ORDER BY version")
    return [row["version"] for row in rows]


# --- a database of the first release ------------------------------------------------------------------------------

TABLES = b"SELECT tablename AS name FROM pg_tables WHERE schemaname = 'state' ORDER BY tablename"
COPY = """
INSERT INTO state.{0} OVERRIDING SYSTEM VALUE
SELECT r.* FROM jsonb_populate_recordset(NULL::state.{0}, %s::jsonb) r
"""
ROWS = "SELECT coalesce(jsonb_agg(r ORDER BY r::text), '[]') AS rows FROM (SELECT {1} FROM state.{0}) r"
COLUMNS = b"""
SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) AS names
FROM information_schema.columns WHERE table_schema = 'state' AND table_name = %s::text
"""


def busy(ledger: Ledger) -> Lease:
    """Bring a ledger into the middle of its work, with a task in every state; return the lease that runs."""
    ledger.sync(job(stream("blocks", max_inflight=8), stream("logs", max_inflight=8)))
    published, failed, dead, cancelled, running = ledger.claim(slots=5)
    ledger.complete(*map(publication, published.leases))
    ledger.fail(*map(failure, failed.leases), policy=POLICY)
    ledger.fail(*(failure(lease, retryable=False) for lease in dead.leases))
    tasks.cancel(ledger.conn, [lease.task.task_id for lease in cancelled.leases])
    return running.leases[0]


def first_release_with_data(conn: Connection, old_url: str) -> dict[str, tuple[str, object]]:
    """Make a database of the first release with what a ledger holds; return its columns and rows by table."""
    migrate.migrate(old_url, files_=FILES[:1])
    kept: dict[str, tuple[str, object]] = {}
    with db.connect(old_url, application_name="trace-test") as old:
        old.execute(b"SET session_replication_role = 'replica'")  # tables come by name, not by their keys
        for table in [row["name"] for row in old.execute(TABLES)]:
            columns = old.execute(COLUMNS, (table,)).fetchone()
            assert columns is not None
            select = ROWS.format(table, columns["names"]).encode()
            row = conn.execute(select).fetchone()
            assert row is not None
            old.execute(COPY.format(table).encode(), (Jsonb(row["rows"]),))
            kept[table] = (columns["names"], row["rows"])
        for table, column in (("tasks", "seq"), ("outbox", "id")):
            old.execute(b"SELECT setval(pg_get_serial_sequence(%s, %s), 1000)", (f"state.{table}", column))
    return kept


def test_a_database_of_the_first_release_keeps_its_data_and_works_on(ledger: Ledger, empty_url: str) -> None:
    running = busy(ledger)
    kept = first_release_with_data(ledger.conn, empty_url)
    assert all(rows for _, rows in kept.values()), "every table of the first release holds something"
    assert migrate.migrate(empty_url) == [one.name for one in FILES[1:]]
    assert migrate.migrate(empty_url, "data") == DATA_FILES
    with db.connect(empty_url, application_name="trace-test") as conn:
        for table, (columns, rows) in kept.items():
            assert conn.execute(ROWS.format(table, columns).encode()).fetchone() == {"rows": rows}, table
        assert schema.describe(conn) == schema.GOLDEN.read_text()
        upgraded = Ledger.lead(conn)
        assert upgraded.epoch == ledger.epoch + 1
        assert upgraded.complete(publication(running))[0].accepted
        conn.execute(b"UPDATE state.tasks SET run_at = now() WHERE state = 'queued'")
        tasks.free_older(conn, upgraded.epoch, except_workers=[], policy=POLICY)
        tasks.retry_dead(conn, running.task.job_id)
        upgraded.drain()
        (status,) = jobs.status(conn, DEFAULT_ORG, "devnet")
        assert status.state is JobState.COMPLETE
        assert laws.broken(conn) == {}
