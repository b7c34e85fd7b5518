"""The load run: one honest client alone, then the honest clients of a crowd, then all of it with its attackers."""

import itertools
import random
import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from state.db import Connection
from tests.conftest import wait_until
from tests.integration.query.prey import roaming
from tests.load.asking import BUSY, HUNG_UP, Client, Expected, is_repeatable
from tests.load.service import SETTLE_S, Holdings, Service, serving
from tests.query_corpus.corpus import analyst, features, hostile
from tests.served import Served, publish, settings_for

CLIENTS = 32
PAUSE_S = 0.2  # of an honest client before its next question, in the mean; attackers make none
PATIENCES_S = (0.3, 1.0, 4.0, 10.0)  # attackers hang up after one of these
WARM_UP = 40  # benign questions of each of four clients before anything is measured
ANSWERED = 200
ENDS = {ANSWERED, HUNG_UP, 400, 413, 422, BUSY, 504}
CRASHED = 500  # a statement that ends its own process; anything else with this status is a bug


@dataclass
class Tally:
    """What came of the questions of one kind. Lists and counters are shared between threads."""

    seconds: list[float] = field(default_factory=list[float])
    statuses: Counter[int] = field(default_factory=Counter[int])
    wrong: list[str] = field(default_factory=list[str])

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.seconds + other.seconds, self.statuses + other.statuses, self.wrong + other.wrong)

    def percentile(self, percent: int) -> float:
        """Return seconds."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@dataclass
class Load:
    """What a run saw; `leaked` is empty when the service holds no more in the end than after the first third."""

    alone: Tally
    quiet: Tally  # the same honest clients without the attackers
    benign: Tally
    hostile: Tally
    before: Holdings
    after: Holdings

    @property
    def ratio(self) -> float:
        """Return how many times as long the slowest hundredth of the benign questions took because of the attackers."""
        return self.benign.percentile(99) / self.quiet.percentile(99)

    @property
    def wrong(self) -> list[str]:
        """Return the questions whose answer is not DuckDB's, or that ended as none may."""
        return [*self.alone.wrong, *self.quiet.wrong, *self.benign.wrong, *self.hostile.wrong]

    @property
    def leaked(self) -> str:
        return self.after.beyond(self.before)


def run(conn: Connection, url: str, directory: Path, *, seconds: float, quiet_s: float, seed: int) -> Load:
    """Run against a service of its own, over the database at `url` (fresh and migrated).

    Args:
        directory: For the objects, the scratch of the service, and what attackers would like to have.
        seconds: With all clients.
        quiet_s: With one honest client, and again with all of them and no attacker.
    """
    settings = settings_for(directory / "stack", url)
    ledger = publish(settings, conn)
    with serving(settings) as service, roaming(directory) as prey:
        served = Served(service.url, settings, conn, ledger, [])
        statements = [sql for sql in (*analyst(), *features()) if is_repeatable(sql)]
        paths = objects(settings.data_dir / "objects", served)
        expected = Expected(paths, statements)
        attacks = [one.sql for one in hostile(**prey.places(paths["devnet_blocks"][0]))]
        patiences_s = [min(seconds / 2, patience) for patience in PATIENCES_S]
        crowd = Crowd(service, served, expected, statements, attacks, seed, patiences_s)
        alone = crowd.alone(quiet_s)
        quiet, _ = crowd.together(quiet_s, attackers=False)
        first = crowd.together(seconds / 3)  # what the heap grows by for the largest answers is there from now on
        before = settled(service)
        rest = crowd.together(seconds * 2 / 3)
        after = settled(service)
        benign, hostile_ = (one + two for one, two in zip(first, rest, strict=True))
        hostile_.wrong += [f"a statement reached {peer}" for peer in prey.connections]
    return Load(alone, quiet, benign, hostile_, before, after)


