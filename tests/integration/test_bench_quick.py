"""The benchmark of the ledger runs to its end. Its figure belongs to `make bench`; here only a collapse is noticed."""

from state.db import Database
from tests.benchmarks import bench_ledger

RANGES = 1500
FLOOR = 200.0  # ranges a second; fifteen times below the target, so that a busy CI machine passes


def test_every_no_op_range_is_published_once_and_at_a_fair_rate(state_url: str) -> None:
    rate, _ = bench_ledger.run(state_url, ranges=RANGES, slots=64)
    assert rate > FLOOR
    database = Database(state_url, application_name="test")
    with database.transaction() as conn:
        (row,) = conn.execute(b"SELECT count(*) AS versions FROM state.dataset_versions").fetchall()
    database.close()
    assert row["versions"] == RANGES
