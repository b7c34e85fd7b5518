import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def handler(event, context):
    got = []
    for change in (os.setuid, os.setgid, os.seteuid):
        try:
            change(0)
            got.append(change.__name__)
        except OSError:
            continue
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    LIBC.syscall(125, header, data)
    bounding = [bit for bit in range(41) if LIBC.prctl(23, bit, 0, 0, 0) == 1]
    return {
        "got": got,
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": os.getgroups(),
        "capabilities": list(data),
        "bounding": bounding,
        "no_new_privs": LIBC.prctl(39, 0, 0, 0, 0),
        "seccomp": LIBC.prctl(21, 0, 0, 0, 0),
        "dumpable": LIBC.prctl(3, 0, 0, 0, 0),
    }
