"""What a sandbox uses, by looking at its processes: for where no cgroup counts. Less exact, and a moment late."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MANY: Final = 1024  # more are not counted: the limit was met long before


@dataclass(frozen=True, slots=True)
class Use:
    """Seconds of processor time (of ended children too), bytes in memory, processes and threads."""

    cpu_s: float
    memory: int
    tasks: int


def use_of(root: int) -> Use:
    """Return what a process and all its descendants use now."""
    cpu = memory = tasks = 0
    todo = [root]
    while todo and tasks < MANY:
        pid = todo.pop()
        try:
            # after the name, which may hold anything: state is field 0, utime 11 ... cstime 14, threads 17, rss 21
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text(encoding="ascii").split())
        except (OSError, ValueError):
            continue  # it has just ended
        cpu += sum(int(value) for value in fields[11:15])
        tasks += int(fields[17])
        memory += int(fields[21]) * PAGE
    return Use(cpu / TICK, memory, tasks)
