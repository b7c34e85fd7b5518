"""What a backend is given and gives back: a started sandbox, still before untrusted code runs."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from actors.sandbox import outcome, processes
from actors.sandbox.cgroup import Counts, Group
from actors.sandbox.slots import Slot
from trace_ray.alerts import SandboxLimits
from trace_ray.errors import TraceError

API_ADDRESS: Final = "127.0.0.1:9001"
TASK_ROOT: Final = "/var/task"
END_S: Final = 10.0  # a killed sandbox is gone in milliseconds; more means a stuck kernel
LOG_READ: Final = 1 << 16


class LaunchFailed(TraceError):
    """The sandbox did not come up, and nothing untrusted ran. One sentence."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to start: `task` is the directory with the bundle's files, `environment` the complete one inside."""

    slot: Slot
    language: str
    task: str
    limits: SandboxLimits
    environment: Mapping[str, str]


class Backend(Protocol):
    """One kind of sandbox. `name` as in configuration."""

    @property
    def name(self) -> str: ...

    @property
    def languages(self) -> frozenset[str]: ...

    def start(self, order: Order) -> "Launched":
        """Raises: LaunchFailed."""
        ...


class Launched:
    """A running sandbox, seen from outside. Exactly one of `listener` and `connection` is there."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        log: int,
        group: Group | None,
        listener: socket.socket | None = None,
        connection: socket.socket | None = None,
    ) -> None:
        self._process = process
        self._group = group
        self.log = log
        self.listener = listener
        self.connection = connection
        self.ended = os.pidfd_open(process.pid)
        self._before = Counts(0.0, 0, 0, 0, 0)
        self._peak = 0

    @property
    def counted(self) -> bool:
        """A cgroup counts what it uses."""
        return self._group is not None

    def start_counting(self) -> None:
        """Leave out what it has used so far: the start of an interpreter is not the handler's."""
        self._before = self.counts()[0]

    def counts(self) -> tuple[Counts, int]:
        """Return what it used since `start_counting`, and its number of processes and threads (0: a cgroup counts)."""
        if self._group is not None:
            now, tasks = self._group.counts(), 0
        else:
            use = processes.use_of(self._process.pid)
            self._peak = max(self._peak, use.memory)
            now, tasks = Counts(use.cpu_s, use.memory, 0, 0, 0), use.tasks
        return Counts(
            max(0.0, now.cpu_s - self._before.cpu_s), now.memory_peak, now.oom_kills, now.memory_hits, now.pids_hits
        ), tasks

    def kill(self) -> int | None:
        """End it and everything in it; return its wait status when it had ended by itself, else None."""
        status = self._process.poll()
        if status is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END_S)
        return status

    def close(self) -> None:
        """Let go of everything. Raises: CgroupUnavailable: something survived."""
        self.kill()
        for sock in (self.listener, self.connection):
            if sock is not None:
                sock.close()
        for number in (self.log, self.ended):
            os.close(number)
        if self._group is not None:
            self._group.close()


def log_pipe() -> tuple[int, int]:
    """Return both ends of the pipe that stdout and stderr go into; the reading end never blocks."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    return reading, writing


def failure(what: str, log: int) -> LaunchFailed:
    """Return why a sandbox did not come up, with the last words of its trusted start."""
    try:
        said = outcome.tail(os.read(log, LOG_READ), 300).strip().replace("\n", "; ")
    except OSError:
        said = ""
    return LaunchFailed(f"{what}: {said}" if said else what)
