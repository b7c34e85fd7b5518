"""Control groups: one per sandbox, v2 (delegated) or v1 (controllers apart or together). Knows nothing of sandboxes.

A group bounds memory (swap 0), processes and processor time, counts what was used, and says which limit was met: that
is the evidence of outcomes. Whoever makes one closes it; `sweep` removes what a killed supervisor left.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from trace_ray.errors import TraceError

PREFIX: Final = "trace-ray-sandbox-"
V1_CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")
FULL: Final = 4 << 20  # so near to its limit a v1 group was full: its own counter of hits stays 0 (seen on Linux 6.18)
V2_CONTROLLERS: Final = ("memory", "pids", "cpu")
PERIOD_US: Final = 100_000
MOST: Final = 1 << 16  # no file that is read here is longer
REMOVE_S: Final = 5.0  # the kernel lets go of the dead a little later
REMOVE_STEP_S: Final = 0.001


class CgroupUnavailable(TraceError):
    """No control groups can be made here. One sentence, with what to do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a group has seen. `oom_kills`: processes killed for memory; `memory_hits`: how often its limit was met."""

    cpu_s: float
    memory_peak: int
    oom_kills: int
    memory_hits: int
    pids_hits: int


class Group(Protocol):
    """A group of one sandbox. `doors`: the files into which a process writes 0 to join it."""

    @property
    def doors(self) -> list[str]: ...

    def counts(self) -> Counts: ...

    def close(self) -> None:
        """Kill what is left in it and remove it."""
        ...


class Hierarchy(Protocol):
    """Where groups are made. `name`: cgroup v1 or v2, for people."""

    @property
    def name(self) -> str: ...

    def make(self, label: str, *, memory: int, pids: int) -> Group: ...

    def sweep(self) -> None: ...


def find(parent: Path | None = None) -> Hierarchy:
    """Return the hierarchy that this process may make groups in.

    Args:
        parent: a delegated cgroup v2 directory; None looks for one, and for v1.

    Raises:
        CgroupUnavailable: there is none.
    """
    mounts = _mounts(Path("/proc/self/mounts").read_text(encoding="utf-8"))
    own = _own(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
    if parent is not None:
        return V2(_enabled([parent]))
    if all(name in mounts for name in V1_CONTROLLERS):
        found = V1(_v1_directories(mounts, own))
        found.probe()
        return found
    if "" in mounts:
        here = mounts[""] / own.get("", "/").lstrip("/")
        return V2(_enabled([here, here.parent] if here != mounts[""] else [here]))
    raise CgroupUnavailable(
        "no control groups are mounted here: mount cgroup2, or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none"
    )


def _mounts(text: str) -> dict[str, Path]:
    """Return where each v1 controller is mounted, and under "" the v2 hierarchy."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            found.setdefault("", Path(where))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, Path(where))
    return found


def _own(text: str) -> dict[str, str]:
    """Return the group of this process in each hierarchy."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _v1_directories(mounts: dict[str, Path], own: dict[str, str]) -> dict[str, Path]:
    """Return one directory per controller: this process's own group, or the mount's top inside a container."""
    directories: dict[str, Path] = {}
    for name in V1_CONTROLLERS:
        inside = mounts[name] / own.get(name, "/").lstrip("/")
        directories[name] = inside if inside.is_dir() else mounts[name]
    return directories


def _enabled(candidates: list[Path]) -> Path:
    """Return the first v2 directory whose children get all controllers."""
    for candidate in candidates:
        try:
            control = candidate / "cgroup.subtree_control"
            missing = set(V2_CONTROLLERS) - set(control.read_text(encoding="ascii").split())
            if missing:
                control.write_text(" ".join(f"+{name}" for name in sorted(missing)), encoding="ascii")
            if os.access(candidate, os.W_OK):
                return candidate
        except OSError:
            continue
    raise CgroupUnavailable(
        "no control group is delegated to this process: run it under `systemd-run --user -p Delegate=yes`, name a "
        "delegated directory by TRACE_SANDBOX_CGROUP_PARENT, or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none"
    )


def _orphaned(directory: Path) -> bool:
    """Say whether the supervisor whose pid is in the group's name is gone."""
    pid = directory.name.removeprefix(PREFIX).partition("-")[0]
    return pid.isdigit() and not Path(f"/proc/{pid}").exists()


def _remove(directories: list[Path]) -> None:
    deadline = time.monotonic() + REMOVE_S
    left = directories
    while left:
        left = [directory for directory in left if not _removed(directory)]
        if left and time.monotonic() > deadline:
            raise CgroupUnavailable(f"the control group {left[0].name} cannot be removed: something lives on in it")
        if left:
            time.sleep(REMOVE_STEP_S)


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        _kill_all(directory)
        return False
    return True


