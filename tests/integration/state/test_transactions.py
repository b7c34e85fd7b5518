"""How many transactions of one `Database` run at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from state.db import Database

BACKEND = b"SELECT pg_backend_pid() AS pid"


def backend(database: Database) -> int:
    with database.transaction() as conn:
        return conn.execute(BACKEND).fetchall()[0]["pid"]


def test_as_many_transactions_run_at_once_as_there_are_connections(state_url: str) -> None:
    database = Database(state_url, application_name="test", connections=2)
    meeting = threading.Barrier(2, timeout=20)

    def work(_: int) -> int:
        with database.transaction() as conn:
            meeting.wait()  # breaks unless both are inside
            return conn.execute(BACKEND).fetchall()[0]["pid"]

    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(work, range(2)))) == 2
    database.close()


def test_one_connection_serves_one_transaction_after_another(state_url: str) -> None:
    database = Database(state_url, application_name="test")
    inside = threading.Semaphore()

    def work(_: int) -> int:
        with database.transaction() as conn:
            assert inside.acquire(blocking=False)
            found = conn.execute(BACKEND).fetchall()[0]["pid"]
            inside.release()
            return found

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(work, range(20)))) == 1
    database.close()


def test_connections_are_opened_only_when_they_are_needed(state_url: str) -> None:
    database = Database(state_url, application_name="test", connections=4)
    assert len({backend(database) for _ in range(8)}) == 1
    database.close()


def test_broken_connection_is_replaced_and_the_others_go_on(state_url: str) -> None:
    database = Database(state_url, application_name="test", connections=2)
    with database.transaction() as kept:
        stays = kept.execute(BACKEND).fetchall()[0]["pid"]
        doomed = backend(database)
        kept.execute(b"SELECT pg_terminate_backend(%s::int, 5000)", (doomed,))
        assert backend(database) not in {doomed, stays}
        assert kept.execute(BACKEND).fetchall()[0]["pid"] == stays
    database.close()


def test_database_that_was_closed_opens_again(state_url: str) -> None:
    database = Database(state_url, application_name="test", connections=2)
    first = backend(database)
    database.close()
    assert backend(database) != first
    database.close()
