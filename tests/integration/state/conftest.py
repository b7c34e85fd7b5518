"""Connections to a fresh ledger."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from state.db import Connection, connect
from tests import pg
from tests.integration.state.ledger import Ledger
from trace_ray.lite.postgres import LocalPostgres


@pytest.fixture
def empty_url(postgres: LocalPostgres) -> str:
    """A database that no migration has seen."""
    url = pg.fresh_database(postgres)
    name = url.split("?")[0].rsplit("/", 1)[1] + "_empty"
    postgres.ensure_database(name)
    return postgres.url(name)


@pytest.fixture
def connection(state_url: str) -> Iterator[Callable[[], Connection]]:
    """Open connections to the test's ledger."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(connect(state_url, application_name="trace-test"))


@pytest.fixture
def conn(connection: Callable[[], Connection]) -> Connection:
    return connection()


@pytest.fixture
def ledger(conn: Connection) -> Ledger:
    """A Dispatcher that leads."""
    return Ledger.lead(conn)
