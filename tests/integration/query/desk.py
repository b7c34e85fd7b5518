"""One who asks a pool, and a look at the processes that answer."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from query import run
from query.cancel import Cancel
from query.pool import Pool
from query.question import Answer, Limits, Question
from query.spawn import BOOT
from trace_ray.contracts import Grant, OrgId

if TYPE_CHECKING:
    from tests.integration.query.conftest import Store  # which makes the desks

OTHER_ORG = OrgId(UUID(int=77))
SLOW = "select count(*) from range(100000) a, range(100000) b, range(1000) c"
DEAF = "select levenshtein(repeat('a', 100000), repeat('b', 100000))"
POINT = "select count(*) as n from devnet_blocks where block_number = {}"
LATE = 1.5  # seconds that a loaded machine may need beyond what is promised


class Desk:
    """Asks one pool."""

    def __init__(self, store: "Store", pool: Pool) -> None:
        self.store, self.pool = store, pool

    def ask(
        self,
        sql: str,
        *,
        limit: int = 1000,
        limits: Limits | None = None,
        cancel: Cancel | None = None,
        export: bool = False,
        grant: Grant | None = None,
        asker: str = "",
    ) -> Answer:
        return run.run(
            Question(sql, limit, asker), grant or self.store.grant, pool=self.pool, locate=self.store.locate,
            limits=limits, cancel=cancel, export=export,
        )  # fmt: skip

    def workers(self) -> set[int]:
        return workers()


def workers() -> set[int]:
    """The process ids of all workers."""
    return {pid for zygote in zygotes() for pid in children(zygote)}


def zygotes() -> set[int]:
    """The processes of ours that fork workers: this process may also have started nodes and databases."""
    return {pid for pid in children(os.getpid()) if BOOT.encode() in command(pid)}


def command(pid: int) -> list[bytes]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(holds: Callable[[], bool], *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def cpu_seconds(pid: int) -> float:
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def busiest(pids: set[int]) -> float:
    return max((cpu_seconds(pid) for pid in pids), default=0)
