"""The processes of one stack: its actors with their names and pids, asked of Ray's state API, and its Postgres."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import psutil

from actors import runtime
from trace_ray.lite import account, ray_cluster

DISPATCHER = "Dispatcher"
WORKER = "CryoWorker"


@dataclass(frozen=True)
class Actor:
    """A living actor. `name` is that of the ledger's worker_id, or `dispatcher`."""

    name: str
    pid: int

    def kill(self) -> bool:
        """Kill -9; False when it is gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            return True
        return False

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Stand still while the block runs; it may be killed meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)


class Processes:
    """Finds what may be killed: only processes that the stack of this data directory started."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._space = runtime.namespace(data_dir)

    def own_ray(self) -> dict[str, Any]:
        """Return the cluster that `up` started: pid, address, dashboard."""
        return json.loads((self._data_dir / "ray.json").read_text())

    def actors(self, kind: str) -> list[Actor]:
        """Return the living actors of a class. None when Ray does not answer at this moment."""
        own = self.own_ray()
        token = ray_cluster.token_file(self._data_dir).read_text().strip()
        try:
            answer = httpx.get(
                f"{own['dashboard']}/api/v0/actors",
                params={"limit": "10000", "timeout": "10"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=15,
            )
            listed = cast(list[dict[str, Any]], answer.json()["data"]["result"]["result"])
        except (httpx.HTTPError, KeyError, TypeError, ValueError):
            return []
        family = {process.pid for process in psutil.Process(own["pid"]).children(recursive=True)}
        return sorted(
            (
                Actor(one["name"], one["pid"])
                for one in listed
                if one["class_name"] == kind and one["state"] == "ALIVE" and one["ray_namespace"] == self._space
                if one["pid"] in family
            ),
            key=lambda actor: actor.name,
        )

    def worker_pids(self) -> list[int]:
        return [actor.pid for actor in self.actors(WORKER)]

    def await_actors(self, kind: str, count: int, timeout_s: float = 60.0) -> list[Actor]:
        """Return the actors of a class once there are so many of them."""
        give_up = time.monotonic() + timeout_s
        while len(found := self.actors(kind)) < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{len(found)} of {count} {kind} live after {timeout_s} s")
            time.sleep(0.2)
        return found

    def crash_postgres(self) -> bool:
        """Stop the embedded server without a checkpoint, as a crash of its machine would; False when it is down."""
        files = account.files_of(self._data_dir.resolve())
        runner = account.server_account()
        return account.run(runner, "pg_ctl", "stop", "-D", files, "-m", "immediate", "-w", "-t", "30") == 0
