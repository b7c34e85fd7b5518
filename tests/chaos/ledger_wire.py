"""What the processes of a ledger run say to each other: dispatchers ask workers over sockets, all append to one log."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Final

from actors.dispatcher import Timing
from actors.worker import Held
from trace_ray.contracts import AttemptKey, LeaseGroup, Outcome, WorkerId
from trace_ray.retry import RetryPolicy

LEASE_S: Final = 0.3
LEADER_S: Final = 0.4
POLICY: Final = RetryPolicy(base_s=0.02, cap_s=0.2, max_attempts=3, max_infra_failures=50)
TIMING: Final = Timing(lease_s=LEASE_S, leader_s=LEADER_S, policy=POLICY)
SLOTS: Final = 12  # of a worker
ANSWER_S: Final = 0.05  # a worker that needs longer is silent


@dataclass(frozen=True, slots=True)
class Place:
    """Leases for a worker. No answer."""

    groups: tuple[LeaseGroup, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """What do you hold? `acknowledged` can be forgotten."""

    acknowledged: tuple[AttemptKey, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """The answer. `noise`: outcomes that must change nothing, told once."""

    held: Held
    noise: tuple[Outcome, ...]
    free: int


class Link:
    """A dispatcher's line to one worker. A question that got no answer in time stays open; its answer comes later."""

    def __init__(self, socket: Path) -> None:
        self.worker_id = worker_of(socket)
        self._connection: Connection[Place | Ask, Told] = Client(str(socket), family="AF_UNIX")
        self._open = False
        self._acknowledged: set[AttemptKey] = set()

    def place(self, groups: Sequence[LeaseGroup]) -> None:
        """Raises OSError when the worker is dead."""
        self._connection.send(Place(tuple(groups)))

    def acknowledge(self, keys: Sequence[AttemptKey]) -> None:
        self._acknowledged.update(keys)

    def ask(self) -> Told | None:
        """Return what the worker tells, or None while it is silent. Raises OSError or EOFError when it is dead."""
        if not self._open:
            self._connection.send(Ask(tuple(self._acknowledged)))
            self._acknowledged.clear()
            self._open = True
        if not self._connection.poll(ANSWER_S):
            return None
        self._open = False
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()


def worker_of(socket: Path) -> WorkerId:
    return WorkerId(f"w/{socket.name.removesuffix('.sock')}")


class Log:
    """One file for all processes: a line per event. A process that is killed loses nothing that it wrote."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, count: int = 1, detail: str = "") -> None:
        if count:
            os.write(self._file, (json.dumps([what, count, detail]) + "\n").encode())


def read(path: Path) -> list[tuple[str, int, str]]:
    """Return the events of a log: what, how often, detail."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(what, int(count), detail) for what, count, detail in map(json.loads, lines)]
