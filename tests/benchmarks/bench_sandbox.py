"""How fast sandboxes start, follow one another, and move rows: `python -m tests.benchmarks.bench_sandbox [--quick]`.

All cells of a round follow one another in random order; figures are medians, and ratios to starting `bwrap true` in the
same run, because machines differ and are busy. A leak check follows the sustained part, whose bound is measured beside
it: the processor time of the same walls around a program that does nothing, and around an empty interpreter.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.sandbox import bubblewrap, slots
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.invoker import QueryAnswer, QueryCall
from actors.sandbox.launch import Order
from actors.sandbox.spawner import Spawner
from actors.sandbox.supervisor import Supervisor
from tests.benchmarks import cpu
from tests.integration.sandbox import arena
from trace_ray.alerts import Invocation, SandboxLimits

ROUNDS: Final = 30
ROWS: Final = 100_000
SUSTAINED_S: Final = 15.0
SUSTAINED_TARGET: Final = 100  # tasks a second on 2 cores
CORES: Final = os.cpu_count() or 1
BATCH: Final = 10  # starts between two looks at the clock of the processors
SETTLE_S: Final = 0.05  # what is dead is cleared away a moment later, and counts
TASK: Final = "a fresh Python task"
WALLED: Final = "the same walls around an empty interpreter"
BARE: Final = "the same walls around a program that does nothing"
SUPERVISOR: Final = "of it: the supervisor"
EMPTY_PYTHON: Final = ("/opt/python/bin/python3", "-I", "-S", "-c", "pass")
NOTHING: Final = ("/lib64/ld-linux-x86-64.so.2", "--version")
CLIENT: Final = Path(arena.__file__).parent / "clients" / "bootstrap.rs"
TARGETS: Final = {"cold python": 60, "cold node": 90, "cold program": 40, "waiting python": 5}  # ms
PYTHON: Final = """
def handler(event, context):
    if not event.get("rows"):
        return None
    rows = context.trace.query("all")
    context.trace.emit({"dedupe_key": row["hash"], "n": row["n"]} for row in rows if row["n"] % 2 == 0)
    return len(rows)
