"""Adversarial schedules: interleavings that chaos meets rarely, each played once and judged by the checker.

`python -m tests.chaos.schedules SERVER_URL` plays all of them on databases that it makes, with the packages of the
directory that it is started in, and prints one JSON document. So `tests.chaos.mutants` plays them against broken code.
"""

import argparse
import json
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psycopg
import psycopg.conninfo

import state
from state import jobs, migrate, outbox, tasks
from state.db import FENCED, Connection, ensure_database
from tests.chaos import checker, ledger_run, life
from tests.chaos.arena import Arena, forgeries
from tests.chaos.checker import Invariant, Violation
from tests.chaos.ledger_worker import FORGED, offer
from tests.chaos.ledger_world import SINK
from tests.integration.state.ledger import NO_WAIT, POOL, Ledger, failure
from trace_ray.contracts import Failure, Lease, TaskId, WorkerId
from trace_ray.retry import RetryPolicy

WORKER: Final = WorkerId("w/0.0")
BLOCKED_S: Final = 2.0  # by then the other side has finished, or waits for a lock
TTL_S: Final = 60.0
RETRIES: Final = RetryPolicy(0.0, 0.0, 3, 3)
AT_REST: Final = (*checker.ALWAYS, *ledger_run.OWN)

Act = Callable[[Ledger], object]


# --- forged and stale keys ----------------------------------------------------------------------------------------


def forged_completions(arena: Arena) -> None:
    """Completions with nearly the right key, before the right one and after it."""
    ledger = arena.lead()
    for number in range(5):
        old, new = arena.twice(ledger)
        forged = forgeries(old, new)[number]
        ledger.complete(offer(new, forged, 0.0))
        ledger.complete(offer(new, new.key, 0.0), offer(new, forged, 0.0))
        ledger.complete(offer(new, forged, 0.0))


def forged_failures(arena: Arena) -> None:
    """Failures with nearly the right key."""
    ledger = arena.lead()
    for number in range(5):
        old, new = arena.twice(ledger)
        ledger.fail(Failure(forgeries(old, new)[number], FORGED, "an attempt that nobody had", retryable=False))
        ledger.complete(offer(new, new.key, 0.0))


def forged_renewals(arena: Arena) -> None:
    """Heartbeats and adoptions with nearly the right key: an old holder must not keep a lease alive."""
    ledger = arena.lead()
    for number in range(5):
        old, new = arena.twice(ledger)
        forged, before = forgeries(old, new)[number], arena.contents()
        with ledger.conn.transaction():
            tasks.heartbeat(ledger.conn, ledger.epoch, [forged], ttl_s=10 * TTL_S)
        with ledger.conn.transaction():
            tasks.adopt(ledger.conn, ledger.epoch, {WORKER: [forged]}, ttl_s=10 * TTL_S)
        if arena.contents() != before:
            arena.blame("forged_renewal", "only the holder of a lease keeps it alive", {"forgery": number})
        ledger.complete(offer(new, new.key, 0.0))


