"""System calls that a sandbox may not make, as a classic BPF program for x86-64. Pure.

A list of what is forbidden: namespaces, mounts, other processes' memory, keys, kernel modules, clocks, io_uring.
Numbers: arch/x86/entry/syscalls/syscall_64.tbl of Linux; the format of the program: linux/filter.h, linux/seccomp.h.
"""

import errno
import struct
from typing import Final

LOAD_WORD: Final = 0x20
JUMP_EQUAL: Final = 0x15
JUMP_AT_LEAST: Final = 0x35
JUMP_ANY_BIT: Final = 0x45
RETURN: Final = 0x06

KILL: Final = 0x80000000
FAIL: Final = 0x00050000
ALLOW: Final = 0x7FFF0000

NUMBER: Final = 0  # offsets into struct seccomp_data
ARCHITECTURE: Final = 4
ARGUMENT: Final = (16, 24, 32)  # the low half of each 64 bit word

X86_64: Final = 0xC000003E
X32: Final = 0x40000000
NEWEST_KNOWN: Final = 462  # mseal; what came later has not been reviewed

NEW_NAMESPACES: Final = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
THREAD: Final = 0x00010000
FAMILIES: Final = {"unix": 1, "inet": 2, "inet6": 10}
PUSH_INPUT: Final = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}
OWNER_IOCTLS: Final = {"FIOSETOWN": 0x8901, "SIOCSPGRP": 0x8902}
OWNER_FCNTLS: Final = {"F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15}

CLONE: Final = 56
CLONE3: Final = 435
SOCKET: Final = 41
SOCKETPAIR: Final = 53
IOCTL: Final = 16
FCNTL: Final = 72
PRLIMIT64: Final = 302

DENIED: Final = {
    # other processes
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    "process_madvise": 440, "process_mrelease": 448,
    # mounts and namespaces
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "open_tree": 428, "move_mount": 429, "mount_setattr": 442,
    "statmount": 457, "listmount": 458, "name_to_handle_at": 303, "open_by_handle_at": 304,
    # keys, kernel, large surfaces
    "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 246, "kexec_file_load": 320,
    "create_module": 174, "init_module": 175, "finit_module": 313, "delete_module": 176, "query_module": 178,
    "get_kernel_syms": 177, "personality": 135, "syslog": 103, "lookup_dcookie": 212, "nfsservctl": 180, "uselib": 134,
    "sysfs": 139, "acct": 163, "fanotify_init": 300, "fanotify_mark": 301, "lsm_set_self_attr": 460,
    # the machine
    "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "swapon": 167, "swapoff": 168,
    "reboot": 169, "quotactl": 179, "quotactl_fd": 443, "iopl": 172, "ioperm": 173, "modify_ldt": 154,
    "sethostname": 170, "setdomainname": 171, "vhangup": 153, "memfd_secret": 447,
    # memory that the limits do not see well
    "vmsplice": 278, "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "migrate_pages": 256, "move_pages": 279,
    "set_mempolicy_home_node": 450,
    "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
}  # fmt: skip

DENIED_WITHOUT_NAMESPACES: Final = {
    # one process, which starts no other and reaches none
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "setsid": 112, "setpgid": 109, "kill": 62, "tkill": 200,
    "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "pidfd_send_signal": 424,
    "setpriority": 141, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142,
    "sched_setattr": 314, "ioprio_set": 251,
    # no socket but the inherited one
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
    # what Landlock does not know: the supervisor's own files may belong to the same user
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
    "fchownat": 260, "utime": 132, "utimes": 235, "utimensat": 280, "futimesat": 261, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
    "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254,
}  # fmt: skip


def program() -> bytes:
    """Return the filter of a sandbox with namespaces of its own."""
    return b"".join(
        [*_head(), *_denials(DENIED), *_clone_flags(), *_sockets(), *_arguments(IOCTL, 1, PUSH_INPUT), _end()]
    )


def strict_program() -> bytes:
    """Return the filter of a sandbox that shares pid and network namespace with the host: one process, no socket."""
    return b"".join(
        [
            *_head(),
            *_denials({**DENIED, **DENIED_WITHOUT_NAMESPACES}),
            *_threads_only(),
            *_arguments(IOCTL, 1, {**PUSH_INPUT, **OWNER_IOCTLS}),
            *_arguments(FCNTL, 1, OWNER_FCNTLS),
            *_own_limits_only(),
            _end(),
        ]
    )


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)


