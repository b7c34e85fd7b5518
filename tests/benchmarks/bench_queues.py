"""The batched tick of the ledger against the task queues that people would use instead: procrastinate and pgqueuer.

`python -m tests.benchmarks.bench_queues [rounds]`. One embedded Postgres with the product's settings, fsync on; a fresh
database for each measurement, all of them in random order in each round; medians, and ratios inside this run. The
queues run in an environment of their own, `.venv/cache/queues`, which is made on the first run. Writes
docs/reference/benchmarks-ledger.md.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from state import db
from tests import pg
from tests.benchmarks import bench_dispatch
from tests.conftest import REPOSITORY
from trace_ray.lite.postgres import LocalPostgres

PEERS: Final = ("procrastinate==3.10.0", "pgqueuer==1.6.0", "asyncpg==0.31.0", "psycopg[binary,pool]", "uvloop")
HOME: Final = REPOSITORY / ".venv" / "cache" / "queues"
SCRIPT: Final = Path(__file__).parent / "bench_queues_peers.py"
PAGE: Final = REPOSITORY / "docs" / "reference" / "benchmarks-ledger.md"
ROUNDS: Final = 4
CHILD_S: Final = 120.0
DEFAULT: Final = "pgqueuer, psycopg 5x10 (its default)"
PROCRASTINATE: Final = "procrastinate, concurrency 10"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: so many no-op jobs, and who works them off."""

    name: str
    jobs: int
    ours: int | None = None
    peer: tuple[str, ...] = ()
    floor: tuple[str, int] | None = None


OWN: Final = "the ledger's own statements, looped on the server, 256 at a time"
SAME: Final = "the ledger's rows, 256 at a time"
LEAST: Final = "four small rows a round trip, 256 at a time"
FLOORS: Final = (OWN, SAME, LEAST)
CELLS: Final = (
    Cell("trace_ray, 1 a tick", 1_500, ours=1),
    Cell("trace_ray, 16 a tick", 6_000, ours=16),
    Cell("trace_ray, 64 a tick", 10_000, ours=64),
    Cell("trace_ray, 256 a tick", 12_000, ours=256),
    Cell(OWN, 12_800, floor=("own", 256)),
    Cell(SAME, 12_800, floor=("same", 256)),
    Cell(LEAST, 51_200, floor=("least", 256)),
    Cell(PROCRASTINATE, 800, peer=("procrastinate",)),
    Cell(DEFAULT, 1_500, peer=("pgqueuer", "psycopg", "5", "10")),
    Cell("pgqueuer, asyncpg 5x10", 8_000, peer=("pgqueuer", "asyncpg", "5", "10")),
    Cell("pgqueuer, asyncpg 1x64", 10_000, peer=("pgqueuer", "asyncpg", "1", "64")),
    Cell("pgqueuer, asyncpg 1x256", 12_000, peer=("pgqueuer", "asyncpg", "1", "256")),
)


def peers_python() -> Path:
    """Return the Python of the queues' environment; it is made when it is missing."""
    python = HOME / "bin" / "python"
    if not (HOME / "ready").exists():
        venv.create(HOME, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS]
        if subprocess.run(install, check=False).returncode != 0:
            raise SystemExit(
                f"the queues cannot be installed: run `{' '.join(install)}` where a package index is at hand"
            )
        (HOME / "ready").touch()
    return python


@dataclass
class Arena:
    """One server; each question gets a database of its own."""

    server: LocalPostgres
    python: Path

    def ours(self, what: str, *numbers: int) -> Any:
        command = [sys.executable, "-m", "tests.benchmarks.bench_queues_ours", what, pg.fresh_database(self.server)]
        return self._ask([*command, *map(str, numbers)])

    def peer(self, what: str, *rest: str) -> Any:
        name = f"peer_{random.randrange(10**9)}"
        db.ensure_database(self.server.url("postgres"), name)
        return self._ask([str(self.python), str(SCRIPT), what, self.server.url(name), *rest])

    def rate(self, cell: Cell) -> float:
        if cell.ours is not None:
            return float(self.ours("rate", cell.jobs, cell.ours)["per_second"])
        if cell.floor is not None:
            what, size = cell.floor
            command = [sys.executable, "-m", "tests.benchmarks.bench_floor", what, pg.fresh_database(self.server)]
            return float(self._ask([*command, str(cell.jobs), str(size)]))
        return float(self.peer(cell.peer[0], str(cell.jobs), *cell.peer[1:]))

    def _ask(self, command: Sequence[str]) -> Any:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=CHILD_S, check=False, env=dict(os.environ)
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[1:4]} failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def measure(arena: Arena, rounds: int) -> dict[str, float]:
    """Return the median rate of each cell; the order is random in each round, so that drift hits all alike."""
    rates: dict[str, list[float]] = defaultdict(list)
    chance = random.Random(1)
    for number in range(1, rounds + 1):
        for cell in chance.sample(CELLS, len(CELLS)):
            rates[cell.name].append(arena.rate(cell))
            print(f"round {number}: {cell.name}: {rates[cell.name][-1]:,.0f}/s", file=sys.stderr)
    return {cell.name: statistics.median(rates[cell.name]) for cell in CELLS}