def same_completion_at_once(arena: Arena) -> None:
    """The same completion three times at once, on three connections."""
    ledger = arena.lead()
    ledger.sync(arena.job())
    lease = ledger.lease()
    others = [Ledger(arena.connect(), ledger.epoch) for _ in range(3)]
    threads = [threading.Thread(target=one.complete, args=[offer(lease, lease.key, 0.0)]) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- dispatchers --------------------------------------------------------------------------------------------------


def zombie_dispatcher(arena: Arena) -> None:
    """A dispatcher that was paused while another took over does all that it can, each time after the fence."""
    _zombie(arena, fenced=True)


def zombie_without_fence(arena: Arena) -> None:
    """The same by statements that forgot the fence."""
    _zombie(arena, fenced=False)


def _zombie(arena: Arena, *, fenced: bool) -> None:
    old = arena.lead("one/chaos/1")
    old.sync(arena.job(ranges=8))
    held, freed = (old.lease(worker=f"w/{number}.0") for number in (1, 2))
    old.lease(ttl_s=-1)
    new = arena.lead("one/chaos/2")
    leased = new.lease()
    new.complete(offer(leased, leased.key, 0.0))
    waiting = arena.job()
    with new.conn.transaction():
        jobs.apply(new.conn, waiting)
        jobs.record_head(new.conn, new.epoch, POOL, waiting.chain_id, 10**6)
    acts: Mapping[str, Act] = {
        "claim": lambda one: tasks.claim(one.conn, one.epoch, [WORKER], ttl_s=TTL_S),
        "complete": lambda one: tasks.complete(one.conn, one.epoch, [offer(held, held.key, 0.0)], policy=NO_WAIT),
        "fail": lambda one: tasks.fail(
            one.conn, one.epoch, [Failure(freed.key, FORGED, "a zombie", retryable=True)], policy=NO_WAIT
        ),
        "heartbeat": lambda one: tasks.heartbeat(one.conn, one.epoch, [held.key], ttl_s=10 * TTL_S),
        "free": lambda one: tasks.free(one.conn, one.epoch, [WorkerId("w/2.0")], policy=NO_WAIT),
        "adopt": lambda one: tasks.adopt(one.conn, one.epoch, {WORKER: [held.key]}, ttl_s=TTL_S),
        "reap": lambda one: tasks.reap(one.conn, one.epoch, policy=NO_WAIT),
        "head": lambda one: jobs.record_head(one.conn, one.epoch, POOL, waiting.chain_id, 10**7),
        "plan": lambda one: jobs.plan(one.conn, one.epoch),
        "drain": lambda one: outbox.drain(
            one.conn, one.epoch, {"dataset.published": _nothing}, limit=10, policy=RETRIES
        ),
    }
    for name, act in acts.items():
        before = arena.contents()
        try:
            with old.conn.transaction():
                if fenced:
                    tasks.fence(old.conn, old.epoch, TTL_S)
                act(old)
        except psycopg.Error as error:
            if error.sqlstate != FENCED:
                raise
        if arena.contents() != before:
            arena.blame("zombie_wrote", "a dispatcher of an older epoch changes nothing", {"by": name})


def _nothing(_conn: Connection, _events: object) -> None:
    return


# --- against an operator, who needs no fence ----------------------------------------------------------------------


def cancelled_meanwhile(arena: Arena) -> None:
    """An operator cancels a leased task; before that commits, a dispatcher acts on what it still sees."""
    acts: Sequence[tuple[float, Callable[[Ledger, Lease], object]]] = (
        (-1.0, lambda one, _: tasks.reap(one.conn, one.epoch, policy=NO_WAIT)),
        (TTL_S, lambda one, lease: tasks.complete(one.conn, one.epoch, [offer(lease, lease.key, 0.0)], policy=NO_WAIT)),
        (TTL_S, lambda one, lease: tasks.fail(one.conn, one.epoch, [failure(lease)], policy=NO_WAIT)),
        (TTL_S, lambda one, lease: tasks.heartbeat(one.conn, one.epoch, [lease.key], ttl_s=10 * TTL_S)),
        (TTL_S, lambda one, lease: tasks.adopt(one.conn, one.epoch, {WORKER: [lease.key]}, ttl_s=TTL_S)),
        (TTL_S, lambda one, _: tasks.free(one.conn, one.epoch, [WORKER], policy=NO_WAIT)),
    )
    for ttl_s, act in acts:
        ledger = arena.lead()
        ledger.sync(arena.job())
        lease = ledger.lease(ttl_s=ttl_s)
        _while_cancelling(arena, ledger, lease.task.task_id, lambda one, act=act, lease=lease: act(one, lease))


def claimed_while_cancelled(arena: Arena) -> None:
    """An operator cancels a queued task; before that commits, a dispatcher leases what it still sees."""
    ledger = arena.lead()
    ledger.sync(arena.job())
    task = TaskId(ledger.rows(b"SELECT task_id FROM state.tasks")[0]["task_id"])
    _while_cancelling(arena, ledger, task, lambda one: tasks.claim(one.conn, one.epoch, [WORKER], ttl_s=TTL_S))


def _while_cancelling(arena: Arena, ledger: Ledger, task: TaskId, act: Act) -> None:
    """Let a dispatcher act between the statement of an operator and its commit."""
    errors: list[Exception] = []

    def acting() -> None:
        try:
            with ledger.conn.transaction():
                tasks.fence(ledger.conn, ledger.epoch, TTL_S)
                act(ledger)
        except Exception as error:  # noqa: BLE001 - told by the caller's thread
            errors.append(error)

    operator, thread = arena.connect(), threading.Thread(target=acting)
    with operator.transaction():
        tasks.cancel(operator, [task])
        thread.start()
        _await_blocked(arena, ledger.conn, thread)
    thread.join()
    for error in errors:
        raise error
    found = ledger.rows(b"SELECT state, attempt FROM state.tasks WHERE task_id = %s::uuid", task)
    if found[0]["state"] != "cancelled":
        arena.blame("cancelled_stays_cancelled", "what an operator cancelled stays so", {"task_id": task, **found[0]})


def _await_blocked(arena: Arena, conn: Connection, thread: threading.Thread) -> None:
    """Wait until the other side has finished or waits for a lock."""
    waits = "SELECT FROM pg_stat_activity WHERE pid = %s::int AND wait_event_type = 'Lock'"
    give_up = time.monotonic() + BLOCKED_S
    with psycopg.connect(arena.url, autocommit=True) as watcher:
        while thread.is_alive() and time.monotonic() < give_up:
            if watcher.execute(waits, (conn.info.backend_pid,)).fetchone() is not None:
                return
            time.sleep(0.005)


# --- the registry -------------------------------------------------------------------------------------------------


def covered_twice(arena: Arena) -> None:
    """Two jobs came to plan the same blocks of one dataset, which `apply` refuses; both publish.

    Their ranges are the same, or of other lengths, which no unique key can keep apart; they arrive in one transaction
    or one after another.
    """
    for chunk_size in (10, 15):
        for at_once in (True, False):
            _cover_twice(arena, chunk_size=chunk_size, at_once=at_once)


def _cover_twice(arena: Arena, *, chunk_size: int, at_once: bool) -> None:
    ledger = arena.lead()
    first = ledger.sync(arena.job(ranges=3))
    second = arena.job(ranges=2, chunk_size=chunk_size)
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, second)
        ledger.conn.execute(SAME_DATASET, {"first": first.job_id, "second": second.job_id})
        jobs.record_head(ledger.conn, ledger.epoch, POOL, second.chain_id, 10**6)
    ledger.plan()
    offers = [offer(lease, lease.key, 0.0) for group in ledger.claim(slots=8) for lease in group.leases]
    for batch in [offers] if at_once else [[one] for one in offers]:
        ledger.complete(*batch)


