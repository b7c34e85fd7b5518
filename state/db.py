"""Connections to Postgres: one per process or a few, their limits, transactions, and the named SQL statements."""

import select
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

import orjson
import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import set_json_loads

from state import arrays
from trace_ray.errors import DatabaseUnavailable, FencedError

Found = TypeVar("Found")
Row = dict[str, Any]
Connection = psycopg.Connection[Row]

FENCED: Final = "TR001"  # raised by state.fence(): another Dispatcher holds a newer epoch
CONNECT_S: Final = 5
SESSION: Final = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "5s",
    "plan_cache_mode": "force_custom_plan",  # a generic plan guesses the LIMIT of a claim and scans the table
    "timezone": "UTC",
    "jit": "off",
}
SILENCE_MS: Final = 10_000  # a server behind a broken line is noticed by then, not when the kernel gives up
PATIENT: Final = {  # for migrations and copies of databases, which wait for each other
    **SESSION,
    "statement_timeout": "600s",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "0",
}


def connect(url: str, *, application_name: str, settings: Mapping[str, str] = SESSION) -> Connection:
    """Open a connection in autocommit mode.

    Raises:
        DatabaseUnavailable: without the URL, which may hold a password.
    """
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    try:
        connection = psycopg.Connection[Row].connect(
            url,
            autocommit=True,
            prepare_threshold=0,
            row_factory=dict_row,
            application_name=application_name,
            connect_timeout=CONNECT_S,
            options=options,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=SILENCE_MS,
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable("Postgres does not answer: run `trace-ray up`, or mend the database URL") from error
    arrays.register(connection.adapters)
    set_json_loads(orjson.loads, connection)
    return connection


def probe(url: str) -> None:
    """Ask the server a question. Raises DatabaseUnavailable when it does not answer (yet)."""
    with connect(url, application_name="trace-probe") as conn:
        conn.execute(b"SELECT pg_postmaster_start_time()")


def ensure_database(url: str, name: str, *, template: str | None = None) -> None:
    """Create a database on the server of `url` unless it exists; a `template` that nobody uses is copied."""
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template is not None:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with connect(url, application_name="trace-setup", settings=PATIENT) as conn:
        found = conn.execute(b"SELECT 1 FROM pg_database WHERE datname = %s::text", (name,)).fetchone()
        if found is None:
            with suppress(pg.DuplicateDatabase, pg.UniqueViolation):  # made by another process at this moment
                conn.execute(statement)


class ConnectionLost(DatabaseUnavailable):
    """The connection broke in the middle of a transaction; whether that was committed is unknown."""


class Database:
    """A few connections, opened when they are needed and again after they broke. Safe to share between threads.

    A connection that the server ended while nobody used it is noticed and costs nobody anything.
    """

    def __init__(self, url: str, *, application_name: str, connections: int = 1) -> None:
        """Open nothing yet. So many transactions as `connections` run at once, the others wait for them."""
        self._url = url
        self._application_name = application_name
        self._count = connections
        self._room = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []  # the one used last is at the end

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception.

        Raises:
            FencedError: the epoch that was presented is no longer the newest.
            ConnectionLost: it broke; was it committed? unknown.
            DatabaseUnavailable: no connection could be opened, or a time limit was hit.
        """
        with self._transaction(read_only=None) as connection:
            yield connection

    def read(self, ask: Callable[[Connection], Found]) -> Found:
        """Return what `ask` finds in a transaction that can change nothing.

        It is called once more when its connection broke, which a transaction that writes must not be. Raises like
        `transaction`, and what `ask` raises.
        """
        try:
            return self._read(ask)
        except ConnectionLost:
            return self._read(ask)

    @contextmanager
    def statement(self) -> Generator[Connection]:
        """For one statement, its own transaction: a third of the round trips. Raises like `transaction`."""
        with self._explained() as connection:
            yield connection

    def find(self, ask: Callable[[Connection], Found]) -> Found:
        """Return what one statement that changes nothing finds; called once more when its connection broke."""
        try:
            with self.statement() as connection:
                return ask(connection)
        except ConnectionLost:
            with self.statement() as connection:
                return ask(connection)

    def _read(self, ask: Callable[[Connection], Found]) -> Found:
        with self._transaction(read_only=True) as connection:
            return ask(connection)

    @contextmanager
    def _transaction(self, *, read_only: bool | None) -> Generator[Connection]:
        with self._explained() as connection:
            connection.read_only = read_only
            with connection.transaction():
                yield connection

    @contextmanager
    def _explained(self) -> Generator[Connection]:
        """Have a connection, and an error of ours for whatever goes wrong with it."""
        with self._connection() as connection:
            try:
                yield connection
            except (pg.LockNotAvailable, pg.QueryCanceled, pg.DeadlockDetected) as error:
                raise DatabaseUnavailable("Postgres is too busy and nothing was changed: try again") from error
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                connection.close()
                self._forget_idle()  # a server that went away took them all
                raise ConnectionLost("Postgres went away in the middle of a transaction") from error
            except (pg.UndefinedTable, pg.InvalidSchemaName) as error:
                raise DatabaseUnavailable("the database has no trace_ray schema yet: run `trace-ray up`") from error
            except psycopg.Error as error:
                if error.sqlstate == FENCED:
                    raise FencedError("another Dispatcher leads with a newer epoch") from error
                raise

    def close(self) -> None:
        """Close every connection, the ones in use when their transactions have ended."""
        for _ in range(self._count):
            self._room.acquire()
        self._forget_idle()
        self._room.release(self._count)

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        """Have a connection alone; it comes back unless it broke."""
        with self._room:
            connection = self._sound() or connect(self._url, application_name=self._application_name)
            try:
                yield connection
            finally:
                if not connection.closed:
                    with self._lock:
                        self._idle.append(connection)

    def _sound(self) -> Connection | None:
        """Take the idle connection used last; those that the server ended are closed."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not _hung_up(connection):
                return connection
            connection.close()

    def _forget_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _hung_up(connection: Connection) -> bool:
    """Say whether the server ended an idle connection: it says so, unasked. What else it may say costs a new one."""
    if connection.closed:
        return True
    told = select.poll()
    told.register(connection.fileno(), select.POLLIN)
    return bool(told.poll(0))


@contextmanager
def pipelined(conn: Connection) -> Generator[None]:
    """Send what the block executes without waiting for each answer: the server works while the next is prepared.

    An error comes where an answer is next needed, at the end of the block at the latest, and is the first one.
    """
    with conn.pipeline() as pipeline:
        try:
            yield
        except psycopg.Error:
            with suppress(psycopg.Error):  # what came after the first error was not done, which says nothing more
                pipeline.sync()
            raise


def storable(text: str) -> str:
    """Return a text from outside as Postgres can keep it: it holds neither NUL nor half a surrogate pair."""
    return text.encode(errors="replace").decode().replace("\0", "")


def ask(conn: Connection, statement: bytes, parameters: Mapping[str, object]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run a hot statement whose rows come as bare tuples, in binary: a dict and a text for each value is waste."""
    return conn.cursor(binary=True, row_factory=tuple_row).execute(statement, parameters)


@cache
def statements(ledger: str) -> dict[str, bytes]:
    """Return the statements of `state/sql/<ledger>.sql` by the name in their `-- name:` line."""
    text = files("state").joinpath(f"sql/{ledger}.sql").read_text()
    parts = text.split("-- name: ")[1:]
    return {name.strip(): body.encode() for name, _, body in (part.partition("\n") for part in parts)}
