"""Many clients at once, half of them attackers: no wrong answer, and the service ends with what it had before.

Times are told by `make load`, never here.
"""

from pathlib import Path

from state.db import connect
from tests import pg
from tests.load.run import run
from trace_ray.lite.postgres import LocalPostgres

SECONDS, QUIET_S = 4.0, 1.0


def test_load_with_attackers_gives_right_answers_and_leaves_nothing(postgres: LocalPostgres, tmp_path: Path) -> None:
    url = pg.fresh_database(postgres)
    with connect(url, application_name="trace-test") as conn:
        load = run(conn, url, tmp_path, seconds=SECONDS, quiet_s=QUIET_S, seed=1)

    assert load.wrong == []
    assert load.leaked == ""
    assert load.benign.statuses[200] > 10
    assert sum(load.hostile.statuses.values()) > 10
