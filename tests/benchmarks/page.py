"""The page docs/reference/benchmarks.md: figures of one run, the machine they belong to, and how they came about."""

import os
import platform
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from tests.benchmarks import bench_ledger
from tests.benchmarks.bench_sync import MEMORY_TARGET, RANGES, TARGETS, WORKERS, Report

PARTS = ("engine", "workers", "Dispatcher", "Postgres", "Ray itself", "RPC server")
STAGES = ("cryo", "conform", "verify", "rewrite", "upload")

HEAD = """\
# Benchmarks

Written by `make bench` (`python -m tests.benchmarks`); the figures are those of one run. Run it on an idle machine:
everything below, the RPC server too, shares its cores. `--quick` is a short form that writes nothing.
"""

HTTP = """\
Ray Serve against the same app under bare uvicorn, by turns; the question reads two files. *Throughput* and *p50* say
how Serve does against uvicorn: at 1 it costs nothing. More on [questions](benchmarks-query.md).
"""

ALERTS = """\
From a published range to its webhook, fresh sandboxes, and the sink: what the rows mean, and what is wanted, is said on
[alerts](benchmarks-alerts.md).
"""

METHOD = (
    """
    Both sides read the same {blocks:,} blocks of the devnet's chain, {rows}, from the same RPC server on the same
    machine, by turns; the figures are medians of {rounds}. The server replays a recording and is a single Python
    process: what it uses is CPU that neither side gets. Its latency is added to each answer.
    """,
    """
    **Cryo** is one bare call, `cryo.freeze(["blocks", "transactions", "logs"], ...)` with its defaults, in a process
    that was started and imported before the clock runs.
    """,
    """
    **trace_ray** is a local stack on Ray with {workers} workers that is up and warm, and a job of three streams in
    ranges of {chunk} blocks. Its time runs from the job's row to the end of the last range in the ledger, by the
    database's clock. It proves each range down to the receipts root, rewrites it and publishes it, which Cryo does not.
    """,
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures depend on; nothing that tells whose machine it is."""

    cores: int
    memory_bytes: int
    system: str
    python: str
    load: float


@dataclass(frozen=True, slots=True)
class LedgerRate:
    """No-op ranges a second, and the seconds of each tick."""

    per_second: float
    ranges: int
    slots: int
    ticks: Sequence[float]


@dataclass(frozen=True, slots=True)
class Alerts:
    """Tables, in Markdown."""

    webhooks: str
    sandboxes: str
    sink: str


def machine() -> Machine:
    """Return the facts of this machine; its load is that before the run."""
    return Machine(
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def write(where: Machine, sync: Report, ledger: LedgerRate, http: str, alerts: Alerts) -> str:
    """Return the page."""
    parts = [HEAD, _machine(where), "## A whole sync against Cryo\n", _method(sync), _ratios(sync)]
    parts += ["## Where the time goes\n", _cpu(sync), _stages(sync), "## Memory\n", _memory(sync)]
    parts += ["## The ledger\n", _ledger(ledger), "## Queries over HTTP\n", HTTP, http]
    parts += ["## Alerts\n", ALERTS, alerts.webhooks, alerts.sandboxes, alerts.sink]
    return "\n".join(parts)


def _machine(where: Machine) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "cryo", "pyarrow", "duckdb"))
    return (
        f"Machine: {where.cores} cores, {where.memory_bytes / 1024**3:.0f} GiB of memory, {where.system}, "
        f"Python {where.python}; {packages}.\nLoad average before the run: {where.load:.2f}.\n"
    )


def _method(sync: Report) -> str:
    facts = {
        "blocks": sync.blocks,
        "rows": f"{sync.rows['transactions']:,} transactions and {sync.rows['logs']:,} logs",
        "rounds": sync.rounds,
        "workers": WORKERS,
        "chunk": sync.blocks // RANGES,
    }
    return "\n".join(_wrapped(paragraph.format(**facts)) for paragraph in METHOD)


def _ratios(sync: Report) -> str:
    rows = [
        (
            f"{one.latency_ms} ms",
            f"{one.cryo_s:.2f} s",
            f"{one.trace_s:.2f} s",
            f"{sync.blocks / one.trace_s:,.0f}",
            f"**{one.ratio:.2f}**",
            f"{TARGETS[one.latency_ms]:.2f}, {_verdict(reached=one.ratio >= TARGETS[one.latency_ms])}",
            f"{_spread(call.seconds for call in one.calls)} / {_spread(done.seconds for done in one.syncs)}",
        )
        for one in sync.latencies
    ]
    head = (
        "RPC latency",
        "Cryo",
        "trace_ray",
        "blocks/s",
        "times as fast",
        "wanted",
        "fastest to slowest, Cryo / trace_ray",
    )
    return _table(head, rows)


def _cpu(sync: Report) -> str:
    text = """
        CPU seconds of one sync, by part. *Engine* is the Cryo children; *workers* read their files, verify, rewrite
        and upload; *first lease* is the time from `apply` to the first range at a worker; *under lease* is the share of
        the workers' slots that had a range, from its lease to its commit.
    """
    rows = [
        (
            f"{one.latency_ms} ms",
            *(f"{_middle(done.cpu.get(part, 0.0) for done in one.syncs):.2f}" for part in PARTS),
            f"{_middle(done.first_lease_s for done in one.syncs):.2f} s",
            f"{_middle(done.leased_share for done in one.syncs):.0%}",
            f"{_middle(call.cpu_s for call in one.calls):.2f} + {_middle(call.server_cpu_s for call in one.calls):.2f}",
        )
        for one in sync.latencies
    ]
    table = _table(("RPC latency", *PARTS, "first lease", "under lease", "Cryo's call + its RPC server"), rows)
    idle = _middle(call.idle_cpu_s / call.seconds for one in sync.latencies for call in one.calls)
    return f"{_wrapped(text)}\n{table}\nThe idle stack beside Cryo's call used {idle:.0%} of one core.\n"


def _stages(sync: Report) -> str:
    text = """
        The stages of all blocks without latency, one range after another in one process beside the idle stack, wall
        time. *Conform* reads Cryo's files into the stable schema; *verify* recomputes the receipts roots.
    """
    told = _table(STAGES, [[f"{sync.stages[stage]:.2f} s" for stage in STAGES]])
    return f"{_wrapped(text)}\n{told}"


def _memory(sync: Report) -> str:
    worst = max(sync.worker_peaks)
    peaks = " and ".join(f"{peak / 10**6:.0f} MB" for peak in sorted(sync.worker_peaks))
    cryo = max(call.peak_bytes for one in sync.latencies for call in one.calls)
    return _wrapped(f"""
        Peak of each worker with its Cryo children at one moment: {peaks} (wanted: below
        {MEMORY_TARGET / 10**6:.0f} MB, {_verdict(reached=worst < MEMORY_TARGET)}). It is resident memory, sampled in a
        sync of its own after all others; pages that processes share count in each. Cryo's one call held
        {cryo / 10**6:.0f} MB.
    """)


def _ledger(ledger: LedgerRate) -> str:
    cuts = statistics.quantiles(ledger.ticks, n=100)
    return _wrapped(f"""
        No-op ranges through plan, lease and complete: **{ledger.per_second:,.0f} a second** (wanted:
        {bench_ledger.TARGET:,.0f}, {_verdict(reached=ledger.per_second >= bench_ledger.TARGET)}), {ledger.ranges:,}
        ranges over {ledger.slots} slots on an embedded Postgres with fsync on. A tick took {cuts[49] * 1000:.1f} ms
        (median), {cuts[98] * 1000:.1f} ms (99th percentile).
    """)


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), width=120, break_on_hyphens=False) + "\n"


def _verdict(*, reached: bool) -> str:
    return "reached" if reached else "missed"


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def _spread(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{found[0]:.2f} to {found[-1]:.2f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
