"""Runs the benchmarks and writes docs/reference/benchmarks.md: `make bench`, about twelve minutes.

`python -m tests.benchmarks --quick` runs a short form of everything, says what it found, and writes nothing.
"""

import argparse
import tempfile
from pathlib import Path

from tests import pg
from tests.benchmarks import apart, bench_ledger, bench_sync, page
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "benchmarks.md"
SLOTS = 64  # of a pool of 32 workers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Benchmarks of trace_ray.")
    parser.add_argument("--quick", action="store_true", help="a short form, for trying out; writes nothing")
    quick = parser.parse_args().quick
    machine = page.machine()
    sync = (
        bench_sync.run(blocks=200, rounds=1, latencies=(0,))
        if quick
        else bench_sync.run(blocks=2000, rounds=3, latencies=tuple(bench_sync.TARGETS))
    )
    ledger = ledger_rate(ranges=3_000 if quick else 30_000)
    alerts = page.Alerts(*(apart.table(name, quick=quick) for name in ("bench_alerts", "bench_sandbox", "bench_sink")))
    text = page.write(machine, sync, ledger, apart.table("bench_http", quick=quick), alerts)
    if not quick:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


def ledger_rate(*, ranges: int) -> page.LedgerRate:
    """Return how fast no-op ranges pass the ledger, on an embedded Postgres of its own."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as a user of its own
        server = pg.server(Path(name) / "postgres")
        try:
            rate, ticks = bench_ledger.run(pg.fresh_database(server), ranges=ranges, slots=SLOTS)
        finally:
            server.stop()
    return page.LedgerRate(rate, ranges, SLOTS, ticks)


if __name__ == "__main__":
    main()
