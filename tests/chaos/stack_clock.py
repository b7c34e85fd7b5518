"""Moves the wall clock of single processes while they run: a preloaded library reads a table that this file writes.

Only what asks the C library is moved, as Python does for every `time.time()` and every date of a signed request. Needs
Linux and a C compiler; `ready` says whether it can.
"""

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("stack_clock.c")
ENTRIES = 16  # as in the library
ENTRY = struct.Struct("=qq")  # pid, seconds


class Clocks:
    """The table, and the environment that makes processes look at it."""

    def __init__(self, directory: Path) -> None:
        self._table: mmap.mmap | None = None
        self.environment: dict[str, str] = {}
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            return
        library, table = directory / "stack_clock.so", directory / "clocks"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        table.write_bytes(bytes(ENTRY.size * ENTRIES))
        with table.open("r+b") as file:
            self._table = mmap.mmap(file.fileno(), ENTRY.size * ENTRIES)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(table)}

    @property
    def ready(self) -> bool:
        return self._table is not None

    def move(self, pid: int, seconds: int) -> None:
        """Set a process's clock off by so much; zero sets it right. Each process has the entry of its pid."""
        assert self._table is not None
        at = pid % ENTRIES * ENTRY.size
        ENTRY.pack_into(self._table, at, pid if seconds else 0, seconds)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
