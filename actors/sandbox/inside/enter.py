"""The start of a sandbox of tier B, still trusted: gives up power for good, then runs the Python bootstrap.

Argument: a JSON document with `read` (paths), `write` (a path or null), `limits` (as for init.py), `filter` (seccomp
program in hex), `abi` (the least Landlock that will do). Exit code 96: this kernel has no such Landlock; 95: refused.
Nothing is executed after this point, so the filter can forbid it. Rules and numbers: linux/landlock.h.
"""

import ctypes
import json
import os
import resource
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
NO_NEW_PRIVILEGES, PARENT_DEATH_SIGNAL, SECCOMP, SECCOMP_FILTER, KILL = 38, 1, 22, 2, 9
READ = 1 << 2 | 1 << 3
WRITE = READ | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14
FILE_RIGHTS = 1 << 1 | 1 << 2 | 1 << 14
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
BITS_BY_ABI = {3: 15, 4: 15, 5: 16}
NO_LANDLOCK, FAILED = 96, 95
FD = 3

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        sys.stderr.write(f"the kernel refused: {os.strerror(ctypes.get_errno())}\n")
        sys.stderr.flush()
        os._exit(FAILED)
    return result


def confine_files(read: list[str], write: "str | None", least: int) -> None:
    abi = libc.syscall(CREATE_RULESET, None, 0, 1)
    if abi < least:
        os._exit(NO_LANDLOCK)
    rights = (1 << BITS_BY_ABI[min(abi, 5)]) - 1
    attribute = struct.pack("=Q", rights) + b"\x03".ljust(8, b"\0") * ((abi >= 4) + (abi >= 6))
    ruleset = checked(libc.syscall(CREATE_RULESET, attribute, len(attribute), 0))
    for path in read:
        allow(ruleset, path, READ)
    for path in DEVICES:
        allow(ruleset, path, FILE_RIGHTS)
    if write is not None:
        allow(ruleset, write, WRITE)
        os.chdir(write)
    checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    checked(libc.syscall(RESTRICT_SELF, ruleset, 0))


def allow(ruleset: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rights = rights if os.path.isdir(path) else rights & FILE_RIGHTS
    checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, target), 0))
    os.close(target)


def confine_calls(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    checked(libc.prctl(SECCOMP, SECCOMP_FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0))


def main() -> None:
    given = json.loads(sys.argv[1])
    checked(libc.prctl(PARENT_DEATH_SIGNAL, KILL, 0, 0, 0))
    os.dup2(given["channel"], FD, inheritable=False)
    os.closerange(FD + 1, 1024)
    for limit in given["limits"]:
        name, _, value = limit.partition("=")
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        resource.setrlimit(number, (int(value), int(value)))
    confine_files(given["read"], given["write"], given["abi"])
    sys.path.insert(0, os.path.dirname(__file__))
    import bootstrap

    del sys.path[0]
    confine_calls(bytes.fromhex(given["filter"]))
    sys.argv[1:] = []
    os.write(FD, b"L")
    if os.read(FD, 1) != b"G":
        os._exit(FAILED)
    bootstrap.main()


main()