def _fail(number: int) -> bytes:
    return _instruction(RETURN, FAIL | number)


def _head() -> list[bytes]:
    """Wrong architecture or x32: kill. A call newer than this list: as if the kernel did not know it."""
    return [
        _instruction(LOAD_WORD, ARCHITECTURE),
        _instruction(JUMP_EQUAL, X86_64, 1, 0),
        _instruction(RETURN, KILL),
        _instruction(LOAD_WORD, NUMBER),
        _instruction(JUMP_AT_LEAST, X32, 0, 1),
        _instruction(RETURN, KILL),
        _instruction(JUMP_AT_LEAST, NEWEST_KNOWN + 1, 0, 1),
        _fail(errno.ENOSYS),
    ]


def _denials(calls: dict[str, int]) -> list[bytes]:
    rules: list[bytes] = []
    for number in sorted(set(calls.values())):
        rules += [_instruction(JUMP_EQUAL, number, 0, 1), _fail(errno.EPERM)]
    return rules


def _clone_flags() -> list[bytes]:
    """Refuse new namespaces. The flags of clone3 lie in memory, where no filter sees them: libc falls back to clone."""
    return [
        _instruction(JUMP_EQUAL, CLONE3, 0, 1),
        _fail(errno.ENOSYS),
        _instruction(JUMP_EQUAL, CLONE, 0, 4),
        _instruction(LOAD_WORD, ARGUMENT[0]),
        _instruction(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1),
        _fail(errno.EPERM),
        _instruction(RETURN, ALLOW),
    ]


def _threads_only() -> list[bytes]:
    return [
        _instruction(JUMP_EQUAL, CLONE3, 0, 1),
        _fail(errno.ENOSYS),
        _instruction(JUMP_EQUAL, CLONE, 0, 6),
        _instruction(LOAD_WORD, ARGUMENT[0]),
        _instruction(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1),
        _fail(errno.EPERM),
        _instruction(JUMP_ANY_BIT, THREAD, 1, 0),
        _fail(errno.EPERM),
        _instruction(RETURN, ALLOW),
    ]


def _sockets() -> list[bytes]:
    """Leave local sockets and IP, which lead nowhere in an empty network; netlink, packet, vsock, alg do not exist."""
    families = sorted(FAMILIES.values())
    rules = [
        _instruction(JUMP_EQUAL, SOCKET, 1, 0),
        _instruction(JUMP_EQUAL, SOCKETPAIR, 0, len(families) + 3),
        _instruction(LOAD_WORD, ARGUMENT[0]),
    ]
    rules += [_instruction(JUMP_EQUAL, family, len(families) - index, 0) for index, family in enumerate(families)]
    return [*rules, _fail(errno.EAFNOSUPPORT), _instruction(RETURN, ALLOW)]


def _arguments(call: int, index: int, refused: dict[str, int]) -> list[bytes]:
    """Refuse a call with one of these arguments; only the low 32 bits count, as in the kernel itself."""
    values = sorted(refused.values())
    rules = [_instruction(JUMP_EQUAL, call, 0, len(values) + 3), _instruction(LOAD_WORD, ARGUMENT[index])]
    rules += [_instruction(JUMP_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [*rules, _instruction(RETURN, ALLOW), _fail(errno.EPERM)]


def _own_limits_only() -> list[bytes]:
    return [
        _instruction(JUMP_EQUAL, PRLIMIT64, 0, 4),
        _instruction(LOAD_WORD, ARGUMENT[0]),
        _instruction(JUMP_EQUAL, 0, 1, 0),
        _fail(errno.EPERM),
        _instruction(RETURN, ALLOW),
    ]


def _end() -> bytes:
    return _instruction(RETURN, ALLOW)
