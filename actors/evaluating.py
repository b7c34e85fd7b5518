"""Makes the evaluator of a machine: sandbox, bundles, object store, and the way to the query service."""

import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

import httpx

from actors.evaluate import Evaluator
from actors.sandbox.cgroup import CgroupUnavailable
from actors.sandbox.invoker import Ask, Cancelled, RuntimeInvoker
from actors.sandbox.launch import LaunchFailed
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


def make_evaluator(settings: Settings) -> Evaluator:
    """Return the evaluator of this machine. Where no sandbox works it refuses every evaluation with the reason."""
    home = sandbox_home(settings.data_dir)
    objects = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{settings.http_port}",
        timeout=httpx.Timeout(TASK_QUERY_S + CONNECT_S, connect=CONNECT_S),
        trust_env=False,
    )
    return Evaluator(
        make_invoker(home),
        BundleStore(home / "bundles", objects),
        objects,
        http,
        scratch=settings.data_dir / "evaluations",
    )


def make_invoker(home: Path) -> RuntimeInvoker:
    """Return the sandbox of this machine, or what refuses in its place."""
    try:
        return open_supervisor(SandboxSettings(home, node=find_node(), prewarmed=PREWARMED))
    except (LaunchFailed, CgroupUnavailable, TreeUnavailable) as error:
        logger.warning("no sandbox", extra={"reason": str(error)})
        return Refuses(str(error))


def sandbox_home(data_dir: Path, *, system: Path = SYSTEM) -> Path:
    """Return where sandboxes of a data directory live. Under root they run as other users, who must be let through."""
    way = (data_dir.resolve(), *data_dir.resolve().parents)
    if os.geteuid() != ROOT or all(one.stat().st_mode & stat.S_IXOTH for one in way):
        return data_dir / "sandbox"
    return system / hashlib.sha256(str(data_dir).encode()).hexdigest()[:16] / "sandbox"
