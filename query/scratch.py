"""A directory of one service process for spilled and exported data. What a killed process left is removed by the next.

The directory is locked for as long as its owner lives (flock, which the kernel lets go of with the process), so that
another process sharing the parent directory can tell what is abandoned.
"""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

PREFIX: Final = "query-"


class Scratch:
    """A locked directory, readable by its owner alone."""

    def __init__(self, parent: Path) -> None:
        """Create the directory and sweep abandoned ones beside it.

        Raises:
            OSError: the disk refuses.
        """
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(parent):
            for entry in parent.glob(f"{PREFIX}*"):
                _sweep(entry)
            self.path = parent / f"{PREFIX}{uuid4().hex}"
            self.path.mkdir(mode=0o700)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def directory(self) -> Path:
        """Make a new directory inside."""
        made = self.path / uuid4().hex
        made.mkdir(mode=0o700)
        return made

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Between the making of a directory and its lock nobody may sweep."""
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(entry: Path) -> None:
    """Remove a directory whose owner is gone."""
    try:
        handle = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # its owner has just removed it, or it is not a directory of ours
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(entry, ignore_errors=True)
    finally:
        os.close(handle)
