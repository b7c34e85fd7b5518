"""The zygote, seen from the service: start it, have it fork workers and wait for dead ones."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from query.process import Child, Reach
from query.protocol import Channel, Kind, ProtocolBroken, fields, integer
from query.question import Limits

ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve address space, which is capped
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # no thread may run when the zygote forks
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
}
BOOT: Final = "import sys; sys.path[:] = sys.argv[1:]; from query.zygote import main; main()"
START_S: Final = 20.0  # its imports on a machine under load
ANSWER_S: Final = 10.0  # it only forks, and collects the killed
EXIT_S: Final = 5.0


class Zygote:
    """A zygote that dies with the thread that makes it. Not safe to share between threads."""

    def __init__(self) -> None:
        """Start the process by exec, never by forking this one: no thread, no descriptor, no variable passes on.

        Raises:
            OSError: there is no room or no right for another process.
            ProtocolBroken, OutOfTime: it does not come up.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", BOOT, *import_path()],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    cwd="/",
                    close_fds=True,
                )
            except OSError:
                ours.close()
                raise
        self._socket = ours
        self._channel = Channel(ours)
        try:
            deadline = time.monotonic() + START_S
            self._channel.send_json(Kind.HELLO, {"parent": os.getpid()}, deadline=deadline)
            self._expect(Kind.HELLO, deadline)
        except Exception:
            self.close()
            raise

    def fork(self, spill: Path, reach: Reach, limits: Limits) -> Child:
        """Start a worker. It says HELLO when it is confined and connected."""
        ours, theirs = socket.socketpair()
        deadline = time.monotonic() + ANSWER_S
        setup = {
            "spill": str(spill),
            "read": [str(path) for path in reach.read],
            "port": reach.port,
            "threads": limits.threads,
            "memory_mb": limits.memory_mb,
            "spill_mb": limits.spill_mb,
            "address_space_mb": limits.address_space_mb,
        }
        try:
            with theirs:
                self._channel.send_json(Kind.FORK, setup, deadline=deadline)
                socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
                answer = self._expect(Kind.FORKED, deadline)
            return Child(integer(fields(answer, {"pid": int})["pid"]), ours, spill)
        except Exception:
            ours.close()
            raise

    def reap(self, pid: int) -> bool:
        """Collect a worker that was killed; say whether it has ended."""
        deadline = time.monotonic() + ANSWER_S
        self._channel.send_json(Kind.REAP, {"pid": pid}, deadline=deadline)
        return fields(self._expect(Kind.REAPED, deadline), {"ended": bool})["ended"] is True

    def close(self) -> None:
        """End the zygote, and with it every worker."""
        self._process.kill()
        self._process.wait(EXIT_S)
        self._socket.close()

    def _expect(self, wanted: Kind, deadline: float) -> bytes | memoryview:
        kind, payload = self._channel.receive(deadline=deadline)
        if kind is not wanted:
            raise ProtocolBroken("another frame expected")
        return payload


def import_path() -> list[str]:
    """Return where this process imports from, for the zygote: on a cluster that is a working directory."""
    here = str(Path(__file__).resolve().parents[1])
    kept = [entry for entry in sys.path if Path(entry).is_absolute() and Path(entry).exists()]
    return kept if here in kept else [*kept, here]
