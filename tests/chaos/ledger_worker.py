"""A worker process of a ledger run: it does no work, it holds leases around their end and answers as badly as it can.

Silent, late, twice at once, again after a newer attempt, with another attempt's number or token, or never. Started by
`tests.chaos.ledger_world`. What it does with an attempt follows from the seed, the task and the attempt.
"""

import argparse
import hashlib
import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Final
from uuid import uuid4

from actors.worker import Held
from tests.chaos.ledger_wire import SLOTS, Ask, Place, Told, worker_of
from tests.integration.state import ledger
from trace_ray.contracts import (
    AttemptKey,
    Failure,
    Lease,
    LeaseGroup,
    LeaseToken,
    Outcome,
    Publication,
    TaskId,
    WorkerId,
)

POISONED: Final = 0.01  # of all tasks fail whatever happens
FORGED: Final = "Forged"  # kind of a failure that no attempt had


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an attempt. `mute`: nobody is told that it runs, so its lease is not renewed."""

    hold_s: float
    mute: bool = False
    answers: bool = True


@dataclass(slots=True)
class Holding:
    group: LeaseGroup
    fate: Fate
    began: float
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.began + self.fate.hold_s


def fate_of(rng: random.Random, lease_s: float) -> Fate:
    """Draw what becomes of an attempt, most of it close to the end of its lease."""
    draw = rng.random()
    if draw < 0.62:
        return Fate(rng.uniform(0, 0.02))
    if draw < 0.80:
        return Fate(rng.uniform(0.7, 1.4) * lease_s, mute=rng.random() < 0.7)
    if draw < 0.90:
        return Fate(rng.uniform(1.2, 3) * lease_s, mute=True)
    if draw < 0.94:
        return Fate(3 * lease_s, mute=True, answers=False)
    return Fate(rng.uniform(1, 2) * lease_s)  # longer than a lease, and renewed


def poison(seed: int, task: TaskId) -> str | None:
    """Return how a task always fails, `fatal` or `retryable`; None for those that succeed."""
    draw = random.Random(f"{seed}/poison/{task}").random()
    return ("fatal" if draw < POISONED / 2 else "retryable") if draw < POISONED else None


def content(key: AttemptKey) -> str:
    """What an attempt extracts names the attempt, so that the ledger shows whose bytes it took."""
    return f"{key.attempt}/{key.lease_token}"


def offer(lease: Lease, key: AttemptKey, seconds: float) -> Publication:
    """Return what `key` would publish of a lease; another key than the lease's is a forgery."""
    held = replace(lease, attempt=key.attempt, lease_token=key.lease_token)
    return replace(ledger.publication(held, content=content(key)), seconds={"extract": seconds})


def digest(task: TaskId, attempt: int, token: LeaseToken) -> str:
    """Return the digest of the file that an attempt publishes."""
    text = f"{content(AttemptKey(task, attempt, token))}{task}"
    return hashlib.sha256(text.encode()).hexdigest()


class Hands:
    """Leases in hand, and answers to come. One thread at a time."""

    def __init__(self, worker_id: WorkerId, seed: int, calm: Path) -> None:
        self._worker_id = worker_id
        self._seed = seed
        self._calm = calm
        self._rng = random.Random(f"{seed}/{worker_id}")
        self._holdings: list[Holding] = []
        self._finished: dict[AttemptKey, Outcome] = {}
        self._old: deque[tuple[Lease, Outcome]] = deque(maxlen=300)
        self._tokens: defaultdict[TaskId, dict[int, LeaseToken]] = defaultdict(dict)

    def place(self, groups: Iterable[LeaseGroup]) -> None:
        for group in groups:
            first = group.leases[0]
            rng = random.Random(f"{self._seed}/{first.task.task_id}/{first.attempt}")
            fate = Fate(0.0) if self._calm.exists() else fate_of(rng, group.ttl_s)
            self._holdings.append(Holding(group, fate, time.time()))
            for lease in group.leases:
                self._tokens[lease.task.task_id][lease.attempt] = lease.lease_token

    def tell(self, acknowledged: Iterable[AttemptKey]) -> Told:
        for key in acknowledged:
            self._finished.pop(key, None)
        now = time.time()  # whatever this clock says: only differences are used, and only durations are told
        noise: list[Outcome] = []
        for holding in [one for one in self._holdings if one.due <= now]:
            self._holdings.remove(holding)
            for lease in holding.group.leases if holding.fate.answers else ():
                outcome = self._outcome(lease, now - holding.began)
                self._finished[lease.key] = outcome
                self._old.append((lease, outcome))
                noise += self._noise(lease, outcome)
        running = [lease.key for one in self._holdings if not one.fate.mute for lease in one.group.leases]
        if self._old and not self._calm.exists():
            lease, outcome = self._rng.choice(self._old)
            noise.append(outcome)
            running.append(lease.key)  # a lease that is over is called alive
        held = Held(self._worker_id, tuple(running), tuple(self._finished.values()))
        return Told(held, tuple(noise), max(0, SLOTS - len(self._holdings)))

    def _outcome(self, lease: Lease, seconds: float) -> Outcome:
        kind = poison(self._seed, lease.task.task_id)
        if kind is not None:
            return ledger.failure(lease, retryable=kind == "retryable", message="this range is poison")
        draw = self._rng.random()
        if lease.attempt == 1 and draw < 0.04 and not self._calm.exists():
            return replace(ledger.failure(lease), infra=draw < 0.01, unreachable=0.01 < draw < 0.015)
        return offer(lease, lease.key, seconds)

    def _noise(self, lease: Lease, outcome: Outcome) -> Iterator[Outcome]:
        """Yield what arrives together with an outcome, and before it."""
        if self._calm.exists():
            return
        draw = self._rng.random()
        if draw < 0.1:
            yield outcome
        elif draw < 0.3:
            key = self._rng.choice(self._forgeries(lease))
            if self._rng.random() < 0.3:
                yield Failure(key, FORGED, "an attempt that nobody had", retryable=False)
            else:
                yield offer(lease, key, 0.0)

    def _forgeries(self, lease: Lease) -> list[AttemptKey]:
        """Return keys that are not the lease's, and yet nearly."""
        key, known = lease.key, self._tokens[lease.task.task_id]
        before = key.attempt - 1
        return [
            replace(key, lease_token=LeaseToken(uuid4())),
            replace(key, lease_token=known.get(before, LeaseToken(uuid4()))),
            replace(key, attempt=max(1, before) if before else 2),
            replace(key, attempt=key.attempt + 1),
        ]


def serve(hands: Hands, lock: threading.Lock, connection: "Connection[Told, Place | Ask]") -> None:
    """Answer one dispatcher until it is gone."""
    while True:
        try:
            message = connection.recv()
            with lock:
                match message:
                    case Place(groups):
                        hands.place(groups)
                    case Ask(acknowledged):
                        connection.send(hands.tell(acknowledged))
        except (OSError, EOFError):
            return


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--calm", type=Path, required=True, help="while it exists, all is done well")
    parser.add_argument("--clock", type=float, default=0.0, help="seconds by which this process's clock is wrong")
    asked = parser.parse_args(arguments)
    real = time.time
    time.time = lambda: real() + asked.clock
    hands, lock = Hands(worker_of(asked.socket), asked.seed, asked.calm), threading.Lock()
    with Listener(str(asked.socket), family="AF_UNIX", backlog=16) as listener:
        while True:
            connection = listener.accept()
            threading.Thread(target=serve, args=(hands, lock, connection), daemon=True).start()
