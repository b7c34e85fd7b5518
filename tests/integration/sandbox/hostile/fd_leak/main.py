import os
import socket
import stat


def handler(event, context):
    found = []
    for number in range(3, 1024):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        peer = list(socket.socket(fileno=os.dup(number)).getpeername()) if stat.S_ISSOCK(mode) else None
        found.append([stat.S_IFMT(mode), peer])
    kinds = [stat.S_IFMT(os.fstat(number).st_mode) for number in (0, 1, 2)]
    return {"above": found, "standard": kinds}