"""
NODE: Final = """
exports.handler = async (event, context) => {
  if (!event.rows) return null;
  const rows = await context.trace.query('all');
  await context.trace.emit(rows.filter((row) => row.n % 2 === 0).map((row) => ({ dedupe_key: row.hash, n: row.n })));
  return rows.length;
};
"""


def answer() -> bytes:
    columns = [{"name": name, "type": "T"} for name in ("n", "hash", "from", "value")]
    rows = [[n, f"0x{n:064x}", f"0x{n % 1000:040x}", str(n * 10**9)] for n in range(ROWS)]
    return json.dumps({"columns": columns, "rows": rows, "truncated": False}).encode()


class Floors:
    """The walls of a real sandbox, its uid included, around other programs. No control group: that makes it cheaper."""

    def __init__(self, directory: Path) -> None:
        self._backend = Bubblewrap(arena.open_tree(), None, Spawner())
        slot = slots.Slots(arena.SLOTS, first=2 * arena.SLOTS).take()
        if slot is None:
            raise SystemExit("another benchmark runs: wait for its end")
        task = directory / "nothing"
        task.mkdir()
        self._order = Order(slot, "python", str(task), SandboxLimits(), {"LANG": "C.UTF-8"})

    def start(self, *program: str) -> None:
        door = self._backend._door.arguments(self._order, None)
        filter_end = bubblewrap._filled_pipe(self._backend._filter)
        walls = self._backend._walls(self._order, filter_end)
        command = [*door, *walls, "--", *program]
        try:
            subprocess.run(command, check=True, pass_fds=(filter_end,), stdout=subprocess.DEVNULL)
        finally:
            os.close(filter_end)


class Bench:
    """One supervisor without and one with sandboxes that wait; bundles of each language."""

    def __init__(self, directory: Path) -> None:
        self.cold, self.warm = arena.supervisor(), arena.supervisor()
        self.floors = Floors(directory)
        self.warm.start_pool(directory / "waiting", count=2)
        self._answer = answer()
        self._bundles = {"python": directory / "python", "node": directory / "node"}
        for path, name, text in ((directory / "python", "main.py", PYTHON), (directory / "node", "index.js", NODE)):
            path.mkdir()
            (path / name).write_text(text, encoding="utf-8")
        if shutil.which("rustc"):
            target = directory / "program" / "bootstrap"
            target.parent.mkdir()
            subprocess.run(["rustc", "-C", "opt-level=3", "-o", str(target), str(CLIENT)], check=True)
            self._bundles["program"] = target.parent

    @property
    def languages(self) -> list[str]:
        return list(self._bundles)

    def order(self, language: str, payload: Mapping[str, Any]) -> Invocation:
        limits = {"event_bytes": 64 << 20, "events": 1_000_000}
        return arena.invocation(self._bundles[language], payload, function="bench", **limits)

    def ask(self, _: QueryCall) -> QueryAnswer:
        return QueryAnswer(200, "application/json", self._answer)

    def call(self, supervisor: Supervisor, language: str, **payload: Any) -> float:
        """Return the milliseconds of one invocation, from the call to a dead sandbox."""
        order = self.order(language, payload)
        began = time.perf_counter()
        result = supervisor.invoke(order, self.ask, lambda: False)
        took = (time.perf_counter() - began) * 1000
        if result.outcome != "ok":
            raise SystemExit(f"{language}: {result}")
        return took

    def waiting(self, language: str) -> float:
        pool = self.warm.pool
        while pool is not None and not all(pool.counts().values()):
            time.sleep(0.005)
        return self.call(self.warm, language)

    def close(self) -> None:
        """Return when all sandboxes are cleared away."""
        self.cold.close()


def bwrap_true() -> float:
    """The floor: namespaces, mounts, one program that does nothing."""
    walls = ["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp"]
    began = time.perf_counter()
    subprocess.run(["bwrap", *walls, "true"], check=True)
    return (time.perf_counter() - began) * 1000


def latencies(bench: Bench, rounds: int) -> dict[str, list[float]]:
    cells: dict[str, Callable[[], float]] = {"bwrap true": bwrap_true}
    for language in bench.languages:
        cells[f"cold {language}"] = lambda language=language: bench.call(bench.cold, language)
    for language in ("python", "node"):
        cells[f"waiting {language}"] = lambda language=language: bench.waiting(language)
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, cell in random.sample(sorted(cells.items()), len(cells)):
            taken[name].append(cell())
    return taken


@dataclass(frozen=True, slots=True)
class Sustained:
    """Tasks a second, so many at a time; which share of the cores' time they got; what was left afterwards."""

    rate: float
    places: int
    share: float
    left: str


def sustained(bench: Bench, clock: cpu.Clock, seconds: float, places: int) -> Sustained:
    """Run fresh sandboxes one after another, so many at a time."""
    _drive(bench, 1.0, places)  # from now on the threads that clear away are there
    time.sleep(1.0)
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    used, began = clock(), time.monotonic()
    rate = _drive(bench, seconds, places)
    share = (clock() - used) / (time.monotonic() - began) / CORES
    time.sleep(1.0)  # what is dead is cleared away behind the caller's back
    after = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    leaked = [name for name, old, new in zip(("descriptors", "threads"), before, after, strict=True) if new > old]
    leaked += ["processes"] if arena.survivors("bench-none") or _own_sandboxes() else []
    return Sustained(rate, places, share, ", ".join(leaked) or "nothing")


def _drive(bench: Bench, seconds: float, places: int) -> float:
    """Return tasks a second."""
    began, counts = time.monotonic(), [0] * places

    def work(place: int) -> None:
        while time.monotonic() < began + seconds:
            bench.call(bench.cold, "python")
            counts[place] += 1

    with ThreadPoolExecutor(places) as threads:
        list(threads.map(work, range(places)))
    return sum(counts) / (time.monotonic() - began)


def _own_sandboxes() -> bool:
    found = subprocess.run(
        ["pgrep", "-f", "--", "--setenv AWS_LAMBDA_FUNCTION_NAME bench "], capture_output=True, check=False
    )
    return bool(found.stdout)


