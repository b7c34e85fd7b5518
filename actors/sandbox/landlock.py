"""Tier B: Landlock, a stricter filter and resource limits, for where namespaces are not allowed (most Kubernetes pods).

One Python process that can start no other, reach none and open no socket; one connection, inherited. It reads the
runtime tree and its bundle and writes nothing. Weaker than tier A: it sees the host's process numbers and network
names, and where no control group is delegated, memory is bounded by address space and by looking.
"""

import contextlib
import json
import os
import socket
import subprocess
from typing import Final

from actors.sandbox import launch, seccomp
from actors.sandbox import limits as caps
from actors.sandbox.cgroup import Hierarchy
from actors.sandbox.launch import Door, Launched, LaunchFailed, Order, check_task, failure, log_pipe
from actors.sandbox.spawner import Command, Spawner
from actors.sandbox.tree import Tree

LEAST_ABI: Final = 3  # the first that can refuse to truncate a file
NOWHERE: Final = "/nonexistent"
CHANNEL: Final = "3"
SHARED_NPROC: Final = 200  # the limit counts what runs under the same uid in the whole pod


class Landlock:
    """Starts sandboxes of tier B. Thread-safe."""

    name = "landlock"
    languages = frozenset({"python"})

    def __init__(self, tree: Tree, groups: Hierarchy | None, spawner: Spawner) -> None:
        """Raises: LaunchFailed: this machine lacks a part."""
        if os.uname().machine != "x86_64":
            raise LaunchFailed("there is no list of system calls for this processor: run sandboxes on x86_64")
        self._tree = tree
        self._door = Door(groups)
        self._spawner = spawner
        self._filter = seccomp.strict_program().hex()

    def start(self, order: Order) -> Launched:
        check_task(order)
        with contextlib.ExitStack() as undo:
            group = self._door.group(order, undo)
            log, log_end = log_pipe()
            undo.callback(os.close, log)
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            arguments = [*self._door.arguments(order, group), *self._arguments(order, theirs.fileno())]
            try:
                process = self._spawner.start(Command(arguments, log_end, (theirs.fileno(),), _environment(order)))
            except OSError as error:
                raise LaunchFailed(f"no process can be started: {os.strerror(error.errno or 0)}") from error
            finally:
                theirs.close()
                os.close(log_end)
            undo.callback(launch.end, process)
            _await_word(ours, process, log)
            ours.sendall(b"G")
            undo.pop_all()
            return Launched(process, log=log, group=group, connection=ours, real_task=order.task)

    def _arguments(self, order: Order, channel: int) -> list[str]:
        limits = caps.kernel_limits(order.limits, counted=self._door.counted, language="python")
        given = {
            "channel": channel,
            "read": [str(self._tree.root), str(self._tree.bootstraps), order.task],
            "limits": [f"nproc={order.limits.pids + SHARED_NPROC}" if "nproc=" in each else each for each in limits],
            "filter": self._filter,
            "write": None,
            "abi": LEAST_ABI,
        }
        python = self._tree.root / "opt/python/bin/python3"
        loader = [str(self._tree.loader), "--library-path", str(self._tree.libraries), str(python)]
        return [*loader, "-P", "-s", "-S", str(self._tree.bootstraps / "enter.pyc"), json.dumps(given)]


def _environment(order: Order) -> dict[str, str]:
    own = {"LAMBDA_TASK_ROOT": order.task, "TRACE_FD": CHANNEL, "HOME": NOWHERE}
    removed = {"AWS_LAMBDA_RUNTIME_API", "TMPDIR"}
    return {name: value for name, value in (dict(order.environment) | own).items() if name not in removed}


def _await_word(channel: socket.socket, process: subprocess.Popen[bytes], log: int) -> None:
    """Return when all walls stand, before anything untrusted runs. Raises: LaunchFailed."""
    channel.settimeout(caps.LAUNCH_S)
    try:
        word = channel.recv(1)
    except OSError:
        word = b""
    if word != b"L":
        match launch.how_it_ended(process):
            case None:
                why = f"the sandbox was not up after {caps.LAUNCH_S:g} s"
            case launch.JOIN_FAILED:
                why = "the sandbox could not join its control group"
            case launch.NO_LANDLOCK:
                why = "this kernel has no Landlock of version 3: run Linux 6.2 or newer with it switched on"
            case _:
                why = "the kernel refused to confine the sandbox"
        raise failure(why, log)
