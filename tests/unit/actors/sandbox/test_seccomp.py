"""The filters, run by a small interpreter of classic BPF: which calls pass, which fail and how, which kill."""

import errno
import re
import struct
from pathlib import Path

import pytest

from actors.sandbox import seccomp

MASK = (1 << 32) - 1
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
TABLE = {
    "read": 0, "write": 1, "mmap": 9, "clone": 56, "execve": 59, "exit_group": 231, "futex": 202, "openat": 257,
    "getrandom": 318, "rseq": 334, "futex_wait": 455,
}  # fmt: skip


def verdict(program: bytes, number: int, *arguments: int, architecture: int = seccomp.X86_64) -> int:
    """Return what the filter returns for a call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    place = loaded = 0
    while True:
        operation, when_true, when_false, value = code[place]
        place += 1
        match operation:
            case seccomp.LOAD_WORD:
                (loaded,) = struct.unpack_from("=I", data, value)
            case seccomp.JUMP_EQUAL:
                place += when_true if loaded == value else when_false
            case seccomp.JUMP_AT_LEAST:
                place += when_true if loaded >= value else when_false
            case seccomp.JUMP_ANY_BIT:
                place += when_true if loaded & value else when_false
            case seccomp.RETURN:
                return value
            case _:
                raise AssertionError(operation)


def refused(number: int = errno.EPERM) -> int:
    return seccomp.FAIL | number


PROGRAMS = [seccomp.program(), seccomp.strict_program()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_foreign_architectures_and_x32_kill(program: bytes) -> None:
    assert verdict(program, 0, architecture=0x40000003) == seccomp.KILL
    assert verdict(program, 0, architecture=0xC00000B7) == seccomp.KILL
    assert verdict(program, seccomp.X32 | 0) == seccomp.KILL
    assert verdict(program, MASK) == seccomp.KILL


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_denied_call_fails(program: bytes) -> None:
    assert {verdict(program, number) for number in seccomp.DENIED.values()} == {refused()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_that_are_not_known_do_not_exist(program: bytes) -> None:
    assert verdict(program, seccomp.NEWEST_KNOWN + 1) == refused(errno.ENOSYS)
    assert verdict(program, seccomp.X32 - 1) == refused(errno.ENOSYS)
    assert verdict(program, seccomp.CLONE3) == refused(errno.ENOSYS)


def test_ordinary_calls_pass() -> None:
    normal = {name: verdict(PROGRAMS[0], number) for name, number in TABLE.items()}
    assert set(normal.values()) == {seccomp.ALLOW}
    strict = {name for name, number in TABLE.items() if verdict(PROGRAMS[1], number) != seccomp.ALLOW}
    assert strict == {"clone", "execve"}


def test_clone_makes_no_namespace() -> None:
    for bit in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(PROGRAMS[0], seccomp.CLONE, bit | 17) == refused()
        assert verdict(PROGRAMS[1], seccomp.CLONE, bit | seccomp.THREAD) == refused()
    assert verdict(PROGRAMS[0], seccomp.CLONE, 17) == seccomp.ALLOW
    assert verdict(PROGRAMS[1], seccomp.CLONE, 17) == refused()
    assert verdict(PROGRAMS[1], seccomp.CLONE, seccomp.THREAD | 0x3D0F00 & ~0x20000) == seccomp.ALLOW


@pytest.mark.parametrize("call", [seccomp.SOCKET, seccomp.SOCKETPAIR])
def test_only_local_and_ip_sockets_exist(call: int) -> None:
    passed = {family for family in range(64) if verdict(PROGRAMS[0], call, family) == seccomp.ALLOW}
    assert passed == {1, 2, 10}
    assert verdict(PROGRAMS[0], call, 16) == refused(errno.EAFNOSUPPORT)
    assert {verdict(PROGRAMS[1], call, family) for family in range(64)} == {refused()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_input_is_pushed_into_no_terminal(program: bytes) -> None:
    assert verdict(program, seccomp.IOCTL, 0, 0x5412) == refused()
    assert verdict(program, seccomp.IOCTL, 0, 0x5412 | 1 << 32) == refused()
    assert verdict(program, seccomp.IOCTL, 0, 0x5401) == seccomp.ALLOW


def test_strict_reaches_no_other_process() -> None:
    strict = PROGRAMS[1]
    assert {verdict(strict, number) for number in seccomp.DENIED_WITHOUT_NAMESPACES.values()} == {refused()}
    assert verdict(strict, seccomp.PRLIMIT64, 0, 7) == seccomp.ALLOW
    assert verdict(strict, seccomp.PRLIMIT64, 1, 7) == refused()
    assert verdict(strict, seccomp.FCNTL, 3, 8) == refused()
    assert verdict(strict, seccomp.FCNTL, 3, 10) == refused()
    assert verdict(strict, seccomp.FCNTL, 3, 3) == seccomp.ALLOW
    assert verdict(strict, seccomp.IOCTL, 3, 0x8901) == refused()


def test_numbers_are_those_of_the_kernel() -> None:
    """Compared where its header is installed; each number has one name everywhere."""
    named = {**seccomp.DENIED, **seccomp.DENIED_WITHOUT_NAMESPACES}
    assert len(set(named.values())) == len(named)
    text = HEADER.read_text(encoding="ascii") if HEADER.exists() else ""
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    assert {name: known[name] for name in named if name in known} == {
        name: number for name, number in named.items() if name in known
    }
