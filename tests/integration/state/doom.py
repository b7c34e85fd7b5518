"""Ends database backends at chosen places: before each exchange with the server, and at each row that a statement
writes. Whatever a transaction does, it is cut there, so that a new write cannot be forgotten."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import psycopg

from state.db import Connection

DOOMED = b"""
CREATE FUNCTION public.die_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('trace.die_at', true) = TG_WHEN || ' ' || TG_TABLE_NAME THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(60); -- the order to end is obeyed here
  END IF;
  RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
DO $$
DECLARE name text; moment text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'state' LOOP
    FOREACH moment IN ARRAY ARRAY['BEFORE', 'AFTER'] LOOP
      EXECUTE format('CREATE TRIGGER die_%s %s INSERT OR UPDATE OR DELETE ON state.%I'
                     ' FOR EACH ROW EXECUTE FUNCTION die_here()', lower(moment), moment, name);
    END LOOP;
  END LOOP;
END $$
"""

WRITTEN = b"""
SELECT relname FROM pg_stat_xact_user_tables
WHERE schemaname = 'state' AND n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY relname
"""


@contextmanager
def at_each_exchange(conn: Connection, hook: Callable[[], None]) -> Generator[None]:
    """Call the hook before everything that the connection sends, BEGIN and COMMIT included."""
    wait = conn.wait

    def hooked(*arguments: Any, **options: Any) -> Any:
        hook()
        return wait(*arguments, **options)

    with patch.object(conn, "wait", hooked):
        yield


@dataclass
class Deaths:
    """Runs a transaction once for each place where its backend can die. `undertaker` is another connection.

    Attributes:
        exchanges: How often the transaction spoke to the server, once it survived.
        written: The tables that it wrote.
    """

    undertaker: Connection
    connection: Callable[[], Connection]
    exchanges: int = 0
    written: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.undertaker.execute(DOOMED, prepare=False)

    def all(self, transaction: Callable[[Connection], object]) -> Iterator[str]:
        """Yield the name of each place after the death there. Nothing of the transaction survives any of them.

        `transaction` gets a connection inside of an open transaction.
        """
        self._measure(transaction)
        for number in range(self.exchanges):
            self._die_at_exchange(number, transaction)
            yield f"exchange {number}"
        for table in self.written:
            for moment in ("BEFORE", "AFTER"):
                self._die_at_row(f"{moment} {table}", transaction)
                yield f"{moment} {table}"

    def _measure(self, transaction: Callable[[Connection], object]) -> None:
        conn, spoken = self.connection(), 0

        def count() -> None:
            nonlocal spoken
            spoken += 1

        with at_each_exchange(conn, count), conn.transaction(force_rollback=True):
            transaction(conn)
            self.exchanges = spoken + 1  # and COMMIT
            self.written = [row["relname"] for row in conn.execute(WRITTEN)]

    def _die_at_exchange(self, number: int, transaction: Callable[[Connection], object]) -> None:
        conn, left = self.connection(), number

        def die_at_last() -> None:
            nonlocal left
            if left == 0:
                end_backend(self.undertaker, conn)
            left -= 1

        with at_each_exchange(conn, die_at_last):
            _dies(conn, transaction)

    def _die_at_row(self, place: str, transaction: Callable[[Connection], object]) -> None:
        conn = self.connection()
        conn.execute(b"SELECT set_config('trace.die_at', %s::text, false)", (place,))
        _dies(conn, transaction)


def _dies(conn: Connection, transaction: Callable[[Connection], object]) -> None:
    try:
        with conn.transaction():
            transaction(conn)
    except psycopg.OperationalError:  # AdminShutdown is one
        assert conn.closed
    else:
        raise AssertionError("the transaction survived the end of its backend")


def end_backend(undertaker: Connection, conn: Connection) -> None:
    """End the backend of a connection and return once it is gone; rows that it locked are free."""
    pid = conn.info.backend_pid
    gone = undertaker.execute(b"SELECT pg_terminate_backend(%s::int, 5000) AS gone", (pid,)).fetchone()
    assert gone is not None
    assert gone["gone"]
