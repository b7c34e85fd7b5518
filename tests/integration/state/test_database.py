"""Connections that break, and several transactions at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from psycopg import errors as pg

from state.db import Connection, ConnectionLost, Database
from tests.conftest import wait_until

KILL = b"SELECT pg_terminate_backend(%s::int, 5000) AS gone"
WRITE = b"CREATE TABLE public.written AS SELECT 1 AS n"


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    made = Database(state_url, application_name="trace-test", connections=2)
    yield made
    made.close()


def backend(conn: Connection) -> int:
    return conn.info.backend_pid


def kill_all(conn: Connection, database: Database) -> None:
    """End every connection that the database holds idle."""
    meet = Barrier(2)

    def pid(conn: Connection) -> int:
        meet.wait(10)
        return backend(conn)

    with ThreadPoolExecutor(2) as threads:
        pids = [asked.result(10) for asked in [threads.submit(database.read, pid) for _ in range(2)]]
    assert len(set(pids)) == 2
    for one in pids:
        assert conn.execute(KILL, (one,)).fetchone() == {"gone": True}


def test_as_many_transactions_as_allowed_run_at_once_and_the_next_one_waits(database: Database) -> None:
    order: list[str] = []

    def third() -> None:
        with database.transaction():
            order.append("third")

    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as one, database.transaction() as two:
            assert backend(one) != backend(two)
            waiting = threads.submit(third)
            assert not waiting.done()
            order.append("two end")
        waiting.result(10)
    assert order == ["two end", "third"]


def test_connections_are_used_again(database: Database) -> None:
    assert len({database.read(backend) for _ in range(5)}) == 1


def test_a_connection_that_ended_while_idle_costs_nobody_anything(conn: Connection, database: Database) -> None:
    kill_all(conn, database)
    assert database.read(lambda found: found.execute(b"SELECT 7 AS n").fetchone()) == {"n": 7}
    kill_all(conn, database)
    with database.transaction() as writing:
        writing.execute(WRITE)
    assert conn.execute(b"SELECT n FROM public.written").fetchall() == [{"n": 1}]


def dying(killer: Connection, deaths: int) -> tuple[list[int], Callable[[Connection], int]]:
    """Return a question whose connection breaks in its first calls, and the calls that it had."""
    calls: list[int] = []

    def ask(conn: Connection) -> int:
        calls.append(backend(conn))
        if len(calls) <= deaths:
            killer.execute(KILL, (backend(conn),))
        conn.execute(b"SELECT 1")
        return len(calls)

    return calls, ask


def test_a_read_is_asked_once_more_when_its_connection_breaks(conn: Connection, database: Database) -> None:
    calls, ask = dying(conn, 1)
    assert database.read(ask) == 2
    assert len(set(calls)) == 2
    calls, ask = dying(conn, 9)
    with pytest.raises(ConnectionLost):
        database.read(ask)
    assert len(calls) == 2


def test_a_write_is_never_repeated(conn: Connection, database: Database) -> None:
    calls, ask = dying(conn, 1)
    with pytest.raises(ConnectionLost), database.transaction() as writing:
        ask(writing)
    assert len(calls) == 1
    with database.transaction() as writing:
        writing.execute(WRITE)


def test_one_statement_is_committed_at_once_also_after_a_read(conn: Connection, database: Database) -> None:
    assert database.read(backend) == database.find(backend)
    with database.statement() as alone:
        alone.execute(WRITE)
        assert conn.execute(b"SELECT n FROM public.written").fetchall() == [{"n": 1}]


def test_what_one_statement_finds_is_asked_once_more_and_its_write_is_not(conn: Connection, database: Database) -> None:
    calls, ask = dying(conn, 1)
    assert database.find(ask) == 2
    assert len(set(calls)) == 2
    calls, ask = dying(conn, 1)
    with pytest.raises(ConnectionLost), database.statement() as alone:
        ask(alone)
    assert len(calls) == 1


def test_a_read_can_change_nothing_and_its_connection_can_afterwards(database: Database) -> None:
    with pytest.raises(pg.ReadOnlySqlTransaction):
        database.read(lambda conn: conn.execute(WRITE))
    with database.transaction() as writing:
        writing.execute(WRITE)


def test_closed_ones_are_gone_and_opened_again_when_needed(conn: Connection, database: Database) -> None:
    pid = database.read(backend)
    database.close()
    ended = b"SELECT count(*) = 0 AS gone FROM pg_stat_activity WHERE pid = %s::int"
    wait_until(lambda: conn.execute(ended, (pid,)).fetchone() == {"gone": True}, what="the end of the connection")
    assert database.read(backend) != pid
