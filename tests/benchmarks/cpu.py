"""Processor time of a benchmark and of all that it starts, whatever becomes of those processes.

A sandbox's processes are nobody's children once its outer one was killed, so that no usage of children counts them: a
control group does. Where none can be made, the machine's own counter must do, and the machine must be idle.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ACCOUNTS: Final = Path("/sys/fs/cgroup/cpuacct")  # version 1; in version 2 a process cannot move as freely
TICK: Final = os.sysconf("SC_CLK_TCK")
IDLE: Final = (3, 4)  # places of idle and iowait

Clock = Callable[[], float]


@contextmanager
def counted() -> Generator[Clock]:
    """Return a clock of the seconds that this process and its descendants use from now on."""
    before = ACCOUNTS / _own(Path("/proc/self/cgroup").read_text(encoding="ascii"))
    group = before / f"trace-ray-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text("0", encoding="ascii")
    except OSError:
        yield _machine
        return
    try:
        yield lambda: int((group / "cpuacct.usage").read_text(encoding="ascii")) / 1e9
    finally:
        (before / "cgroup.procs").write_text("0", encoding="ascii")
        group.rmdir()


def _own(groups: str) -> str:
    """Return the group of this process, below the mount; the top where it has none or sees no name of it."""
    found = (path for _, names, path in (line.split(":", 2) for line in groups.splitlines()) if "cpuacct" in names)
    name = next(found, "/").lstrip("/")
    return name if (ACCOUNTS / name).is_dir() else ""


def _machine() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return (sum(fields) - sum(fields[place] for place in IDLE)) / TICK