def _kill_all(directory: Path) -> None:
    try:
        pids = [int(line) for line in (directory / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _number(path: str) -> int:
    return int(_read(path))


def _field(path: str, name: str) -> int:
    """Return one `name value` line of a file; 0 where this kernel does not have it."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(path: str) -> str:
    """Return a file of the kernel's. Read by number: each sandbox reads a dozen, and Path takes three times as long."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(number, MOST).decode("ascii")
    finally:
        os.close(number)


def _write(path: str, value: int | str) -> None:
    number = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(number, str(value).encode("ascii"))
    finally:
        os.close(number)


class V1:
    """Controllers in hierarchies of their own, or several in one."""

    name = "cgroup v1"

    def __init__(self, directories: dict[str, Path]) -> None:
        self._parents = directories

    def probe(self) -> None:
        """Raises: CgroupUnavailable: no group can be made."""
        self.make("probe", memory=64 << 20, pids=8).close()

    def make(self, label: str, *, memory: int, pids: int) -> "GroupV1":
        directories = {name: parent / f"{PREFIX}{os.getpid()}-{label}" for name, parent in self._parents.items()}
        try:
            for directory in set(directories.values()):
                directory.mkdir()
            _write(f"{directories['memory']}/memory.limit_in_bytes", memory)
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting has none
                _write(f"{directories['memory']}/memory.memsw.limit_in_bytes", memory)
            _write(f"{directories['pids']}/pids.max", pids)
            _write(f"{directories['cpu']}/cpu.cfs_period_us", PERIOD_US)
            _write(f"{directories['cpu']}/cpu.cfs_quota_us", PERIOD_US)
        except OSError as error:
            for directory in set(directories.values()):
                _removed(directory)
            raise CgroupUnavailable(
                f"no control group can be made here ({os.strerror(error.errno or 0)}): run as root, delegate "
                "cgroup v2, or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none"
            ) from error
        return GroupV1(directories)

    def sweep(self) -> None:
        for parent in set(self._parents.values()):
            _remove([directory for directory in parent.glob(f"{PREFIX}*") if _orphaned(directory)])


class GroupV1:
    def __init__(self, directories: dict[str, Path]) -> None:
        self._at = directories

    @property
    def doors(self) -> list[str]:
        return sorted({str(directory / "cgroup.procs") for directory in self._at.values()})

    def counts(self) -> Counts:
        memory = str(self._at["memory"])
        peak = _number(f"{memory}/memory.max_usage_in_bytes")
        return Counts(
            cpu_s=_number(f"{self._at['cpuacct']}/cpuacct.usage") / 1e9,
            memory_peak=peak,
            oom_kills=_field(f"{memory}/memory.oom_control", "oom_kill"),
            memory_hits=int(peak + FULL >= _number(f"{memory}/memory.limit_in_bytes")),
            pids_hits=_field(f"{self._at['pids']}/pids.events", "max"),
        )

    def close(self) -> None:
        _remove(sorted(set(self._at.values())))


class V2:
    """The unified hierarchy, below a directory that is delegated to this process."""

    name = "cgroup v2"

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def make(self, label: str, *, memory: int, pids: int) -> "GroupV2":
        directory = self._parent / f"{PREFIX}{os.getpid()}-{label}"
        try:
            directory.mkdir()
            _write(f"{directory}/memory.max", memory)
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap has none
                _write(f"{directory}/memory.swap.max", 0)
            _write(f"{directory}/memory.oom.group", 1)
            _write(f"{directory}/pids.max", pids)
            _write(f"{directory}/cpu.max", f"{PERIOD_US} {PERIOD_US}")
        except OSError as error:
            _removed(directory)
            raise CgroupUnavailable(
                f"no control group can be made below {self._parent.name} ({os.strerror(error.errno or 0)}): delegate "
                "it with memory, pids and cpu, name another by TRACE_SANDBOX_CGROUP_PARENT, or allow sandboxes without "
                "by TRACE_SANDBOX_CGROUPS=none"
            ) from error
        return GroupV2(directory)

    def sweep(self) -> None:
        _remove([directory for directory in self._parent.glob(f"{PREFIX}*") if _orphaned(directory)])


class GroupV2:
    def __init__(self, directory: Path) -> None:
        self._at = directory

    @property
    def doors(self) -> list[str]:
        return [str(self._at / "cgroup.procs")]

    def counts(self) -> Counts:
        return Counts(
            cpu_s=_field(f"{self._at}/cpu.stat", "usage_usec") / 1e6,
            memory_peak=self._memory_peak(),
            oom_kills=_field(f"{self._at}/memory.events", "oom_kill"),
            memory_hits=_field(f"{self._at}/memory.events", "oom"),
            pids_hits=_field(f"{self._at}/pids.events", "max"),
        )

    def _memory_peak(self) -> int:
        try:
            return _number(f"{self._at}/memory.peak")
        except FileNotFoundError:  # it is there since Linux 5.19
            return _number(f"{self._at}/memory.current")

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it is there since Linux 5.14, as long as the group is
            _write(f"{self._at}/cgroup.kill", 1)
        _remove([self._at])
