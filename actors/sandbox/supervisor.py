"""Runs invocations in fresh sandboxes on this machine: a slot, a sandbox, one invocation, and nothing is left."""

import dataclasses
import logging
import os
from typing import Final

from actors.sandbox import cgroup, environment
from actors.sandbox import limits as caps
from actors.sandbox.bubblewrap import TMP, Bubblewrap, reachable
from actors.sandbox.cgroup import CgroupUnavailable
from actors.sandbox.events import Events
from actors.sandbox.invoker import Ask, Cancelled
from actors.sandbox.launch import API_ADDRESS, TASK_ROOT, Backend, LaunchFailed, Order
from actors.sandbox.outcome import DETAIL, cleaned
from actors.sandbox.queries import Queries
from actors.sandbox.runtime_api import Work
from actors.sandbox.session import Session
from actors.sandbox.settings import SandboxSettings
from actors.sandbox.slots import Slot, Slots
from actors.sandbox.spawner import Spawner
from actors.sandbox.tree import open_tree
from trace_ray.alerts import Invocation, Invoked, OutcomeKind

logger = logging.getLogger(__name__)

SLOT_S: Final = 10.0  # to wait for a free slot; after that another worker may be luckier


class Supervisor:
    """A `RuntimeInvoker`. Thread-safe; make it with `open_supervisor`."""

    def __init__(self, backend: Backend, slots: Slots) -> None:
        self._backend = backend
        self._slots = slots

    def invoke(self, invocation: Invocation, ask: Ask, cancelled: Cancelled) -> Invoked:
        invocation = _within_caps(invocation)
        if invocation.language not in self._backend.languages:
            return _refused(f"the backend {self._backend.name} does not run {invocation.language} on this machine")
        slot = self._slots.wait(SLOT_S, cancelled)
        if slot is None:
            if cancelled():
                return ended(OutcomeKind.LOST_LEASE, "the lease was lost before it started")
            return _refused(f"all {self._slots.count} sandboxes of this machine are busy")
        try:
            return self._run(invocation, slot, ask, cancelled)
        except (LaunchFailed, CgroupUnavailable) as error:
            logger.warning("sandbox unavailable", extra={"reason": str(error)})
            return _refused(str(error))
        finally:
            slot.release()

    def _run(self, invocation: Invocation, slot: Slot, ask: Ask, cancelled: Cancelled) -> Invoked:
        queries = Queries(ask, invocation.limits)
        work = Work(invocation, queries, Events(invocation.limits), environment.of(invocation))
        try:
            session = Session(self._backend.start(_order(invocation, slot)), invocation.limits)
            try:
                return session.run(work, cancelled)
            finally:
                session.close()
        finally:
            queries.close()


def open_supervisor(settings: SandboxSettings) -> Supervisor:
    """Return a supervisor of the first backend that works.

    Raises:
        LaunchFailed: none does; nothing may run.
        CgroupUnavailable: there are no control groups, and configuration does not allow sandboxes without.
        TreeUnavailable: the runtime tree cannot be made.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    closed = reachable(settings.home.resolve()) if os.geteuid() == 0 else None
    if closed is not None:
        raise LaunchFailed(
            f"the sandbox home lies below {closed}, which other users cannot pass: name another directory, or chmod o+x"
        )
    groups = cgroup.find(settings.cgroup_parent) if settings.cgroups else None
    if groups is not None:
        groups.sweep()
    tree = open_tree(settings.home, node=settings.node)
    return Supervisor(Bubblewrap(tree, groups, Spawner()), Slots(settings.slots))


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
    inside = environment.fixed(TASK_ROOT, TMP) | environment.of(invocation)
    inside["AWS_LAMBDA_RUNTIME_API"] = API_ADDRESS
    if invocation.language == "node":
        inside |= environment.node_heap(invocation.limits)
    return Order(slot, invocation.language, invocation.directory, invocation.limits, inside)
