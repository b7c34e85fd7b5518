"""The benchmarks of ledger and sink run to their end, and the clock of the sandboxes' counts what they use.

Figures belong to `make bench`; a collapse is noticed here.
"""

from pathlib import Path

from state.db import Database
from tests.benchmarks import bench_ledger, bench_sink, cpu
from tests.integration.sandbox import arena

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


def test_every_event_of_the_sinks_benchmark_is_kept_once(state_url: str, tmp_path: Path) -> None:
    rates = bench_sink.run(state_url, tmp_path, batches=2, events=50)
    assert [len(one) for one in rates] == [bench_sink.ROUNDS] * 3
    database = Database(state_url, application_name="test")
    with database.transaction() as conn:
        (row,) = conn.execute(b"SELECT count(*) AS events, count(DISTINCT task_id) AS tasks FROM data.alert_events")
    database.close()
    assert (row["events"], row["tasks"]) == (100, 2)


def test_the_clock_of_the_sandboxes_benchmark_counts_what_runs_in_them(workspace: Path) -> None:
    with cpu.counted() as clock:
        invoker, began = arena.supervisor(), clock()
        result = arena.run(invoker, arena.bundle("infinite_loop", workspace), {}, wall_s=1.0)
        invoker.close()
        used = clock() - began
    assert result.outcome == "timeout"
    assert (inside := result.usage["cpu_s"]) is not None
    assert used > inside > 0
