import os
import signal


def handler(event, context):
    alive = []
    for pid in range(1, 300):
        try:
            os.kill(pid, 0)
            alive.append(pid)
        except ProcessLookupError:
            continue
        except PermissionError:
            alive.append(pid)
    refused = {}
    for pid in (event["parent"], -event["parent"]):
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError as error:
            refused[str(pid)] = error.errno
    os.kill(1, signal.SIGTERM)
    return {"alive": alive, "me": os.getpid(), "refused": len(refused), "parent": os.getppid(), "sid": os.getsid(0)}
