"""`python -m tests.load --seconds N --seed S`: prints a table, writes nothing, and exits 1 when the service failed.

Wrong answers and leaks are failures. The time that benign questions take under load is told beside what is wanted.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from state.db import connect
from tests import pg
from tests.load.run import CLIENTS, Load, run

TARGET = 5.0  # benign p99 with attackers against that of the same clients without them
QUIET_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.load", description="Many clients against the query service.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trace-ray-load-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as a user of its own
        server = pg.server(Path(name) / "postgres")
        try:
            url = pg.fresh_database(server)
            with connect(url, application_name="trace-load") as conn:
                quiet_s = min(QUIET_S, asked.seconds)
                load = run(conn, url, Path(name), seconds=asked.seconds, quiet_s=quiet_s, seed=asked.seed)
        finally:
            server.stop()
    print(table(load, asked.seconds))
    print(*load.wrong[:20], sep="\n")
    return 1 if load.wrong or load.leaked else 0


def table(load: Load, seconds: float) -> str:
    """Return what a run saw, for people."""
    lines = ["| questions | clients | p50 | p99 | statuses |", "| --- | --- | --- | --- | --- |"]
    for name, clients, tally in (
        ("benign, alone", 1, load.alone),
        ("benign, quiet", CLIENTS // 2, load.quiet),
        ("benign, under attack", CLIENTS // 2, load.benign),
        ("hostile", CLIENTS // 2, load.hostile),
    ):
        statuses = ", ".join(f"{status or 'hung up'}: {count}" for status, count in sorted(tally.statuses.items()))
        p50, p99 = (f"{tally.percentile(percent) * 1e3:.1f} ms" for percent in (50, 99))
        lines.append(f"| {name} | {clients} | {p50} | {p99} | {statuses} |")
    verdict = "reached" if load.ratio <= TARGET else "missed"
    said = (
        "",
        f"benign p99 under attack: {load.ratio:.1f} times the quiet one (wanted: at most {TARGET:g}, {verdict})",
        f"after {seconds / 3:g} s: {load.before}",
        f"after {seconds:g} s: {load.after}",
        f"leaked: {load.leaked or 'nothing'}",
    )
    return "\n".join([*lines, *said])


if __name__ == "__main__":
    sys.exit(main())
