"""Tries inside a sandbox what is forbidden there, for the self-test. Answers what it managed to do."""

# pyright: basic

import _socket
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


def managed(attempt, *arguments) -> bool:
    try:
        return attempt(*arguments) is not False
    except OSError:
        return False


def read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def connect(family, address) -> None:
    _socket.socket(family, _socket.SOCK_STREAM).connect(address)


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def spawn_shell() -> bool:
    os.access("/bin/sh", os.F_OK)
    pid = os.fork()
    if pid == 0:
        try:
            os.execv("/bin/sh", ["/bin/sh", "-c", "exit 7"])
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def allocate(size: int) -> None:
    for start in range(0, len(block := bytearray(size)), 4096):
        block[start] = 1


def handler(event, context):
    if event.get("allocate"):
        return allocate(event["allocate"])
    forbidden = {
        "read /etc/passwd": managed(read, "/etc/passwd"),
        "read a file of the host": managed(read, event["planted"]),
        "list the host's root": managed(lambda: {"etc", "usr"} & set(os.listdir("/")) != set()),
        "write outside its tmp": any(managed(write, f"{place}/trace-ray-probe") for place in event["places"]),
        "connect to a port of the host": managed(connect, _socket.AF_INET, ("127.0.0.1", event["port"])),
        "connect to an abstract socket of the host": managed(connect, _socket.AF_UNIX, "\0" + event["abstract"]),
        "read the environment of its parent": managed(read, f"/proc/{event['parent']}/environ"),
        "signal the supervisor": managed(os.kill, event["target"], 0),
        "run a shell": managed(spawn_shell),
        "make a namespace": managed(lambda: libc.unshare(0x10000000) == 0),
        "see other names in the environment": not set(os.environ) <= set(event["names"]),
    }
    if event["alone"]:
        forbidden["start a process"] = managed(fork)
        forbidden["open a socket"] = managed(lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM).close())
    works = {"ask a query": len(context.trace.query("probe")) == 1, "emit an event": context.trace.emit([{}]) is None}
    if not event["alone"]:
        works["write its tmp"] = managed(write, "/tmp/trace-ray-probe")  # noqa: S108  its own, inside
    return {"forbidden": forbidden, "works": works, "platform": sys.platform}
