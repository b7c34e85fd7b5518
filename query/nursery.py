"""Where workers come from and where they end: the zygote, and the directory that holds what they spill.

Belongs to one thread: the zygote dies with the thread that started it.
"""

import shutil

from query.process import Child, Reach
from query.protocol import OutOfTime, ProtocolBroken
from query.question import Limits
from query.scratch import Scratch
from query.spawn import Zygote


class Nursery:
    """Starts and buries the workers of one pool."""

    def __init__(self, scratch: Scratch, reach: Reach, limits: Limits) -> None:
        self._scratch = scratch
        self._reach = reach
        self._limits = limits
        self._zygote: Zygote | None = None

    def start(self) -> Child | None:
        """Start one worker, and the zygote before it where none lives; None when this machine cannot."""
        was_there = self._zygote is not None
        child = self._fork()
        return self._fork() if child is None and was_there else child

    def _fork(self) -> Child | None:
        try:
            if self._zygote is None:
                self._zygote = Zygote()
            spill = self._scratch.directory()
            try:
                return self._zygote.fork(spill, self._reach, self._limits)
            except BaseException:
                shutil.rmtree(spill, ignore_errors=True)
                raise
        except (OSError, ProtocolBroken, OutOfTime):
            self.close()
            return None

    def bury(self, child: Child) -> bool:
        """End one process, and remove what it spilled once it has ended; say whether it has.

        Memory takes a while to be given back, longer with a low priority; nobody waits for that.
        """
        child.kill()
        if self._zygote is not None:
            try:
                if not self._zygote.reap(child.pid):
                    return False
            except (OSError, ProtocolBroken, OutOfTime):
                self.close()
        child.bury()
        shutil.rmtree(child.spill, ignore_errors=True)
        return True

    def close(self) -> None:
        """End the zygote, or one that does not answer. Its workers die with it; a pool finds each dead."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