def main() -> None:
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    python = peers_python()
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as directory:
        Path(directory).chmod(0o755)
        server = pg.server(Path(directory) / "postgres")
        try:
            arena = Arena(server, python)
            rates = measure(arena, rounds)
            load = os.getloadavg()[2]  # of the last quarter of an hour
            recovery = [arena.ours("recovery") for _ in range(rounds)]
            stale = {
                "trace_ray": arena.ours("stale"),
                "pgqueuer": arena.peer("pgqueuer-stale"),
                "procrastinate": arena.peer("procrastinate-stale"),
            }
        finally:
            server.stop()
    medians = {key: statistics.median(one[key] for one in recovery) for key in recovery[0]}
    text = page(rates, medians, stale, bench_dispatch.measured(rounds), rounds=rounds, load=load)
    PAGE.write_text(text)
    print(text)


def page(
    rates: Mapping[str, float],
    recovery: Mapping[str, float],
    stale: Mapping[str, Mapping[str, str]],
    dispatch: Sequence[bench_dispatch.Rates],
    *,
    rounds: int,
    load: float,
) -> str:
    """Return the page; a target says whether this run reached it."""
    best = max(rate for name, rate in rates.items() if "asyncpg" in name)
    most = max(rate for name, rate in rates.items() if name.startswith("trace_ray"))
    lines = [
        "# Benchmarks of the ledger",
        "",
        "Made by `python -m tests.benchmarks.bench_queues`: one run, one embedded Postgres (fsync on), no-op jobs,",
        f"{rounds} rounds in random order, medians. Compare ratios; rates are those of the machine that ran it.",
        f"It has {os.cpu_count()} processors and had a load average of {load:.0f}: where that is far more, others",
        "took their share of processors and disk, and who commits often suffered more than the code can explain.",
        "",
        "A round trip of trace_ray is the Dispatcher's own tick: prove the epoch, complete fenced attempts (task,",
        "attempt, range, dataset version with its file, snapshot, outbox), hand events to their effect, lease the next",
        "tasks. The queues run their own workers with a function that does nothing.",
        "",
        "Their rates end with the commit of the last completion, by the database's clock. What they do to stop is not",
        "counted: pgqueuer's psycopg driver takes some four seconds for it, so a run of 2,000 jobs that counts them",
        "shows a tenth of its rate.",
        "",
        "| | jobs/s | against pgqueuer's default | against pgqueuer's best |",
        "|---|---|---|---|",
        *(
            f"| {name} | {rate:,.0f} | {rate / rates[DEFAULT]:.1f}x | {rate / best:.2f}x |"
            for name, rate in rates.items()
            if name not in FLOORS
        ),
        "",
        *_floor(rates, most, best),
        "",
        "| target | seen | |",
        "|---|---|---|",
        _target("pgqueuer with psycopg, its default: at least 15x", most / rates[DEFAULT], 15.0),
        _target("pgqueuer with asyncpg, its best setting: at least 1.0x", most / best, 1.0),
        _target("procrastinate: at least 40x", most / rates[PROCRASTINATE], 40.0),
        _limit("planning 10,000 ranges: at most 200 ms", recovery["planned"], 0.2),
        _limit("1,000 leases of a dead worker back: at most 50 ms", recovery["freed"], 0.05),
        _limit("1,000 leases of a silent worker back: at most 50 ms", recovery["reaped"], 0.05),
        "",
        "## With Ray",
        "",
        f"{bench_dispatch.WORKERS} workers, one stream; each range goes from its lease to an actor that does nothing",
        "and back into the ledger. The product sends one group of leases a call: a real range takes far longer than a",
        "call does, and a slow one must not hold back others.",
        "",
        "| groups a call | ranges/s | bare calls of the same sizes | target | |",
        "|---|---|---|---|---|",
        *map(_dispatched, dispatch),
        "",
        "A bare call goes to an actor that does nothing and returns as many bytes: no ledger, no lease, nothing is",
        "packed. What lies between is the ledger, which shares the processors with Ray. Its own rate is in the first",
        "table, and the whole cannot be faster than its slowest part.",
        "",
        "## Who refuses a stale completion",
        "",
        "Worker A falls silent, its job is taken back the documented way and given to B. Then A completes, then B,",
        "then B again.",
        "",
        "| | A, stale | B, the owner | B again |",
        "|---|---|---|---|",
        *(f"| {name} | {' | '.join(answers.values())} |" for name, answers in stale.items()),
        "",
    ]
    return "\n".join(lines)


