"""Runs a benchmark in a process of its own: Ray reads its token at its import, and control groups hold processes."""

import subprocess
import sys
from typing import Final

RUN_S: Final = 900.0
QUICK: Final = "--quick"


def table(module: str, *, quick: bool) -> str:
    """Return what `python -m tests.benchmarks.<module>` prints: Markdown.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *([QUICK] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S)
    if done.returncode:
        raise RuntimeError(f"{module}: {done.stderr[-2000:]}")
    return done.stdout
