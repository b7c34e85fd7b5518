"""Starts sandbox processes from one thread that lives as long as this process.

`bwrap --die-with-parent` and PR_SET_PDEATHSIG mean the thread that spawned, not the process: started from a thread of a
pool, a sandbox would be killed as soon as that thread ends.
"""

import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

ENVIRONMENT: Final[Mapping[str, str]] = {"LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `output`: stdout and stderr; `keep`: its only other descriptors."""

    arguments: Sequence[str]
    output: int
    keep: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)


class Spawner:
    """Thread-safe. The thread is a daemon: with the process all sandboxes end."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Command, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="sandbox-spawner", daemon=True).start()

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        """Raises: OSError: there is no such program, or no room for a process."""
        future: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((command, future))
        return future.result()

    def _run(self) -> None:
        while True:
            command, future = self._orders.get()
            try:
                future.set_result(_start(command))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                future.set_exception(error)


def _start(command: Command) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.arguments,
        stdin=subprocess.DEVNULL,
        stdout=command.output,
        stderr=command.output,
        env=dict(command.environment),
        cwd="/",
        close_fds=True,
        pass_fds=command.keep,
    )
