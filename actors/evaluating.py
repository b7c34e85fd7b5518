"""Makes the evaluator of a machine: sandbox, bundles, object store, and the way to the query service."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Final

import httpx

from actors.evaluate import Evaluator
from actors.sandbox.cgroup import CgroupUnavailable
from actors.sandbox.invoker import Ask, Cancelled, RuntimeInvoker
from actors.sandbox.launch import LaunchFailed, reachable
from actors.sandbox.settings import SandboxSettings
from actors.sandbox.store import BundleStore
from actors.sandbox.supervisor import ended, open_supervisor
from actors.sandbox.tree import TreeUnavailable, find_node
from trace_ray.alerts import Invocation, Invoked, OutcomeKind
from trace_ray.config import TASK_QUERY_S, Settings
from trace_ray.storage import open_store

logger = logging.getLogger(__name__)

SYSTEM: Final = Path("/var/lib/trace-ray")
PREWARMED: Final = 2
CONNECT_S: Final = 5.0
ROOT: Final = 0


class Refuses:
    """An invoker where no sandbox works: it runs nothing and says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def invoke(self, invocation: Invocation, ask: Ask, cancelled: Cancelled) -> Invoked:
        return ended(OutcomeKind.SANDBOX_UNAVAILABLE, self._why)


def make_evaluator(settings: Settings, queries: httpx.BaseTransport) -> Evaluator:
    """Return the evaluator of this machine. Where no sandbox works it refuses every evaluation with the reason.

    Args:
        queries: The way to the query service.
    """
    home = sandbox_home(settings)
    objects = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    http = httpx.Client(
        base_url="http://query-service", transport=queries, timeout=httpx.Timeout(TASK_QUERY_S + CONNECT_S)
    )
    return Evaluator(
        make_invoker(settings),
        BundleStore(home / "bundles", objects),
        objects,
        http,
        scratch=settings.data_dir / "evaluations",
    )


def make_invoker(settings: Settings) -> RuntimeInvoker:
    """Return the sandbox of this machine, or what refuses in its place."""
    try:
        return open_supervisor(sandbox_settings(settings, prewarmed=PREWARMED))
    except (LaunchFailed, CgroupUnavailable, TreeUnavailable) as error:
        logger.warning("no sandbox", extra={"reason": str(error)})
        return Refuses(str(error))


def sandbox_settings(settings: Settings, *, prewarmed: int = 0) -> SandboxSettings:
    """Return how sandboxes of a stack run. `prewarmed`: sandboxes per language that are started ahead."""
    return SandboxSettings(
        sandbox_home(settings),
        backends=settings.sandbox_backends,
        cgroups=settings.sandbox_cgroups,
        cgroup_parent=settings.sandbox_cgroup_parent,
        node=find_node(),
        prewarmed=prewarmed,
    )


def sandbox_home(settings: Settings, *, system: Path = SYSTEM) -> Path:
    """Return where sandboxes of a stack live. Under root they run as other users, who must be let through."""
    data_dir = settings.data_dir.resolve()
    if settings.sandbox_dir is None and (os.geteuid() != ROOT or reachable(_existing(data_dir)) is None):
        return settings.data_dir / "sandbox"
    base = settings.sandbox_dir or system
    return base / hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:16] / "sandbox"


def _existing(path: Path) -> Path:
    """Return the path, or its first parent that is there."""
    return next(one for one in (path, *path.parents) if one.exists())