def rows_per_second(bench: Bench, language: str, rounds: int) -> float:
    base = statistics.median(bench.call(bench.cold, language) for _ in range(rounds))
    full = statistics.median(bench.call(bench.cold, language, rows=True) for _ in range(rounds))
    return ROWS / (full - base) * 1000


def processor(bench: Bench, clock: cpu.Clock, rounds: int) -> dict[str, float]:
    """Return the milliseconds of processor time of each kind of start, medians of rounds that go by turns."""
    kinds: dict[str, Callable[[], object]] = {
        TASK: lambda: bench.call(bench.cold, "python"),
        WALLED: lambda: bench.floors.start(*EMPTY_PYTHON),
        BARE: lambda: bench.floors.start(*NOTHING),
    }
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, start in random.sample(sorted(kinds.items()), len(kinds)):
            before, ours = clock(), time.process_time()
            for _ in range(BATCH):
                start()
            ours = time.process_time() - ours
            time.sleep(SETTLE_S)
            taken[name].append((clock() - before) * 1000 / BATCH)
            if name == TASK:
                taken[SUPERVISOR].append(ours * 1000 / BATCH)
    return {name: statistics.median(values) for name, values in taken.items()}


def measured(directory: Path, clock: cpu.Clock, *, quick: bool) -> str:
    """Return the tables, in Markdown. `clock`: of this process and all that it starts, its sandboxes too."""
    bench = Bench(directory)
    places = slots.possible(SandboxLimits().memory)
    taken = latencies(bench, 3 if quick else ROUNDS)
    bench.warm.close()  # what waits takes slots
    used = processor(bench, clock, 3 if quick else ROUNDS)
    rate = sustained(bench, clock, 2.0 if quick else SUSTAINED_S, places)
    text = [_latency_table(taken), _processor_table(used), _rate_table(used, rate)]
    for language in ("python", "node"):
        rows = rows_per_second(bench, language, 2 if quick else 7)
        text.append(f"Rows asked, filtered and emitted in {language}: {rows:,.0f}/s.\n")
    bench.close()
    return "\n".join(text)


def _latency_table(taken: Mapping[str, list[float]]) -> str:
    floor = statistics.median(taken["bwrap true"])
    lines = ["| start | p50 ms | least ms | to `bwrap true` | wanted ms |", "|---|---|---|---|---|"]
    for cell, values in taken.items():
        middle = statistics.median(values)
        lines.append(f"| {cell} | {middle:.1f} | {min(values):.1f} | {middle / floor:.1f} | {TARGETS.get(cell, '')} |")
    return "\n".join(lines) + "\n"


def _processor_table(used: Mapping[str, float]) -> str:
    whole = used[TASK]
    lines = ["| processor time | ms | share |", "|---|---|---|"]
    lines += [f"| {name} | {used[name]:.2f} | {used[name] / whole:.2f} |" for name in (TASK, SUPERVISOR, WALLED, BARE)]
    return "\n".join(lines) + "\n"


def _rate_table(used: Mapping[str, float], seen: Sustained) -> str:
    lines = ["| fresh Python sandboxes | tasks/s |", "|---|---|"]
    wanted = f"{seen.places} at a time on {CORES} cores (wanted {SUSTAINED_TARGET})"
    lines.append(f"| **measured**, {wanted} | **{seen.rate:.0f}** |")
    lines.append(f"| over the share of the cores that they got, {seen.share:.2f} | {seen.rate / seen.share:.0f} |")
    lines += [f"| all processor time for {name} | {CORES * 1000 / used[name]:.0f} |" for name in (TASK, WALLED, BARE)]
    return "\n".join(lines) + f"\n\nLeft afterwards: {seen.left}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_sandbox")
    parser.add_argument("--quick", action="store_true", help="a short form, for trying out")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name, cpu.counted() as clock:
        Path(name).chmod(0o755)
        print(measured(Path(name), clock, quick=quick), end="")


if __name__ == "__main__":
    main()
