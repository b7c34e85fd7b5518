"""Migrations: each applied once, whoever races, and never over an edited or newer schema."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pytest

from state import db, migrate
from state.db import Connection
from state.migrate import Migration
from tests import pg
from trace_ray.errors import LedgerConflict, RefusedInput, SchemaAhead
from trace_ray.lite.postgres import LocalPostgres

FIRST = Migration(1, "first", "CREATE TABLE one (x int);\n INSERT INTO one VALUES (1);")
SECOND = Migration(2, "second", "INSERT INTO one VALUES (2);")


@pytest.fixture
def empty_url(postgres: LocalPostgres) -> str:
    url = pg.fresh_database(postgres)
    name = url.split("?")[0].rsplit("/", 1)[1] + "_empty"
    postgres.ensure_database(name)
    return postgres.url(name)


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


def test_the_ledgers_of_the_two_databases_are_numbered_apart(state_url: str, conn: Connection) -> None:
    rows = conn.execute(b"SELECT ledger, version FROM public.trace_migrations WHERE ledger = 'state'").fetchall()
    assert [row["version"] for row in rows] == [one.version for one in migrate.migrations("state")]
    assert all(one.version for one in migrate.migrations("data"))


def test_a_new_database_is_a_copy_of_the_template(connection: Callable[[], Connection]) -> None:
    names = connection().execute(b"SELECT schema_name FROM information_schema.schemata").fetchall()
    assert "state" in [row["schema_name"] for row in names]
