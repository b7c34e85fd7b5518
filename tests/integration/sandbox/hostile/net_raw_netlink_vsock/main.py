import socket

FAMILIES = {"netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "bluetooth": 31, "can": 29}


def handler(event, context):
    errnos = {}
    for name, family in FAMILIES.items():
        for kind in (socket.SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_DGRAM):
            errnos[f"{name} {kind}"] = tried(family, kind)
    errnos["raw inet"] = tried(socket.AF_INET, socket.SOCK_RAW, 1)
    return errnos


def tried(*arguments):
    try:
        socket.socket(*arguments).close()
    except OSError as error:
        return error.errno
    return 0
