"""Runs bundles of the hostile suite in real sandboxes, and knows what may never be seen inside."""

import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil

from actors.sandbox import cgroup, tree
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.invoker import QueryAnswer, QueryCall, RuntimeInvoker
from actors.sandbox.launch import Backend
from actors.sandbox.slots import Slots
from actors.sandbox.spawner import Spawner
from actors.sandbox.supervisor import Supervisor
from trace_ray.alerts import Invocation, Invoked, OutcomeKind, SandboxLimits

HOSTILE = Path(__file__).parent / "hostile"
MIB = 1 << 20
NOBODY = 65534
SLOTS = 16
CANARY = f"canary-{secrets.token_hex(16)}"  # the capability token, as far as the tests are concerned
LIMITS = SandboxLimits(wall_s=20.0, init_s=10.0)  # generous: the machine may be busy
ANSWER = {"columns": [{"name": "n", "type": "BIGINT"}], "rows": [[n] for n in range(100)], "truncated": False}


@dataclass
class Asker:
    """A query service that grants `numbers`, and holds the token that nobody inside may ever see."""

    token: str = CANARY
    calls: list[QueryCall] = field(default_factory=list)

    def __call__(self, call: QueryCall) -> QueryAnswer:
        assert self.token
        self.calls.append(call)
        match call.sql:
            case "select n from numbers":
                return QueryAnswer(200, "application/json", json.dumps(ANSWER).encode())
            case "select large":
                return QueryAnswer(200, "application/json", b"[" + b" " * (2 * MIB) + b"]")
            case "select busy":
                return QueryAnswer(503, "application/json", b'{"error": {"code": "WORKER_UNAVAILABLE"}}')
            case "select raise":
                raise RuntimeError(f"the token is {self.token}")
            case "select wrong":
                return QueryAnswer(400, "application/json", b'{"error": {"code": "SQL_REFUSED"}}')
            case "select slow":
                time.sleep(2.0)
                return QueryAnswer(200, "application/json", json.dumps(ANSWER).encode())
            case _:
                return QueryAnswer(403, "application/json", b'{"error": {"code": "DATASET_NOT_GRANTED"}}')


@dataclass
class Host:
    """What a bundle may look for: a live port and an abstract socket, which count their visitors; a planted file."""

    port: int
    abstract: str
    planted: Path
    visitors: list[object] = field(default_factory=list)

    def event(self) -> dict[str, Any]:
        return {"port": self.port, "abstract": self.abstract, "planted": str(self.planted), "parent": os.getpid()}


class Watch:
    """A `Host`; use it as a context."""

    def __init__(self, directory: Path) -> None:
        planted = directory / "planted"
        planted.write_text(CANARY)
        planted.chmod(0o644)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._unix = socket.socket(socket.AF_UNIX)
        name = f"trace-ray-{secrets.token_hex(8)}"
        self._unix.bind(f"\0{name}")
        self._unix.listen()
        self.host = Host(self._tcp.getsockname()[1], name, planted)

    def __enter__(self) -> Host:
        for listener in (self._tcp, self._unix):
            threading.Thread(target=self._count, args=(listener,), daemon=True).start()
        return self.host

    def _count(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.host.visitors.append(sock)

    def __exit__(self, *_: object) -> None:
        self._tcp.close()
        self._unix.close()


def make_home() -> Path:
    """Return a directory that every sandbox uid can reach. The tree below it is made once and kept between runs."""
    home = Path(tempfile.gettempdir()) / f"trace-ray-sandbox-tests-{os.geteuid()}"
    home.mkdir(exist_ok=True, mode=0o755)
    assert home.stat().st_uid == os.geteuid()
    return home


def open_tree() -> tree.Tree:
    return tree.open_tree(make_home(), node=tree.find_node())


def groups() -> cgroup.Hierarchy | None:
    """Root has control groups here; another user has none that are delegated."""
    return cgroup.find() if os.geteuid() == 0 else None


def supervisor(backend: Backend | None = None) -> Supervisor:
    return Supervisor(backend or Bubblewrap(open_tree(), groups(), Spawner()), Slots(SLOTS))


def bundle(name: str, directory: Path) -> Path:
    """Return a copy of a bundle as the store extracts it: read-only, and nobody's but ours."""
    target = directory / name
    if not target.exists():
        shutil.copytree(HOSTILE / name, target)
        for path in target.rglob("*"):
            path.chmod(0o555 if path.is_dir() or path.name == "bootstrap" else 0o444)
        target.chmod(0o555)
    return target


def language(directory: Path) -> tuple[str, str]:
    if (directory / "main.py").exists():
        return "python", "main.handler"
    return ("bootstrap", "bootstrap") if (directory / "bootstrap").exists() else ("node", "index.handler")


def invocation(directory: Path, payload: Mapping[str, Any], *, function: str, **limits: Any) -> Invocation:
    kind, entrypoint = language(directory)
    return Invocation(
        request_id=UUID(int=7),
        directory=str(directory),
        language=kind,
        entrypoint=entrypoint,
        function=function,
        version="1",
        payload=json.dumps(payload).encode(),
        may_query=True,
        may_emit=True,
        limits=dataclasses.replace(LIMITS, **limits),
    )


def run(invoker: RuntimeInvoker, directory: Path, payload: Mapping[str, Any], **limits: Any) -> Invoked:
    """Run a bundle; afterwards nothing of it may be alive, and the canary may be nowhere in what came out."""
    function = f"f-{uuid4().hex}"
    result = invoker.invoke(invocation(directory, payload, function=function, **limits), Asker(), lambda: False)
    assert survivors(function) == []
    assert CANARY not in repr(result)
    return result


def survivors(function: str) -> list[int]:
    """Return the processes that carry the name of this invocation, a moment after its end."""
    deadline = time.monotonic() + 5
    while found := carrying(function.encode()):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.02)
    return []


def carrying(mark: bytes) -> list[int]:
    found: list[int] = []
    for pid in psutil.pids():
        for name in ("cmdline", "environ"):
            try:
                if pid != os.getpid() and mark in Path(f"/proc/{pid}/{name}").read_bytes():
                    found.append(pid)
            except OSError:
                continue
    return found


class AsNobody:
    """The same suite in a child that has dropped to uid 65534, without control groups. A `RuntimeInvoker` by pipe."""

    def __init__(self, backend: str = "bwrap") -> None:
        command = ["-m", "tests.integration.sandbox.as_nobody", backend]
        self._child = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def invoke(self, invocation: Invocation, ask: object, cancelled: object) -> Invoked:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        order = dataclasses.asdict(invocation) | {
            "request_id": str(invocation.request_id),
            "payload": invocation.payload.decode(),
        }
        print(json.dumps(order), file=self._child.stdin, flush=True)
        told = json.loads(self._child.stdout.readline())
        told["response"] = told["response"].encode("latin-1")
        told["events"] = tuple(event.encode("latin-1") for event in told["events"])
        told["outcome"] = OutcomeKind(told["outcome"])
        return Invoked(**told)

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        assert self._child.wait(30) == 0
        self._child.stdout.close()
