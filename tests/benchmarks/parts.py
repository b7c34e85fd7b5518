"""What the processes of a running stack use: CPU seconds by part, and memory of workers.

CPU of children counts for their parent once they have ended, as the kernel does it: the Cryo child of a range is the
worker's "engine".
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_S = 0.02
POLL_S = 0.25  # seldom: who waits must not slow down what it waits for

Cpu = Mapping[str, float]


@dataclass
class Parts:
    """The processes of the stack in a data directory, and of the RPC server that it reads from, by their pids."""

    data_dir: Path
    postmaster: int
    server: int

    def cpu(self) -> Cpu:
        """Return the CPU seconds that each part has used since its start."""
        used: dict[str, float] = defaultdict(float)
        for process in self._stack():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                title = _title(process)
                used[title] += times.user + times.system
                if title == "workers":
                    used["engine"] += times.children_user + times.children_system
        postmaster = psutil.Process(self.postmaster)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used["Postgres"] += times.user + times.system
        server = psutil.Process(self.server).cpu_times()
        used["RPC server"] += server.user + server.system
        return dict(used)

    def workers(self) -> list[psutil.Process]:
        return [process for process in self._stack() if _title(process) == "workers"]

    def _stack(self) -> list[psutil.Process]:
        """Return the processes of the Ray that the stack started."""
        own = psutil.Process(json.loads((self.data_dir / "ray.json").read_text())["pid"])
        return [own, *own.children(recursive=True)]


def _title(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if command.startswith("ray::CryoWorker"):
        return "workers"
    if command.startswith("ray::Dispatcher"):
        return "Dispatcher"
    return "engine" if "cryo_child.py" in command else "Ray itself"


@dataclass
class Peaks:
    """The most memory of each worker with its children at one moment, in bytes; shared pages count in each process."""

    of_worker: dict[int, int] = field(default_factory=dict[int, int])

    def look(self, worker: psutil.Process) -> None:
        used, itself = worker.memory_info().rss, worker.cmdline()
        for process in worker.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.cmdline() != itself:  # else it was forked this moment and shows its parent's memory
                    used += process.memory_info().rss
        self.of_worker[worker.pid] = max(used, self.of_worker.get(worker.pid, 0))


@contextmanager
def watched(workers: list[psutil.Process]) -> Generator[Peaks]:
    """Look at the workers' memory while the block runs. That costs CPU: do not take the time of the block."""
    peaks, over = Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            for worker in workers:
                peaks.look(worker)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def until(condition: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    """Wait for a condition without taking CPU from the stack."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come within {timeout_s:.0f} s")
        time.sleep(POLL_S)
