"""How fast sandboxes start, follow one another, and move rows: `python -m tests.benchmarks.bench_sandbox [--quick]`.

All cells of a round follow one another in random order; figures are medians, and ratios to starting `bwrap true` in the
same run, because machines differ and are busy. A leak check follows the sustained part.
"""

import argparse
import json
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
from pathlib import Path
from typing import Any, Final

from actors.sandbox import slots
from actors.sandbox.invoker import QueryAnswer, QueryCall
from actors.sandbox.supervisor import Supervisor
from tests.integration.sandbox import arena
from trace_ray.alerts import Invocation, SandboxLimits

ROUNDS: Final = 30
ROWS: Final = 100_000
SUSTAINED_S: Final = 15.0
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


class Bench:
    """One supervisor without and one with sandboxes that wait; bundles of each language."""

    def __init__(self, directory: Path) -> None:
        self.cold, self.warm = arena.supervisor(), arena.supervisor()
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
        self.warm.close()


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


def sustained(bench: Bench, seconds: float) -> tuple[float, str]:
    """Return tasks a second in fresh sandboxes, two at a time, and what was left afterwards."""
    _drive(bench, 1.0)  # from now on the threads that clear away are there
    time.sleep(1.0)
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    rate = _drive(bench, seconds)
    time.sleep(1.0)  # what is dead is cleared away behind the caller's back
    after = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    leaked = [name for name, old, new in zip(("descriptors", "threads"), before, after, strict=True) if new > old]
    leaked += ["processes"] if arena.survivors("bench-none") or _own_sandboxes() else []
    return rate, ", ".join(leaked) or "nothing"


def _drive(bench: Bench, seconds: float) -> float:
    """Return tasks a second."""
    began, counts = time.monotonic(), [0, 0]

    def work(place: int) -> None:
        while time.monotonic() < began + seconds:
            bench.call(bench.cold, "python")
            counts[place] += 1

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_sandbox")
    parser.add_argument("--quick", action="store_true", help="a short form, for trying out")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        bench = Bench(directory)
        print(f"slots: {slots.possible(SandboxLimits().memory)}")
        taken = latencies(bench, 3 if quick else ROUNDS)
        bench.close()
        floor = statistics.median(taken["bwrap true"])
        print("| cell | p50 ms | least ms | to `bwrap true` | target ms |\n|---|---|---|---|---|")
        for cell, values in taken.items():
            middle = statistics.median(values)
            print(f"| {cell} | {middle:.1f} | {min(values):.1f} | {middle / floor:.1f} | {TARGETS.get(cell, '')} |")
        rate, left = sustained(bench, 2.0 if quick else SUSTAINED_S)
        print(f"\ntasks/s in fresh Python sandboxes, two at a time: {rate:.0f}; left afterwards: {left}")
        for language in ("python", "node"):
            rows = rows_per_second(bench, language, 2 if quick else 7)
            print(f"rows/s asked, filtered, emitted ({language}): {rows:,.0f}")


if __name__ == "__main__":
    main()
