"""Takes power away from this process, for good: resource limits, death with its parent, Landlock. Linux only.

Landlock binds the calling thread and what it starts later, so it must come before the engine starts its threads. It
needs no privilege. Its rules and numbers: linux/landlock.h. It knows ports, not hosts; `stat` stays possible.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CREATE_RULESET: Final = 444  # the same numbers on x86-64 and aarch64
ADD_RULE: Final = 445
RESTRICT_SELF: Final = 446
VERSION_FLAG: Final = 1
RULE_PATH_BENEATH: Final = 1
RULE_NET_PORT: Final = 2

READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
FILE_RIGHTS: Final = 1 << 0 | 1 << 1 | READ_FILE | 1 << 14 | 1 << 15  # execute, write, read, truncate, ioctl
SPILL_RIGHTS: Final = 1 << 1 | READ_FILE | READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14  # no execute
CONNECT_TCP: Final = 1 << 1
RIGHTS_BY_ABI: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
NETWORK_ABI: Final = 4  # the first that can refuse TCP
SCOPE_ABI: Final = 6  # the first that can refuse signals and abstract sockets to other processes
ALL_NETWORK: Final = 0b11
ALL_SCOPES: Final = 0b11

NO_NEW_PRIVILEGES: Final = 38
PARENT_DEATH_SIGNAL: Final = 1
OPEN_FILES: Final = 256
MANY_FILES: Final = 1 << 20  # where a process may open as many as it likes


class ConfinementFailed(Exception):
    """The kernel refused to confine this process; it must not go on."""


@dataclass(frozen=True, slots=True)
class Territory:
    """What a confined process may still touch. `read` are files or directories, `port` one TCP port or None."""

    read: tuple[Path, ...]
    write: Path | None = None
    port: int | None = None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def is_complete(abi: int) -> bool:
    """Say whether Landlock of this version confines files and TCP alike."""
    return abi >= NETWORK_ABI


def limit_resources(*, memory_bytes: int, file_bytes: int) -> None:
    """Cap address space and file size; no core dump, which would hold data."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_FSIZE: file_bytes,
    }
    if sys.platform == "linux":  # macOS refuses any cap on address space
        limits[resource.RLIMIT_AS] = memory_bytes
    for what, limit in limits.items():
        hard = resource.getrlimit(what)[1]
        capped = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (capped, capped))


def open_files() -> int:
    """Return a number above every descriptor that this process can have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MANY_FILES if soft == resource.RLIM_INFINITY else min(soft, MANY_FILES)


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when the thread that started this process ends.

    Raises:
        ConfinementFailed: the parent is gone already.
    """
    if sys.platform == "linux":
        _checked(_libc().prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        raise ConfinementFailed("the parent is gone")


def enter(territory: Territory) -> int:
    """Give up everything outside `territory`, as far as this kernel can; may be called again to shrink it.

    Returns:
        The version of Landlock in force, 0 for none.

    Raises:
        ConfinementFailed: Landlock is there and refused.
    """
    abi = landlock_abi()
    if abi == 0:
        return 0
    rights = RIGHTS_BY_ABI[min(abi, max(RIGHTS_BY_ABI))]
    with _ruleset(abi, rights) as ruleset:
        for path in territory.read:
            _allow_path(ruleset, path, (READ_FILE | READ_DIR) & rights)
        if territory.write is not None:
            _allow_path(ruleset, territory.write, SPILL_RIGHTS & rights)
        if territory.port is not None and abi >= NETWORK_ABI:
            _add_rule(ruleset, RULE_NET_PORT, struct.pack("=QQ", CONNECT_TCP, territory.port))
        _checked(_libc().prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(_libc().syscall(RESTRICT_SELF, ruleset, 0))
    return abi


def roots(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the directory that holds all files, for a territory drawn before the exact files are known."""
    parents = [str(path.parent) for path in paths]
    return (Path(os.path.commonpath(parents)),) if parents else ()


@contextmanager
def _ruleset(abi: int, rights: int) -> Generator[int]:
    """A new ruleset that handles all this kernel can handle; its attribute grew with the versions."""
    attribute = struct.pack("=Q", rights)
    if abi >= NETWORK_ABI:
        attribute += struct.pack("=Q", ALL_NETWORK)
    if abi >= SCOPE_ABI:
        attribute += struct.pack("=Q", ALL_SCOPES)
    ruleset = _checked(_libc().syscall(CREATE_RULESET, attribute, len(attribute), 0))
    try:
        yield ruleset
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what does not exist needs no right; the engine will say that it is missing
    try:
        kept = rights if path.is_dir() else rights & FILE_RIGHTS
        _add_rule(ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", kept, target))
    finally:
        os.close(target)


def _add_rule(ruleset: int, kind: int, rule: bytes) -> None:
    _checked(_libc().syscall(ADD_RULE, ruleset, kind, rule, 0))


def _checked(result: int) -> int:
    if result < 0:
        raise ConfinementFailed(f"the kernel refused to confine the process: {os.strerror(ctypes.get_errno())}")
    return result
