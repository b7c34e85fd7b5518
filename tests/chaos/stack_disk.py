"""A disk that can be full: a small tmpfs of its own where we may mount one, else a limit on the workers' file sizes.

The substitute fails with "file too large" instead of "no space left": the same line of code fails, the error differs.
"""

import os
import resource
import subprocess
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

SMALLEST_FILE = 512  # bytes a worker may still write into one file under the substitute
SHRINKING = 20  # tries: what is written meanwhile makes one fail


class Disk:
    """A directory on a disk of its own, of `size` bytes. `kind` says what full means here."""

    def __init__(self, directory: Path, size: int, pids: Callable[[], Iterable[int]]) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._size = size
        self._pids = pids
        self.kind = "tmpfs" if self._mount() else "file size limit"

    def _mount(self) -> bool:
        return os.geteuid() == 0 and self._tried("-t", "tmpfs", "-o", f"size={self._size},mode=0700", "tmpfs")

    def _resize(self, size: int) -> bool:
        return self._tried("-o", f"remount,size={size}")

    def _tried(self, *options: str) -> bool:
        command = ["mount", *options, str(self._directory)]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    @contextmanager
    def full(self) -> Generator[None]:
        """No byte more can be written while the block runs."""
        if self.kind == "tmpfs":
            try:
                assert any(self._resize(self._used()) for _ in range(SHRINKING)), "the disk could not be shrunk"
                yield
            finally:
                self._resize(self._size)
            return
        pids = list(self._pids())
        try:
            self._limit(pids, SMALLEST_FILE)
            yield
        finally:
            self._limit(pids, None)

    def _used(self) -> int:
        state = os.statvfs(self._directory)
        return max(1, state.f_blocks - state.f_bfree) * state.f_frsize

    @staticmethod
    def _limit(pids: Iterable[int], size: int | None) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def close(self) -> None:
        if self.kind == "tmpfs":
            subprocess.run(["umount", "--lazy", str(self._directory)], check=True, timeout=30)
