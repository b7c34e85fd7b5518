"""Runs invocations in fresh sandboxes on this machine: a slot, a sandbox, one invocation, and nothing is left."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.sandbox import cgroup, environment, pool, selftest
from actors.sandbox import limits as caps
from actors.sandbox.bubblewrap import TMP, Bubblewrap
from actors.sandbox.cgroup import CgroupUnavailable
from actors.sandbox.events import Events
from actors.sandbox.invoker import Ask, Cancelled
from actors.sandbox.landlock import Landlock
from actors.sandbox.launch import API_ADDRESS, TASK_ROOT, Backend, LaunchFailed, Order, reachable
from actors.sandbox.outcome import DETAIL, cleaned
from actors.sandbox.pool import Pool
from actors.sandbox.queries import Queries
from actors.sandbox.runtime_api import Work
from actors.sandbox.selftest import Check
from actors.sandbox.session import Session
from actors.sandbox.settings import SandboxSettings
from actors.sandbox.slots import SELF_TEST, Slot, Slots
from actors.sandbox.spawner import Spawner
from actors.sandbox.tree import open_tree
from trace_ray.alerts import Invocation, Invoked, OutcomeKind

logger = logging.getLogger(__name__)

BACKENDS: Final = {Bubblewrap.name: Bubblewrap, Landlock.name: Landlock}
SLOT_S: Final = 10.0  # to wait for a free slot; after that another worker may be luckier


class Supervisor:
    """A `RuntimeInvoker`. Thread-safe; made by `open_supervisor`, close it."""

    def __init__(self, backend: Backend, slots: Slots) -> None:
        self._backend = backend
        self._slots = slots
        self._pool: Pool | None = None
        self._undertaker = ThreadPoolExecutor(2, thread_name_prefix="sandbox-undertaker")

    @property
    def pool(self) -> Pool | None:
        return self._pool

    def start_pool(self, directory: Path, *, count: int) -> None:
        """From now on keep `count` sandboxes per language ready. `directory`: on the file system of the bundles."""
        self._pool = Pool(self._backend, self._slots, directory, _order_ahead, count=count)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._undertaker.shutdown()

    def invoke(self, invocation: Invocation, ask: Ask, cancelled: Cancelled) -> Invoked:
        invocation = _within_caps(invocation)
        if invocation.language not in self._backend.languages:
            return _refused(f"the backend {self._backend.name} does not run {invocation.language} on this machine")
        queries = Queries(ask, invocation.limits, allowed=invocation.may_query)
        events = Events(invocation.limits, allowed=invocation.may_emit)
        work = Work(invocation, queries, events, environment.of(invocation))
        try:
            return self._run_ahead(work, cancelled) or self._run_cold(work, cancelled)
        except (LaunchFailed, CgroupUnavailable) as error:
            logger.warning("sandbox unavailable", extra={"reason": str(error)})
            return _refused(str(error))
        finally:
            queries.close()

    def _run_ahead(self, work: Work, cancelled: Cancelled) -> Invoked | None:
        """Run in a sandbox that waits for it; None when there is none that fits."""
        warm = None if self._pool is None else self._pool.take(work.invocation)
        if warm is None:
            return None
        try:
            warm.fill(Path(work.invocation.directory))
            return warm.session.run(work, cancelled)
        except OSError as error:
            logger.warning(
                "a bundle cannot be linked into its sandbox", extra={"reason": os.strerror(error.errno or 0)}
            )
            return None
        finally:
            self._later(warm.close)

    def _run_cold(self, work: Work, cancelled: Cancelled) -> Invoked:
        slot = self._slots.take()
        if slot is None and self._pool is not None:
            self._pool.yield_slot()
        slot = slot or self._slots.wait(SLOT_S, cancelled)
        if slot is None:
            if cancelled():
                return ended(OutcomeKind.LOST_LEASE, "the lease was lost before it started")
            return _refused(f"all {self._slots.count} sandboxes of this machine are busy")
        with contextlib.ExitStack() as after:
            after.callback(slot.release)
            session = Session(self._backend.start(_order(work.invocation, slot)), work.invocation.limits)
            after.callback(session.close)
            try:
                return session.run(work, cancelled)
            finally:
                self._later(after.pop_all().close)

    def _later(self, close: Callable[[], None]) -> None:
        """Clear a dead sandbox away behind the caller's back: the kernel takes some milliseconds to let go of it."""
        self._undertaker.submit(close).add_done_callback(_told_if_failed)


def _told_if_failed(done: Future[None]) -> None:
    error = done.exception()
    if error is not None:
        logger.error("a sandbox was not cleared away", extra={"reason": str(error)})


