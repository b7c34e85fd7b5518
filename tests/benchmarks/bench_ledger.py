"""Ranges a second through the whole ledger: plan, lease, complete, one tick after another, work itself left out.

Run it alone: `python -m tests.benchmarks.bench_ledger [ranges] [slots]`. A real embedded Postgres with fsync on; each
tick is the Dispatcher's own, so two transactions. A no-op range publishes one version with one file.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from state.db import Database
from state.jobs import apply
from tests import pg
from tests.integration.state.ledger import CHAIN, POLICY, POOL, job, publication, stream
from trace_ray.contracts import Publication, WorkerId

TARGET = 3000.0  # ranges a second on two cores


def run(url: str, *, ranges: int, slots: int) -> tuple[float, list[float]]:
    """Return the ranges a second, counting the ticks alone, and the seconds of each tick."""
    database = Database(url, application_name="trace-bench")
    keys = ("blocks", "transactions", "logs")
    streams = [stream(key, chunk_size=10, max_inflight=2 * slots) for key in keys]
    with database.transaction() as conn:
        apply(conn, job(*streams, to_block=10 * ranges // len(keys)))
    core = Dispatcher(database, holder="bench/bench/1", timing=Timing(lease_s=120, leader_s=60, policy=POLICY))
    assert core.lead()
    core.tick(Inbox(heads=(HeadAnswer(POOL, CHAIN, 10**9),)), now=0.0)
    workers = tuple(WorkerId(f"w/{slot}.0") for slot in range(slots))
    offers: tuple[Publication, ...] = ()
    ticks: list[float] = []
    published = 0
    while published < len(keys) * (ranges // len(keys)):
        began = time.perf_counter()
        orders = core.tick(Inbox(outcomes=offers, slots=workers), now=time.monotonic())
        ticks.append(time.perf_counter() - began)
        published += len(orders.published)
        offers = tuple(publication(lease) for group in orders.groups for lease in group.leases)
    database.close()
    return published / sum(ticks), ticks


def main() -> None:
    ranges, slots = (int(text) for text in [*sys.argv[1:3], "30000", "64"][:2]) if sys.argv[1:] else (30_000, 64)
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as directory:
        Path(directory).chmod(0o755)
        server = pg.server(Path(directory) / "postgres")
        try:
            rate, ticks = run(pg.fresh_database(server), ranges=ranges, slots=slots)
        finally:
            server.stop()
    p50, p99 = statistics.quantiles(ticks, n=100)[49] * 1000, statistics.quantiles(ticks, n=100)[98] * 1000
    verdict = "reached" if rate >= TARGET else "missed"
    print(
        f"ledger: {rate:,.0f} ranges/s (target {TARGET:,.0f} {verdict}), tick p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" {ranges} ranges, {slots} slots"
    )


if __name__ == "__main__":
    main()
