"""Starts the Cryo child, waits for it, kills it at the deadline and reads what it left. Knows no dataset.

A process for each range, because Cryo has no timeout: a provider that never answers hangs it for ever, and only a kill
ends that. In return a crash or lost memory of Cryo never reaches the worker.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from trace_ray.errors import DeadlineExceeded, EngineCrashed
from trace_ray.extract.redact import readable

CHILD: Final = Path(__file__).with_name("cryo_child.py")
PYTHON: Final = ("-I", "-S")  # no user code, no site directories: 48 ms to the first request instead of 64 ms
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin"}  # nothing inherited: MESC_* and ETH_RPC_URL would change Cryo's provider
MEMORY_BYTES: Final = 4 * 1024**3  # address space; 2,000 rich blocks needed less than 1 GiB
RAW_BYTES: Final = 64 * 1024  # of the output; redacted and cut further by `readable`
GRACE_S: Final = 5.0  # from the end of the output to the end of the process: an exit takes milliseconds


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `cryo.freeze`."""

    datasets: tuple[str, ...]
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the child said: Cryo's counts of each call, or the error that ended it. `output` is redacted text."""

    results: tuple[Mapping[str, int], ...]
    error: str | None
    text: str
    output: str


def run(calls: Sequence[Call], *, library: Path, directory: Path, url: str, deadline: float) -> Verdict:
    """Run the calls one after another in one child and return its verdict. No child is left when this returns.

    Args:
        library: Directory that holds the package cryo.
        directory: The child's working directory.
        url: The provider's URL inside `calls`; it is removed from every text.
        deadline: Instant of `time.monotonic()`.

    Raises:
        DeadlineExceeded: the child was killed.
        EngineCrashed: it ended without a verdict.
    """
    spec = {
        "parent": os.getpid(),
        "library": str(library),
        "memory_bytes": MEMORY_BYTES,
        "calls": [{"datasets": call.datasets, "options": call.options} for call in calls],
    }
    verdict_end, child_end = os.pipe()
    with os.fdopen(verdict_end, "rb") as verdicts:
        try:
            child = subprocess.Popen(
                [sys.executable, *PYTHON, str(CHILD), str(child_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(child_end,),
                start_new_session=True,
                env=ENVIRONMENT,
                cwd=directory,
            )
        finally:
            os.close(child_end)
        try:
            raw = _output(child, json.dumps(spec).encode(), deadline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_S)
        finally:
            _end(child)
        output = readable(raw[-RAW_BYTES:], url, is_cut=len(raw) > RAW_BYTES)
        return _read(verdicts.read(), child.returncode, output, url)


def _output(child: "subprocess.Popen[bytes]", spec: bytes, deadline: float) -> bytes:
    """Send the specification and return the end of what the child prints, up to its end."""
    stdin, stdout = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
    try:
        stdin.write(spec)
        stdin.close()
    except BrokenPipeError:
        pass  # it died at its start: the missing verdict says so
    tail = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(stdout.fileno(), RAW_BYTES)
            if not piece:
                return tail
            tail = (tail + piece)[-RAW_BYTES - 1 :]
    raise DeadlineExceeded(
        "Cryo was still at work at the deadline and was killed: lower chunk_size or mend the provider"
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Make sure that the child and whatever it started are gone, and collect its exit."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()


def _read(raw: bytes, exit_code: int, output: str, url: str) -> Verdict:
    try:
        said = cast(dict[str, object], json.loads(raw))
    except ValueError as error:
        how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        raise EngineCrashed(
            f"the Cryo child ended without a verdict ({how}): if it happens again, lower chunk_size or set "
            "TRACE_ENGINE=native"
        ) from error
    results = cast(list[dict[str, int]], said.get("results", []))
    text = readable(str(said.get("text", "")).encode(), url, is_cut=False)
    name = said.get("error")
    return Verdict(tuple(results), None if name is None else str(name), text, output)
