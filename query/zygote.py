"""The zygote: a process with one thread that has imported all that a worker needs, and forks workers when told.

It is started by exec with a constant environment and one socket, so nothing of the service passes on. It never opens
the engine; it holds no data and hears only the service.
"""

import os
import socket
import sys
from collections.abc import Mapping
from typing import Final

import duckdb

from query import confine, dialect, macros, worker
from query.failures import Code
from query.functions import reviewed
from query.protocol import Channel, Kind, OutOfTime, ProtocolBroken, fields, integer
from query.verdict import Json

SOCKET_FD: Final = 0
FIRST_FD: Final = 3
PARENT: Final = {"parent": int}
REAP: Final = {"pid": int}
ABSENT: Final = "polars"  # the engine imports it on its first statement, which a confined worker may not


def prepare() -> None:
    """Load what is loaded late, so that workers share it and need no file for it."""
    duckdb.close()  # its import opens a connection with a thread
    macros.prepare()
    sys.modules[ABSENT] = None  # pyright: ignore[reportArgumentType] - Python's own sign for: not to be imported
    dialect.check("select 1", {}, reviewed.load())


def fork(channel: Channel, control: socket.socket, setup: Mapping[str, Json]) -> None:
    """Start a worker on the socket that comes with the question, and tell its process id."""
    _, passed, _, _ = socket.recv_fds(control, 1, 1)
    if len(passed) != 1:
        raise ProtocolBroken("a socket expected")
    zygote = os.getpid()
    try:
        child = os.fork()
    except OSError:
        channel.send_json(Kind.FAIL, {"code": Code.CONFINEMENT})
        return
    finally:
        if os.getpid() == zygote:
            os.close(passed[0])
    if child == 0:
        be_worker(passed[0], setup, zygote)
    channel.send_json(Kind.FORKED, {"pid": child})


def be_worker(descriptor: int, setup: Mapping[str, Json], zygote: int) -> None:
    """Never returns: whatever happens in a worker, its fork must not go on as the zygote."""
    try:
        os.dup2(descriptor, SOCKET_FD)
        os.closerange(FIRST_FD, confine.open_files())
        worker.main(Channel(socket.socket(fileno=SOCKET_FD)), setup, parent=zygote)
    except (ProtocolBroken, OutOfTime):
        os._exit(0)  # the service hung up
    finally:
        os._exit(1)


def reap(pid: int) -> bool:
    """Collect a worker that the service has killed; say whether it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def main() -> None:
    """Be the zygote until the service hangs up or dies."""
    control = socket.socket(fileno=os.dup(SOCKET_FD))
    channel = Channel(control)
    _, payload = channel.receive()
    confine.die_with_parent(integer(fields(payload, PARENT)["parent"]))
    prepare()
    channel.send_json(Kind.HELLO, {})
    while True:
        kind, payload = channel.receive()
        if kind is Kind.FORK:
            fork(channel, control, fields(payload, worker.SETUP))
        elif kind is Kind.REAP:
            channel.send_json(Kind.REAPED, {"ended": reap(integer(fields(payload, REAP)["pid"]))})
        else:
            raise ProtocolBroken("not a task of the zygote")
