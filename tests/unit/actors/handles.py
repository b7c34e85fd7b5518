"""Workers without Ray: real ones in threads, behind handles that can be silent, dead or of another build."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ray.exceptions import ActorUnavailableError

from actors import wire
from actors.dispatcher import HeadAnswer
from actors.worker import Held, Operator, Worker
from trace_ray.contracts import AttemptKey, Failure, HeadRequest, LeaseGroup, Outcome, WorkerId

NEW: Final = "2+new"


@dataclass
class Method:
    """A remote method: the call runs in a thread, as Ray's would in another process."""

    work: Callable[..., object]

    def remote(self, *args: object) -> Awaitable[object]:
        return asyncio.get_running_loop().create_task(asyncio.to_thread(self.work, *args))


@dataclass
class Handle:
    """One worker. `go` lets its running groups end, unless it has an operator; `silent` makes it unreachable."""

    worker_id: WorkerId
    build: str = NEW
    silent: bool = False
    killed: bool = False
    go: threading.Event = field(default_factory=threading.Event)
    operator: Operator[LeaseGroup] | None = None
    newest: int = 7

    def __post_init__(self) -> None:
        self.worker = Worker(self.worker_id, self.operator or self._work)
        self.run = Method(self._run)
        self.held = Method(self._held)
        self.head = Method(self._head)
        self.version = Method(self._version)
        self.withdraw = Method(self._withdraw)

    def _work(self, one: LeaseGroup) -> list[Outcome]:
        assert self.go.wait(10)
        return [Failure(lease.key, "SourceLied", "short", True) for lease in one.leases]

    def _run(self, groups: bytes) -> bytes:
        self._answer()
        return wire.pack(self.worker.run(wire.groups(groups, LeaseGroup)))

    def _held(self, acknowledged: bytes | Sequence[AttemptKey]) -> Held:
        self._answer()
        if self.build != NEW and isinstance(acknowledged, bytes):
            raise TypeError("code of another build may know no packed acknowledgements")
        return self.worker.held(wire.keys(acknowledged))

    def _head(self, request: HeadRequest) -> HeadAnswer:
        return HeadAnswer(request.rpc_pool, request.chain_id, self.newest)

    def _withdraw(self, keys: bytes) -> None:
        raise AssertionError("only evaluations are withdrawn")

    def _version(self) -> str:
        self._answer()
        return self.build

    def _answer(self) -> None:
        if self.silent:
            raise ActorUnavailableError("no answer", b"\0" * 16)
