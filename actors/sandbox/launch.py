"""What a backend is given and gives back: a started sandbox, still before untrusted code runs."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from actors.sandbox import limits, outcome, processes
from actors.sandbox.cgroup import CgroupUnavailable, Counts, Group, Hierarchy
from actors.sandbox.slots import Slot
from trace_ray.alerts import SandboxLimits
from trace_ray.errors import TraceError

JOIN: Final = 'for door in $1; do echo 0 > "$door" || exit 97; done; shift; exec "$@"'
JOIN_FAILED: Final = 97
NO_LANDLOCK: Final = 96
PATHS: Final = re.compile(r"(?<![\w.])/[^\s:]+")
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
        real_task: str = TASK_ROOT,
    ) -> None:
        self._process = process
        self._group = group
        self.log = log
        self.real_task = real_task  # the path that the bundle's files have inside
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


def reachable(path: Path) -> Path | None:
    """Return the first directory on the way that a user without rights on it cannot pass, or None.

    Raises:
        OSError: there is no such path.
    """
    for part in reversed([path, *path.parents]):
        if not part.stat().st_mode & 0o001:
            return part
    return None


def check_task(order: Order) -> None:
    """Raises: LaunchFailed: the sandbox could not read the bundle's files. Its own words would not say why."""
    try:
        closed = reachable(Path(order.task)) if order.slot.uid is not None else None
    except OSError:
        raise LaunchFailed("the files of the bundle are not there: they were evicted, or the store has moved") from None
    if closed is not None:
        raise LaunchFailed("the files of the bundle lie below a directory that other users cannot pass: chmod o+x")


class Door:
    """The first step of every sandbox on the host: a group with its limits, joined with our uid; then its own uid."""

    def __init__(self, groups: Hierarchy | None) -> None:
        """Raises: LaunchFailed: a program of util-linux is missing."""
        shell, setpriv = shutil.which("sh"), shutil.which("setpriv")
        if shell is None or setpriv is None:
            raise LaunchFailed("setpriv is not installed: on Debian, apt-get install util-linux")
        self._shell, self._setpriv = shell, setpriv
        self._groups = groups

    @property
    def counted(self) -> bool:
        return self._groups is not None

    def group(self, order: Order, undo: contextlib.ExitStack) -> Group | None:
        """Make the group of a sandbox; `undo` removes it. Raises: LaunchFailed."""
        if self._groups is None:
            return None
        try:
            pids = order.limits.pids + limits.OWN_PIDS
            group = self._groups.make(str(order.slot.number), memory=order.limits.memory, pids=pids)
        except CgroupUnavailable as error:
            raise LaunchFailed(str(error)) from error
        undo.callback(group.close)
        return group

    def arguments(self, order: Order, group: Group | None) -> list[str]:
        """Return what goes before the command, so that it starts in the group and with the uid."""
        join = [] if group is None else [self._shell, "-c", JOIN, "join", " ".join(group.doors)]
        if order.slot.uid is None:
            return join
        ids = ["--reuid", str(order.slot.uid), "--regid", str(order.slot.uid)]
        return [*join, self._setpriv, *ids, "--clear-groups", "--no-new-privs"]


def how_it_ended(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a start that failed; None when it hangs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1.0)
    return None


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a sandbox that did not come up."""
    process.kill()
    process.wait(END_S)


def log_pipe() -> tuple[int, int]:
    """Return both ends of the pipe that stdout and stderr go into; the reading end never blocks."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    return reading, writing


def failure(what: str, log: int) -> LaunchFailed:
    """Return why a sandbox did not come up, with the last words of its trusted start."""
    try:
        said = outcome.tail(os.read(log, LOG_READ), 300).strip().replace("\n", "; ")
        said = PATHS.sub("...", said)
    except OSError:
        said = ""
    return LaunchFailed(f"{what}: {said}" if said else what)