def objects(root: Path, served: Served) -> dict[str, list[str]]:
    """Return the files of each dataset; the ledger of the run publishes each range once."""
    listed = served.get("/v1/datasets").json()["datasets"]
    served.client.close()  # a service with an open connection has not settled
    return {one["name"]: sorted(map(str, root.rglob(f"{one['dataset_id']}/*/*/*.parquet"))) for one in listed}


def settled(service: Service) -> Holdings:
    """Wait until nothing runs any more, and count. What does not settle is seen in the numbers."""
    try:
        wait_until(service.is_settled, what="the end of all questions", timeout_s=SETTLE_S)
    except TimeoutError as error:
        print(error)
    return service.holdings()


@dataclass
class Crowd:
    """The clients of a run. Each is a user of its own and draws its questions from a seed of its own."""

    service: Service
    served: Served
    expected: Expected
    benign: Sequence[str]
    hostile: Sequence[str]
    seed: int
    patiences_s: Sequence[float] = PATIENCES_S

    def alone(self, seconds: float) -> Tally:
        """One honest client, after a warm-up of the pool and of its verdicts."""
        tokens = [self.served.token(f"early-{number}") for number in range(4)]
        with ThreadPoolExecutor(4) as threads:  # every process of the pool has been used
            list(threads.map(self._warm_up, tokens, range(4)))
        tally = Tally()
        self._honest(self.served.token("quiet"), random.Random(self.seed), tally, timer(seconds), pause_s=0)
        return tally

    def together(self, seconds: float, *, attackers: bool = True) -> tuple[Tally, Tally]:
        """All clients, every second one an attacker; or only those that are none."""
        benign, attacks = Tally(), Tally()
        tokens = [self.served.token(f"client-{number}") for number in range(CLIENTS)]
        stop = timer(seconds)
        with ThreadPoolExecutor(CLIENTS) as threads:
            asking = [
                threads.submit(act, token, random.Random(f"{self.seed}/{number}"), tally, stop)
                for number, (token, (act, tally)) in enumerate(
                    zip(tokens, itertools.cycle(((self._honest, benign), (self._attack, attacks))), strict=False)
                )
                if attackers or act == self._honest
            ]
            for one in asking:
                one.result()
        return benign, attacks

    def _warm_up(self, token: str, number: int) -> None:
        client = Client(self.service.url, token)
        for sql in self.benign[number::4][:WARM_UP]:
            client.ask(sql)
        client.close()

    def _honest(
        self, token: str, draw: random.Random, tally: Tally, stop: threading.Event, pause_s: float = PAUSE_S
    ) -> None:
        client = Client(self.service.url, token)
        while not stop.wait(draw.uniform(0, 2 * pause_s)):
            sql = draw.choice(self.benign)
            reply = client.answered(sql, stop)
            if reply.status == BUSY:
                break  # the run is over before there was an answer
            tally.statuses[reply.status] += 1
            tally.seconds.append(reply.seconds)
            if reply.status != ANSWERED or self.expected.differs(sql, reply.body):
                tally.wrong.append(f"{reply.status}: {sql[:200]}")
        client.close()

    def _attack(self, token: str, draw: random.Random, tally: Tally, stop: threading.Event) -> None:
        client = Client(self.service.url, token)
        while not stop.is_set():
            sql = draw.choice(self.hostile)
            reply = client.ask(sql, patience_s=draw.choice(self.patiences_s), form="json")
            tally.statuses[reply.status] += 1
            tally.seconds.append(reply.seconds)
            crashed = reply.status == CRASHED and b'"WORKER_CRASH"' in reply.body
            if reply.status not in ENDS and not crashed:
                tally.wrong.append(f"{reply.status}: {sql[:200]}")
        client.close()


def timer(seconds: float) -> threading.Event:
    """Return an event that is set after so many seconds."""
    event = threading.Event()
    thread = threading.Timer(seconds, event.set)
    thread.daemon = True
    thread.start()
    return event