SAME_DATASET: Final = """
    UPDATE state.streams s SET dataset_uuid = o.dataset_uuid, config_hash = o.config_hash
    FROM state.streams o WHERE o.job_id = %(first)s::uuid AND s.job_id = %(second)s::uuid
"""

SCHEDULES: Final[Mapping[str, tuple[Callable[[Arena], None], Sequence[Invariant]]]] = {
    "forged completions": (forged_completions, AT_REST),
    "forged failures": (forged_failures, AT_REST),
    "forged renewals": (forged_renewals, AT_REST),
    "same completion at once": (same_completion_at_once, AT_REST),
    "zombie dispatcher": (zombie_dispatcher, AT_REST),
    "zombie without fence": (zombie_without_fence, AT_REST),
    "cancelled meanwhile": (cancelled_meanwhile, AT_REST),
    "claimed while cancelled": (claimed_while_cancelled, AT_REST),
    "covered twice": (covered_twice, AT_REST),
    "death at every statement": (
        life.death_at_every_statement,
        (*AT_REST, *checker.SINK, *checker.DRAINED),
    ),
}


@dataclass(frozen=True)
class Played:
    """One schedule: what broke, by name, and in words."""

    schedule: str
    seconds: float
    violations: tuple[str, ...]
    told: tuple[str, ...]


def play(server_url: str, names: Sequence[str] = ()) -> list[Played]:
    """Play schedules, each on a fresh database of a server."""
    template = f"template_{secrets.token_hex(6)}"
    ensure_database(server_url, template)
    migrate.migrate(conninfo(server_url, template), "state")
    with psycopg.connect(conninfo(server_url, template), autocommit=True) as conn:
        conn.execute(SINK)
    return [_play(server_url, template, name) for name in names or SCHEDULES]


def _play(server_url: str, template: str, name: str) -> Played:
    act, invariants = SCHEDULES[name]
    began = time.monotonic()
    database = f"schedule_{secrets.token_hex(6)}"
    ensure_database(server_url, database, template=template)
    url = conninfo(server_url, database)
    found: list[Violation] = []
    with Arena(url) as arena:
        try:
            act(arena)
        except Exception as error:  # noqa: BLE001 - an error that nobody foresaw is a finding like any other
            arena.blame("unexpected_error", "the ledger raises only what it promises", {"error": repr(error)})
        found += arena.found
    found += checker.violations(url, invariants) + ledger_run.foreign_bytes(url)
    seconds = time.monotonic() - began
    return Played(name, seconds, tuple(dict.fromkeys(one.name for one in found)), tuple(map(str, found)))


def conninfo(server_url: str, database: str) -> str:
    return psycopg.conninfo.make_conninfo(server_url, dbname=database)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.schedules", description=__doc__)
    parser.add_argument("server_url", help="of a database of a running server; others are made beside it")
    parser.add_argument("names", nargs="*", help="schedules to play instead of all")
    asked = parser.parse_args()
    if Path(state.__file__).parents[1] != Path.cwd():
        raise RuntimeError(f"the packages of {Path.cwd()} were to be played against, not those of {state.__file__}")
    logging.disable(logging.WARNING)  # dead connections are part of the play
    played = play(asked.server_url, asked.names)
    print(json.dumps([asdict(one) for one in played]))
    return int(any(one.violations for one in played))


if __name__ == "__main__":
    sys.exit(main())
