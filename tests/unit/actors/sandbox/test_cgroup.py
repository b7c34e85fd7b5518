"""What is written into control groups, and what their counters mean; kernels of both versions, as plain directories.

The real thing is in tests/integration/sandbox, with whatever version the machine has.
"""

import os
from pathlib import Path, PosixPath
from typing import ClassVar

import pytest

from actors.sandbox import cgroup
from actors.sandbox.cgroup import V1, V2, CgroupUnavailable

V2_FILES = {
    "cgroup.procs": "",
    "cgroup.kill": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "memory.peak": "5000",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n",
    "pids.max": "max",
    "pids.events": "max 4\n",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
}
V1_FILES = {
    "cgroup.procs": "",
    "memory.limit_in_bytes": "",
    "memory.memsw.limit_in_bytes": "",
    "memory.max_usage_in_bytes": str(63 << 20),
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "pids.max": "",
    "pids.events": "max 0\n",
    "cpu.cfs_period_us": "",
    "cpu.cfs_quota_us": "",
    "cpuacct.usage": "2000000000",
}


class Mounted(PosixPath):
    """A directory that fills each new directory with the files of a group, as the kernel does."""

    files: ClassVar[dict[str, str]] = {}

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        super().mkdir(mode, parents, exist_ok)
        for name, text in self.files.items():
            (self / name).write_text(text)

    def rmdir(self) -> None:
        for file in self.iterdir():
            file.unlink()
        super().rmdir()


class MountedV1(Mounted):
    files = V1_FILES


class MountedV2(Mounted):
    files = V2_FILES


def test_v2_limits_are_written_and_counters_read(tmp_path: Path) -> None:
    group = V2(MountedV2(tmp_path)).make("7", memory=64 << 20, pids=20)
    (directory,) = tmp_path.iterdir()
    written = {name: (directory / name).read_text() for name in ("memory.max", "memory.swap.max", "memory.oom.group")}
    assert written == {"memory.max": str(64 << 20), "memory.swap.max": "0", "memory.oom.group": "1"}
    assert (directory / "pids.max").read_text() == "20"
    assert (directory / "cpu.max").read_text() == "100000 100000"
    assert group.doors == [str(directory / "cgroup.procs")]
    assert group.counts() == cgroup.Counts(1.5, 5000, oom_kills=3, memory_hits=2, pids_hits=4)
    group.close()
    assert list(tmp_path.iterdir()) == []


def test_v2_below_a_directory_that_is_not_delegated_says_so(tmp_path: Path) -> None:
    with pytest.raises(CgroupUnavailable, match="delegate it with memory, pids and cpu"):
        V2(tmp_path / "missing").make("7", memory=1, pids=1)
    with pytest.raises(CgroupUnavailable, match="Delegate=yes"):
        cgroup.find(tmp_path)


def test_v1_controllers_that_are_mounted_together_are_one_directory(tmp_path: Path) -> None:
    together, alone = MountedV1(tmp_path / "cpu,cpuacct"), MountedV1(tmp_path / "rest")
    for mount in (tmp_path / "cpu,cpuacct", tmp_path / "rest"):
        mount.mkdir()
    made = V1({"memory": alone, "pids": alone, "cpu": together, "cpuacct": together}).make("1", memory=64 << 20, pids=9)
    assert len(made.doors) == 2
    assert made.counts() == cgroup.Counts(2.0, 63 << 20, oom_kills=1, memory_hits=1, pids_hits=0)
    made.close()
    assert list(together.iterdir()) == list(alone.iterdir()) == []


def test_mounts_and_own_groups_are_read() -> None:
    mounts = cgroup._mounts(
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    assert mounts["cpu"] == mounts["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert mounts[""] == Path("/sys/fs/cgroup/unified")
    assert cgroup._own("4:cpu,cpuacct:/a/b\n0::/c:d\n") == {"cpu": "/a/b", "cpuacct": "/a/b", "": "/c:d"}


def test_only_groups_of_dead_supervisors_are_swept(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest pid
    for pid in (dead, os.getpid()):
        (tmp_path / f"{cgroup.PREFIX}{pid}-0").mkdir()
    (tmp_path / "somebody-else").mkdir()
    V2(tmp_path).sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["somebody-else", f"{cgroup.PREFIX}{os.getpid()}-0"]
