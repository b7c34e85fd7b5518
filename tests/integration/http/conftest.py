"""One service for each module that asks over HTTP."""

from collections.abc import Iterator

import pytest

from state.db import connect
from tests import pg
from tests.served import Served, publish, served, settings_for
from trace_ray.lite.postgres import LocalPostgres


@pytest.fixture(scope="module")
def service(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    url = pg.fresh_database(postgres)
    settings = settings_for(tmp_path_factory.mktemp("stack"), url)
    with connect(url, application_name="trace-test") as conn, served(settings, publish(settings, conn)) as found:
        yield found
