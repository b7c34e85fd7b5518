"""The short form of `python -m tests.fuzz --only http`: requests made by chance against the whole service."""

from pathlib import Path

import pytest

from query import confine
from tests import pg
from tests.besieged import besieged, lasting, wait_for_rest
from tests.fuzz import http
from trace_ray.lite.postgres import LocalPostgres

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(confine.landlock_abi() < 4, reason="this kernel has no Landlock with TCP rules (Linux 6.7)"),
]


def test_every_response_keeps_the_rules(postgres: LocalPostgres, tmp_path: Path) -> None:
    tally = http.Tally()
    with besieged(tmp_path, pg.fresh_database(postgres), moment_s=http.QUESTION_S) as target:
        before = lasting(target.settings)
        http.run(target, 7, 200, tally)
        wait_for_rest(services=2)
        assert lasting(target.settings) == before
        assert target.prey.connections == []
    assert tally.ends.total() > 250
    assert "OK" in tally.codes.values()
    assert {"400 SQL_REJECTED", "400 BAD_REQUEST", "401 UNAUTHENTICATED"} <= set(tally.ends), tally.ends
