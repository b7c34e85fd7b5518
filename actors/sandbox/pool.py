"""Sandboxes that are started ahead: their interpreter waits for its first handler. Each is used once and killed.

What they mount as the bundle is an empty directory of the host; the files of a bundle are hard-linked into it when
there is one, and appear inside at once. No state crosses invocations: nothing untrusted has run before.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.sandbox import environment
from actors.sandbox.cgroup import CgroupUnavailable
from actors.sandbox.launch import Backend, LaunchFailed, Order
from actors.sandbox.session import Session
from actors.sandbox.slots import Slot, Slots
from trace_ray.alerts import Invocation, SandboxLimits

logger = logging.getLogger(__name__)

LANGUAGES: Final = ("python", "node")
LIMITS: Final = SandboxLimits()  # memory, /tmp and processes are fixed when a sandbox starts
IDLE_S: Final = 600.0
RETRY_S: Final = 5.0  # after a start that failed: the machine is short of something
END_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Warm:
    """One sandbox that waits. `task`: the empty directory that it has as its bundle."""

    session: Session
    slot: Slot
    task: Path
    since: float

    def fill(self, bundle: Path) -> None:
        """Make the files of a bundle appear inside.

        Raises:
            OSError: they lie on another file system, or a file cannot be linked.
        """
        for directory, directories, names in os.walk(bundle):
            inside = self.task / Path(directory).relative_to(bundle)
            for name in directories:
                (inside / name).mkdir(mode=0o755)
            for name in names:
                (inside / name).hardlink_to(Path(directory) / name)

    def close(self) -> None:
        """Kill it, free its slot, remove its directory. Raises: CgroupUnavailable: something survived."""
        try:
            self.session.close()
        finally:
            shutil.rmtree(self.task, ignore_errors=True)
            self.slot.release()


class Pool:
    """Keeps `count` sandboxes per language waiting. Thread-safe; close it."""

    def __init__(
        self, backend: Backend, slots: Slots, directory: Path, order: Callable[[str, Path, Slot], Order], *, count: int
    ) -> None:
        self._backend, self._slots, self._directory, self._order = backend, slots, directory, order
        self._wanted = {language: count for language in LANGUAGES if language in backend.languages}
        self._waiting: dict[str, list[Warm]] = {language: [] for language in self._wanted}
        self._changed = threading.Condition()
        self._closed = False
        _sweep(directory)
        self._thread = threading.Thread(target=self._keep, name="sandbox-pool", daemon=True)
        self._thread.start()

    def take(self, invocation: Invocation) -> Warm | None:
        """Return a waiting sandbox that fits, which is then the caller's; or None."""
        if not fits(invocation.limits):
            return None
        with self._changed:
            waiting = self._waiting.get(invocation.language, [])
            warm = waiting.pop(0) if waiting else None
            self._changed.notify()
        if warm is not None and not warm.session.alive:
            _discard(warm)
            return None
        return warm

    def yield_slot(self) -> None:
        """End one that waits, because somebody needs its slot."""
        with self._changed:
            warm = next((waiting.pop(0) for waiting in self._waiting.values() if waiting), None)
        if warm is not None:
            _discard(warm)

    def counts(self) -> Mapping[str, int]:
        """Return how many wait, per language."""
        with self._changed:
            return {language: len(waiting) for language, waiting in self._waiting.items()}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(END_S)
        for waiting in self._waiting.values():
            while waiting:
                _discard(waiting.pop())

    def _keep(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                old, missing = self._old(time.monotonic()), self._missing()
                if not old and missing is None:
                    self._changed.wait(IDLE_S / 10)
                    continue
            for warm in old:
                _discard(warm)
            if missing is not None and not self._add(missing):
                with self._changed:
                    self._changed.wait(RETRY_S)

    def _missing(self) -> str | None:
        return next((name for name, count in self._wanted.items() if len(self._waiting[name]) < count), None)

    def _old(self, now: float) -> list[Warm]:
        old: list[Warm] = []
        for language, waiting in self._waiting.items():
            old += [warm for warm in waiting if now - warm.since > IDLE_S]
            self._waiting[language] = [warm for warm in waiting if now - warm.since <= IDLE_S]
        return old

    def _add(self, language: str) -> bool:
        slot = self._slots.take_but_one()
        if slot is None:
            return False
        task = self._directory / f"{os.getpid()}-{slot.number}-{time.monotonic_ns()}"
        try:
            warm = self._boot(language, task, slot)
        except (LaunchFailed, CgroupUnavailable, OSError) as error:
            logger.warning("no sandbox could be started ahead", extra={"reason": str(error)})
            shutil.rmtree(task, ignore_errors=True)
            slot.release()
            return False
        with self._changed:
            self._waiting[language].append(warm)
        return True

    def _boot(self, language: str, task: Path, slot: Slot) -> Warm:
        task.mkdir(mode=0o755)
        session = Session(self._backend.start(self._order(language, task, slot)), LIMITS)
        if not session.boot():
            session.close()
            raise LaunchFailed(f"{language} did not come up in time")
        return Warm(session, slot, task, time.monotonic())


def fits(limits: SandboxLimits) -> bool:
    """Say whether a sandbox with the default limits will do: what the supervisor alone looks at may differ."""
    return (limits.memory, limits.tmp, limits.pids) == (LIMITS.memory, LIMITS.tmp, LIMITS.pids) and (
        limits.cpu_s <= LIMITS.cpu_s
    )


def surroundings(language: str, common: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a sandbox that is started ahead."""
    heap = environment.node_heap(LIMITS) if language == "node" else {}
    return {**common, **environment.ahead(), **heap}


def _discard(warm: Warm) -> None:
    try:
        warm.close()
    except CgroupUnavailable as error:
        logger.warning("a sandbox that waited did not end cleanly", extra={"reason": str(error)})


def _sweep(directory: Path) -> None:
    """Remove what killed supervisors left."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        pid = path.name.partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(path)
