"""Tier A: bubblewrap with namespaces of its own, our seccomp filter, a cgroup, and a uid of its own when we are root.

The order matters: limits of the cgroup, then the launcher joins it with our uid, then the uid changes, then bwrap makes
the namespaces, then the trusted first process inside hands out its listener and waits for our word.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from actors.sandbox import launch, seccomp
from actors.sandbox import limits as caps
from actors.sandbox.cgroup import Group, Hierarchy
from actors.sandbox.launch import TASK_ROOT, Door, Launched, LaunchFailed, Order, check_task, end, failure, log_pipe
from actors.sandbox.spawner import Command, Spawner
from actors.sandbox.tree import BOOTSTRAP_ROOT, Tree

TMP: Final = "/tmp"  # noqa: S108  its own, inside
DEVICES: Final = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom", "tty"))
INNER_UID: Final = "1000"
PYTHON: Final = ("/opt/python/bin/python3", "-P", "-s", "-S", f"{BOOTSTRAP_ROOT}/init.pyc")
INSTALL: Final = "install bubblewrap 0.8 or newer (on Debian: apt-get install bubblewrap)"


class Bubblewrap:
    """Starts sandboxes of tier A. Thread-safe."""

    name = "bwrap"

    def __init__(self, tree: Tree, groups: Hierarchy | None, spawner: Spawner) -> None:
        """Raises: LaunchFailed: this machine lacks a part."""
        if os.uname().machine != "x86_64":
            raise LaunchFailed("there is no list of system calls for this processor: run sandboxes on x86_64")
        missing = [path for path in DEVICES if not path.exists()]
        if missing:
            raise LaunchFailed(f"bwrap needs the device {missing[0].name}, which /dev lacks here: make it with mknod")
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise LaunchFailed(f"bwrap is not installed: {INSTALL}")
        self._bwrap = bwrap
        self._tree = tree
        self._door = Door(groups)
        self._spawner = spawner
        self._filter = seccomp.program()
        self.languages = tree.languages

    def start(self, order: Order) -> Launched:
        check_task(order)
        with contextlib.ExitStack() as undo:
            group = self._door.group(order, undo)
            log, log_end = log_pipe()
            undo.callback(os.close, log)
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            filter_end = _filled_pipe(self._filter)
            try:
                arguments = self._arguments(order, group, channel=theirs.fileno(), filter_end=filter_end)
                process = self._spawner.start(Command(arguments, log_end, (theirs.fileno(), filter_end)))
            except OSError as error:
                raise LaunchFailed(f"no process can be started: {os.strerror(error.errno or 0)}") from error
            finally:
                theirs.close()
                os.close(filter_end)
                os.close(log_end)
            undo.callback(end, process)
            launched = Launched(process, log=log, group=group, listener=_listener(ours, process, log))
            ours.sendall(b"G")
            ours.close()
            undo.pop_all()
            return launched

    def _arguments(self, order: Order, group: Group | None, *, channel: int, filter_end: int) -> list[str]:
        limits = caps.kernel_limits(order.limits, counted=self._door.counted, language=order.language)
        inner = [*PYTHON, str(channel), order.language, *limits]
        return [*self._door.arguments(order, group), *self._walls(order, filter_end), "--", *inner]

    def _walls(self, order: Order, filter_end: int) -> list[str]:
        environment = [part for name, value in order.environment.items() for part in ("--setenv", name, value)]
        return [
            self._bwrap,
            *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
            *("--clearenv", "--cap-drop", "ALL", "--hostname", "udf", "--uid", INNER_UID, "--gid", INNER_UID),
            *("--ro-bind", str(self._tree.root), "/", "--ro-bind", str(self._tree.bootstraps), BOOTSTRAP_ROOT),
            *("--ro-bind", order.task, TASK_ROOT, "--dev", "/dev"),
            *("--size", str(order.limits.tmp), "--tmpfs", TMP),
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", TMP, "--seccomp", str(filter_end)),
            *environment,
        ]


def _filled_pipe(content: bytes) -> int:
    """Return the reading end of a pipe that holds these bytes; a filter fits into any pipe."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(content)
    return reading


def _listener(channel: socket.socket, process: subprocess.Popen[bytes], log: int) -> socket.socket:
    """Return the listening socket that the first process inside hands out; from then on it waits for our word."""
    channel.settimeout(caps.LAUNCH_S)
    handles: list[int] = []
    try:
        word, handles, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        word = b""
    if word != b"L" or len(handles) != 1:
        for handle in handles:
            os.close(handle)
        raise failure(_why(process), log)
    listener = socket.socket(fileno=handles[0])
    listener.setblocking(False)
    return listener


def _why(process: subprocess.Popen[bytes]) -> str:
    """Return what is wrong when the sandbox did not come up, from the way its start ended."""
    match launch.how_it_ended(process):
        case None:
            return f"the sandbox was not up after {caps.LAUNCH_S:g} s"
        case launch.JOIN_FAILED:
            return "the sandbox could not join its control group"
        case _:
            return "bwrap could not start: allow user namespaces for this user, or opt into the backend landlock"
