"""A lease that is lost stops its sandbox: a Dispatcher's term, an evaluator and real sandboxes, in one process."""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors import wire
from actors.crew import Crew
from actors.dispatcher import Dispatcher, HeadAnswer, Timing
from actors.leased import Leased
from actors.orders import Evaluated, EvaluationGroup
from actors.runtime import EVALUATOR_PREFIX
from actors.term import DispatcherStatus, Evaluators, Term
from actors.worker import Held, Worker
from state import bundles, rules
from state.db import Connection, Database, connect
from tests import pg
from tests.bundles import key
from tests.conftest import wait_until
from tests.integration.evaluated import World, unserved
from tests.integration.sandbox import arena
from tests.integration.state.ledger import NO_WAIT
from tests.unit.actors.handles import NEW, Handle, Method
from trace_ray.alerts import Rule
from trace_ray.bundle.keys import keyid_of, public_bytes
from trace_ray.contracts import DEFAULT_ORG, AttemptKey, HeadRequest, WorkerId
from trace_ray.lite.postgres import LocalPostgres

EVALUATIONS = 6  # of a rule over the published blocks
SLEEPER = """
import time

def handler(event, context):
    context.trace.emit([{"emitted": "before the lease was lost"}])
    print("asleep", flush=True)
    time.sleep(30)
"""


@dataclass
class Remote:
    """An Evaluator actor as the Dispatcher meets it; its methods run in threads. `seen`: what that said at the end."""

    worker_id: WorkerId
    world: World
    ended: list[str] = field(default_factory=list)
    seen: DispatcherStatus | None = None

    def __post_init__(self) -> None:
        self.leased = Leased(self.world.evaluator.run)
        self.worker = Worker(self.worker_id, self.leased.run)
        self.run, self.held = Method(self._run), Method(self._held)
        self.withdraw, self.version = Method(self._withdraw), Method(lambda: NEW)
        self.head = Method(self._head)

    def _run(self, groups: bytes) -> bytes:
        done = self.worker.run(wire.groups(groups, EvaluationGroup))
        self.ended += [one.failure.kind for one in done if isinstance(one, Evaluated) and one.failure is not None]
        return wire.pack(done)

    def _held(self, acknowledged: bytes | Sequence[AttemptKey]) -> Held:
        self.leased.heard()
        return self.worker.held(wire.keys(acknowledged))

    def _withdraw(self, keys: bytes) -> None:
        self.leased.withdraw(wire.keys(keys))

    def _head(self, request: HeadRequest) -> HeadAnswer:
        raise AssertionError(request)


@pytest.fixture(scope="module")
def world(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Iterator[World]:
    with unserved(pg.fresh_database(postgres), tmp_path_factory.mktemp("stack"), workspace) as one:
        yield one


def nothing() -> None: ...


@contextmanager
def dispatched(world: World) -> Generator[Remote]:
    """Let a Dispatcher run evaluations on one evaluator with one slot, in a loop of its own."""
    remote = Remote(WorkerId("evaluator/0.0"), world)
    database = Database(world.url, application_name="trace-test")
    over = threading.Event()

    async def serve() -> None:
        wake = asyncio.Event()
        common: dict[str, Any] = {"silence_s": 60.0, "attempt_s": 600.0, "build": NEW, "wake": wake}
        ranges = Crew(Handle, lambda _: None, size=1, slots=1, **common)
        crew = Crew(lambda _: remote, lambda _: None, size=1, slots=1, prefix=EVALUATOR_PREFIX, **common)
        core = Dispatcher(
            database,
            holder="cluster/space/2",
            timing=Timing(lease_s=60.0, leader_s=60.0, policy=NO_WAIT),
            evaluations=world.evaluations,
        )
        sides = Evaluators(crew, begin=lambda: nothing, end=nothing, places=lambda: 1)
        term = Term(core, ranges, evaluators=sides, living=dict, record=lambda _: None)
        running = asyncio.create_task(term.run())
        await asyncio.to_thread(over.wait)
        remote.seen = term.status
        await term.stop(drain_s=10)
        await running

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield remote
    finally:
        over.set()
        thread.join(30)
        database.close()


def test_a_dispatcher_that_is_not_heard_of_for_a_lease_has_lost_it(world: World) -> None:
    now = [0.0]
    leased = Leased(world.evaluator.run, clock=lambda: now[0])
    world.watch("silent", world.push(SLEEPER.replace("30", "29"), version="2.silent"))
    (group,) = world.lease()
    done: list[str] = []

    def run() -> None:
        done.extend(one.failure.kind for one in leased.run(group) if one.failure is not None)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: arena.carrying(b"alarm") != [], what="the handler")
    now[0] = group.lease.ttl_s
    leased.heard()
    now[0] = 2 * group.lease.ttl_s
    thread.join(1)
    assert thread.is_alive(), "it was heard of one lease ago, and no more"
    now[0] += 1
    thread.join(20)
    assert done == ["lost_lease"]
    assert arena.survivors("alarm") == []
    with world.service.conn.transaction():
        rules.pause(world.service.conn, DEFAULT_ORG, "silent")


def pause(conn: Connection, rule: Rule) -> None:
    rules.pause(conn, DEFAULT_ORG, rule.name)


def revoke_bundle(conn: Connection, rule: Rule) -> None:
    bundles.revoke(conn, DEFAULT_ORG, rule.bundle)


def revoke_key(conn: Connection, rule: Rule) -> None:
    bundles.revoke(conn, DEFAULT_ORG, keyid_of(public_bytes(key())))


def give_to_another(conn: Connection, rule: Rule) -> None:
    conn.execute(
        "UPDATE state.tasks SET attempt = attempt + 1, lease_token = gen_random_uuid(), worker_id = 'evaluator/9.0'"
        " WHERE kind = 'evaluation' AND state = 'running' AND job_id = %s",
        (rule.rule_id,),
    )
    rules.pause(conn, DEFAULT_ORG, rule.name)  # so that no other of its evaluations is leased in this test


@pytest.mark.parametrize("order", [pause, revoke_bundle, give_to_another, revoke_key])  # what is revoked stays so
def test_a_lost_lease_kills_the_sandbox_and_publishes_nothing(
    world: World, order: Callable[[Connection, Rule], None]
) -> None:
    name = order.__name__
    rule = world.watch(name, world.push(SLEEPER + f"#{name}\n", version=f"1.{name.replace('_', '.')}"))
    with dispatched(world) as remote:
        wait_until(lambda: arena.carrying(b"alarm") != [], what="the handler")
        with connect(world.url, application_name="trace-test") as conn, conn.transaction():
            order(conn, rule)
        wait_until(lambda: bool(remote.ended), what="the end of the attempt", timeout_s=20)
        if order is revoke_key:  # the next lease of each evaluation says so
            wait_until(lambda: world.report(name)[0]["dead"] == EVALUATIONS, what="the other evaluations", timeout_s=20)

    assert remote.ended == ["lost_lease"]
    assert remote.seen is not None
    assert [one["worker_id"] for one in remote.seen.workers] == ["cryo/0.0"]
    assert [one["worker_id"] for one in remote.seen.evaluators] == ["evaluator/0.0"]
    assert arena.survivors("alarm") == []
    assert list(world.objects.list("batches/")) == []
    assert world.sink().messages == 0
    counts, troubles = world.report(name)
    assert counts["succeeded"] == 0
    assert {one.partition(":")[0] for one in troubles} == ({"bundle_rejected"} if order is revoke_key else set())