@dataclass(frozen=True, slots=True)
class Examined:
    """One backend: its name, what counts (a cgroup version, or none), every check, or why it cannot start."""

    backend: str
    counted_by: str
    checks: tuple[Check, ...]
    problem: str | None

    @property
    def good(self) -> bool:
        return self.problem is None and all(check.good for check in self.checks)

    def sentence(self) -> str:
        if self.problem is not None:
            return f"{self.backend}: {self.problem}"
        failed = [check.name for check in self.checks if not check.good]
        return f"{self.backend}: " + (
            "every wall holds" if not failed else f"the self-test failed: {'; '.join(failed)}"
        )


def open_supervisor(settings: SandboxSettings) -> Supervisor:
    """Return a supervisor of the first configured backend that passes its self-test.

    Raises:
        LaunchFailed: none does; nothing may run. Says what to install or to allow.
        CgroupUnavailable: there are no control groups, and configuration does not allow sandboxes without.
        TreeUnavailable: the runtime tree cannot be made.
    """
    sentences: list[str] = []
    for examined, supervisor in _try_backends(settings):
        if examined.good and supervisor is not None:
            if settings.prewarmed and examined.backend == Bubblewrap.name:
                supervisor.start_pool(settings.home / "waiting", count=settings.prewarmed)
            return supervisor
        sentences.append(examined.sentence())
    raise LaunchFailed("no sandbox works on this machine: " + "; ".join(sentences))


def examine(settings: SandboxSettings) -> list[Examined]:
    """Return how each configured backend does, for people; takes a second each. Raises as `open_supervisor`."""
    return [examined for examined, _ in _try_backends(settings)]


def _try_backends(settings: SandboxSettings) -> Iterator[tuple[Examined, Supervisor | None]]:
    _check_home(settings.home)
    groups = cgroup.find(settings.cgroup_parent) if settings.cgroups else None
    if groups is not None:
        groups.sweep()
    counted_by = "none" if groups is None else groups.name
    tree = open_tree(settings.home, node=settings.node)
    spawner, slots = Spawner(), Slots(settings.slots)
    for name in settings.backends:
        try:
            backend = BACKENDS[name](tree, groups, spawner)
            with contextlib.closing(Supervisor(backend, Slots(settings.slots, first=SELF_TEST))) as tester:
                checks = selftest.checks(tester, tree.bootstraps, alone=name == Landlock.name)
            yield Examined(name, counted_by, tuple(checks), None), Supervisor(backend, slots)
        except KeyError:
            yield Examined(name, counted_by, (), f"there is no such backend: take {' or '.join(BACKENDS)}"), None
        except LaunchFailed as error:
            yield Examined(name, counted_by, (), str(error)), None


def _check_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        closed = reachable(home.resolve()) if os.geteuid() == 0 else None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise LaunchFailed(
            f"{home} cannot be made ({reason}): set TRACE_SANDBOX_DIR to a directory of yours"
        ) from error
    if closed is not None:
        raise LaunchFailed(
            f"the sandbox home lies below {closed}, which other users cannot pass: set TRACE_SANDBOX_DIR to another "
            "directory, or chmod o+x"
        )


def ended(kind: OutcomeKind, detail: str) -> Invoked:
    """Return the end of an invocation that never started."""
    usage = {"wall_s": 0.0, "cpu_s": 0.0, "memory": None, "queries": 0.0, "events": 0.0}
    return Invoked(kind, cleaned(detail, DETAIL), b"", (), "", usage)


def _refused(detail: str) -> Invoked:
    return ended(OutcomeKind.SANDBOX_UNAVAILABLE, detail)


def _within_caps(invocation: Invocation) -> Invocation:
    return dataclasses.replace(
        invocation,
        limits=caps.capped(invocation.limits),
        function=environment.plain(invocation.function),
        version=environment.plain(invocation.version),
    )


def _order(invocation: Invocation, slot: Slot) -> Order:
    inside = _common() | environment.of(invocation)
    if invocation.language == "node":
        inside |= environment.node_heap(invocation.limits)
    return Order(slot, invocation.language, invocation.directory, invocation.limits, inside)


def _order_ahead(language: str, task: Path, slot: Slot) -> Order:
    return Order(slot, language, str(task), pool.LIMITS, pool.surroundings(language, _common()))


def _common() -> dict[str, str]:
    return environment.fixed(TASK_ROOT, TMP) | {"AWS_LAMBDA_RUNTIME_API": API_ADDRESS}
