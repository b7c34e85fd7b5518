import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
CALLS = {
    "unshare user": (272, 0x10000000), "unshare net": (272, 0x40000000), "clone user": (56, 0x10000011, 0, 0, 0, 0),
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0), "umount": (166, b"/tmp", 2), "pivot_root": (155, b"/tmp", b"/tmp"),
    "ptrace": (101, 16, 1, 0, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0), "setns": (308, 0, 0),
    "chroot": (161, b"/tmp"), "io_uring_setup": (425, 8, 0), "bpf": (321, 0, 0, 0), "clone3": (435, 0, 0),
    "keyctl": (250, 0, -3, 1), "add_key": (248, b"user", b"a", b"b", 1, -3), "perf": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 0), "kexec": (246, 0, 0, 0, 0), "init_module": (175, 0, 0, b""), "personality": (135, 0),
    "open_by_handle_at": (304, -1, 0, 0), "settimeofday": (164, 0, 0), "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0),
    "sethostname": (170, b"mine", 4), "shmget": (29, 0, 4096, 0o1600), "msgget": (68, 0, 0o1600), "fsopen": (430, b"tmpfs", 0),
    "mq_open": (240, b"q", 0o102, 0o600, 0), "modify_ldt": (154, 0, 0, 0), "newer": (470, 0, 0), "syslog": (103, 3, 0, 0),
    "name_to_handle_at": (303, -100, b"/", 0, 0, 0), "memfd_secret": (447, 0), "TIOCSTI": (16, 0, 0x5412, b"x"),
    "TIOCSTI, high bits": (16, 0, 0x100005412, b"x"),
}  # fmt: skip


def handler(event, context):
    errnos = {}
    for name, (number, *arguments) in CALLS.items():
        ctypes.set_errno(0)
        given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
        result = LIBC.syscall(ctypes.c_long(number), *given)
        errnos[name] = ctypes.get_errno() if result < 0 else 0
        if name.startswith("clone") and result == 0:
            os._exit(0)
    return errnos