def _floor(rates: Mapping[str, float], most: float, best: float) -> list[str]:
    """Say how near this is to what the server can do at all, and how far from that the targets are."""
    wanted = 15 * rates[DEFAULT]
    own, same = rates[OWN], rates[SAME]
    return [
        "## What the server can do at all",
        "",
        "The same server without any client. First the very statements of the tick, with everything that they check,",
        "in a procedure that loops on the server: Python, the connection and all looking at values cost nothing. Then",
        "plain statements over a whole batch, one transaction a batch, no rule checked, no value from Python:",
        "",
        "| | a second | trace_ray's best against it | against pgqueuer's best |",
        "|---|---|---|---|",
        *(f"| {name} | {rates[name]:,.0f} | {most / rates[name]:.0%} | {rates[name] / best:.2f}x |" for name in FLOORS),
        "",
        "The ledger's rows of one range are five: the task (written at its lease and at its end), the attempt (twice),",
        "the range, the version and its file, with ten index entries; events of one statement share a row. The last",
        "line is the least that a queue writes which can refuse a late worker and name what was published: a lease, an",
        "attempt, its end, and the publication, as a few numbers each and with nothing but a primary key.",
        "",
        f"The tick reaches {most:,.0f} a second, {most / own:.0%} of what its statements allow; Python and the way",
        "between take the rest.",
        _reachable("pgqueuer's best", best, own, same),
        "",
        _reachable("Fifteen times pgqueuer's default", wanted, own, same),
        "Four small rows with ascending keys show what the server itself is capable of; a ledger that is content with",
        "them can explain no published object. The target of fifteen stems from a run in which that default did 928 a",
        f"second; up to its last commit it does {rates[DEFAULT]:,.0f} here.",
    ]


def _reachable(what: str, wanted: float, own: float, same: float) -> str:
    """Say whether a rate is out of reach for these statements, or for these rows, whatever the client does."""
    if wanted > same:
        return (
            f"{what}, {wanted:,.0f} a second, is out of reach for rows like the ledger's on this machine: written with"
            f" no rule at all they come to {same:,.0f}."
        )
    if wanted > own:
        return (
            f"{what}, {wanted:,.0f} a second, is out of reach for these statements, whatever the client does: they come"
            f" to {own:,.0f} without one. Written with no rule at all, the rows come to {same:,.0f}."
        )
    return f"{what}, {wanted:,.0f} a second, is less than what the statements come to without a client, {own:,.0f}."


def _dispatched(one: bench_dispatch.Rates) -> str:
    wanted = bench_dispatch.TARGETS[one.per_call]
    verdict = "reached" if one.ours >= wanted else "missed"
    return f"| {one.per_call} | {one.ours:,.0f} | {one.bare:,.0f} | {wanted:,.0f} | {verdict} |"


def _target(what: str, seen: float, wanted: float) -> str:
    return f"| {what} | {seen:.2f}x | {'reached' if seen >= wanted else 'missed'} |"


def _limit(what: str, seen_s: float, wanted_s: float) -> str:
    return f"| {what} | {seen_s * 1000:.0f} ms | {'reached' if seen_s <= wanted_s else 'missed'} |"


if __name__ == "__main__":
    main()
