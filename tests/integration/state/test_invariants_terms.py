"""Invariant 19: what the Dispatcher writes presents its epoch. An older one writes nothing, whatever it uses."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from types import ModuleType
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from actors.dispatcher import HANDLERS, Dispatcher, Inbox, Timing
from state import buffer, evaluations, jobs, outbox, tasks
from state.db import Connection, Database, statements
from tests.conftest import wait_until
from tests.integration.state import watching
from tests.integration.state.effects import EVERYTHING
from tests.integration.state.ledger import CHAIN, NO_WAIT, POLICY, POOL, Ledger, failure, job, publication, stream
from trace_ray.contracts import AttemptKey, Failure, WorkerId
from trace_ray.errors import FencedError, StoreUnavailable

FILES = sorted(file.name.removesuffix(".sql") for file in files("state").joinpath("sql").iterdir())

# Statements that write and present no epoch, and why they need none. A new one has to be judged before it stands here.
OPERATOR = "by order of a person, at any time, whoever leads"
RECEIPT = "consumers are fenced by the receipt of their delivery"
AFTER = "only after a statement of the same transaction that presents the epoch"
QUERIES = "database `data`: the query service writes there, no Dispatcher"
UNFENCED = {
    **dict.fromkeys(
        (
            *("jobs.save_organisation", "jobs.save_job", "jobs.free_names", "jobs.save_datasets", "jobs.save_streams"),
            *("jobs.disable_streams", "jobs.set_enabled", "tasks.cancel", "tasks.replay", "outbox.replay"),
            *("repair.requeue", "repair.plan", "repair.withdraw", "sweep.bind", "buffer.replay"),
            *("evaluations.replay", "evaluations.restore"),
            *("readers.save", "readers.enable", "readers.set_read_roles"),
            *("rules.save", "rules.drop_datasets", "rules.add_datasets", "rules.set_enabled"),
            "rules.revise",
            *("bundles.trust", "bundles.revoke_key", "bundles.push", "bundles.revoke_bundle", "bundles.sign_again"),
        ),
        OPERATOR,
    ),
    **dict.fromkeys(
        ("buffer.receive", "buffer.extend", "buffer.ack", "buffer.nack", "buffer.reject", "buffer.bury"), RECEIPT
    ),
    **dict.fromkeys(("jobs.add_ranges", "tasks.add_files", "tasks.replace"), AFTER),
    "evaluations.add": f"{AFTER}, or {OPERATOR}",
    **dict.fromkeys(("audit.record", "audit.save_result", "audit.forget", "audit.forget_old"), QUERIES),
    "retractions.announce": AFTER,
    "retractions.announce_late": f"with an acknowledgement: {RECEIPT}",
    "alerts.add": "database `data`: the sink writes there, and the same event again changes nothing",
    **dict.fromkeys(
        ("deliveries.create", "deliveries.take_back"),
        "database `data`: one per event and channel, whoever asks and however often",
    ),
    "outbox.append": "part of its cause, which is fenced or ordered by a person",
    "tasks.take_over": "makes the epoch",
}
SILENT = {"tasks.release"}  # ends its own term only: of an older epoch nothing is left to end


def fenced() -> dict[str, bytes]:
    """Return every statement that presents an epoch."""
    return {name: body for name, body in every_statement().items() if b"%(epoch)s" in body}


def every_statement() -> dict[str, bytes]:
    return {f"{file}.{name}": body for file in FILES for name, body in statements(file).items()}


def test_19_every_write_presents_an_epoch_or_a_reason() -> None:
    writes = {
        name
        for name, body in every_statement().items()
        if re.search(rb"\b(INSERT INTO|UPDATE state|DELETE FROM)\b", body)
    }
    assert writes - fenced().keys() == UNFENCED.keys()


@pytest.fixture
def overtaken(ledger: Ledger) -> Ledger:
    """A term with tasks in every live state, and another one that began since."""
    ledger.sync(job(stream("blocks", max_inflight=4), stream("logs", max_inflight=4)))
    ledger.complete(publication(ledger.lease()))
    ledger.claim(worker="w/1.0")
    ledger.claim(worker="w/2.0", ttl_s=-1)
    watching.watch(ledger, watching.rule())
    watching.backfill(ledger, watching.rule())
    assert len(watching.claim(ledger, worker="w/3.0")) == 1
    newer = Ledger.lead(ledger.conn, holder="cluster/space/2")
    assert newer.epoch == ledger.epoch + 1
    return ledger


def running(ledger: Ledger) -> list[AttemptKey]:
    rows = ledger.rows(b"SELECT * FROM state.tasks WHERE state = 'running' AND kind = 'sync' ORDER BY task_id")
    return [AttemptKey(row["task_id"], row["attempt"], row["lease_token"]) for row in rows]


def parameters(ledger: Ledger) -> Mapping[str, object]:
    """Return one value for each parameter name of a fenced statement, chosen so that there is something to write."""
    keys = running(ledger)
    each = len(keys)
    return {
        "epoch": ledger.epoch,
        "tasks": [key.task_id for key in keys],
        "attempts": [key.attempt for key in keys],
        "tokens": [key.lease_token for key in keys],
        "workers": ["w/1.0"] * each,
        "slots": ["w/3.0", "w/4.0"],
        "except": list[str](),
        "ttl": timedelta(seconds=600),
        "base": timedelta(seconds=1),
        "cap": timedelta(seconds=9),
        "now": None,
        "more": 32,
        "alone": 2,
        "seed": b"s",
        "limit": 100,
        "max_attempts": 3,
        "max_infra": 3,
        "max_deliveries": 3,
        "retryable": [True] * each,
        "infra": [False] * each,
        "errors": ["{}"] * each,
        "rows": [1] * each,
        "digests": ["d"] * each,
        "parents": [b"p"] * each,
        "ends": [b"e"] * each,
        "versions": [uuid4() for _ in keys],
        "certificates": [Jsonb({})] * each,
        "seconds": [Jsonb({})] * each,
        "topics": ["dataset.published"] * each,
        "ids": [1000 + number for number in range(each)],
        "messages": [uuid4() for _ in keys],
        "queues": ["q"] * each,
        "keys": [f"key/{number}" for number in range(each)],
        "payloads": [Jsonb({})] * each,
        "pool": POOL,
        "chain_id": CHAIN,
        "head": 20_000,
        "error": "no answer",
        "durations": Jsonb({}),
        "task": evaluation(ledger).task_id,
        "attempt": evaluation(ledger).attempt,
        "token": evaluation(ledger).lease_token,
    }


def evaluation(ledger: Ledger) -> AttemptKey:
    """Return the attempt of the running evaluation."""
    query = b"SELECT task_id, attempt, lease_token FROM state.tasks WHERE kind = 'evaluation' AND state = 'running'"
    (row,) = ledger.rows(query)
    return AttemptKey(row["task_id"], row["attempt"], row["lease_token"])


@pytest.mark.parametrize("name", sorted(fenced()))
def test_19_epoch_fences_every_statement(overtaken: Ledger, state_url: str, name: str) -> None:
    before, zombie = overtaken.rows(EVERYTHING), Database(state_url, application_name="zombie")
    values = parameters(overtaken)
    if name in SILENT:
        with zombie.transaction() as conn:
            conn.execute(fenced()[name], values)
    else:
        with pytest.raises(FencedError), zombie.transaction() as conn:
            conn.execute(fenced()[name], values)
    assert overtaken.rows(EVERYTHING) == before
    with zombie.transaction() as conn:  # the epoch alone is what was wrong
        conn.execute(fenced()[name], {**values, "epoch": overtaken.epoch + 1})
    zombie.close()


def calls(ledger: Ledger) -> dict[str, Callable[[Connection], object]]:
    """Return a call of each function that presents an epoch."""
    epoch, keys = ledger.epoch, running(ledger)
    (lease, *_), *_ = (group.leases for group in Ledger(ledger.conn, newest(ledger)).claim())
    batch = buffer.Batch(lease.key, "q", "uri", {})
    leading = newest(ledger)
    outbox.append(ledger.conn, outbox.Event("task.dead", "dead/nobody/1", {}))

    def refuse(_conn: Connection, _events: Sequence[outbox.Event]) -> None:
        raise StoreUnavailable("no answer")

    return {
        "buffer.publish": lambda conn: buffer.publish(conn, epoch, [batch], max_deliveries=3),
        "evaluations.claim_evaluations": lambda conn: evaluations.claim_evaluations(
            conn, epoch, [WorkerId("w")], ttl_s=60
        ),
        "evaluations.complete_evaluation": lambda conn: evaluations.complete_evaluation(
            conn, epoch, evaluation(ledger), None, max_deliveries=3
        ),
        "evaluations.fail_evaluations": lambda conn: evaluations.fail_evaluations(
            conn, epoch, [Failure(evaluation(ledger), "crash", "crash", True)], policy=POLICY
        ),
        "evaluations.withdraw": lambda conn: evaluations.withdraw(conn, epoch, [evaluation(ledger)]),
        "jobs.doubt_heads": lambda conn: jobs.doubt_heads(conn, epoch, [keys[0].task_id]),
        "jobs.lock_cursors": lambda conn: jobs.lock_cursors(conn, epoch),
        "jobs.plan": lambda conn: jobs.plan(conn, epoch),
        "jobs.record_head": lambda conn: jobs.record_head(conn, epoch, POOL, CHAIN, 1),
        "jobs.record_head_error": lambda conn: jobs.record_head_error(conn, epoch, POOL, CHAIN, "no answer"),
        "outbox.drain": lambda conn: outbox.drain(conn, epoch, HANDLERS, limit=10, policy=POLICY),
        "outbox.handle": lambda conn: outbox.handle(
            conn, epoch, outbox.take(conn, leading, ["task.dead"], limit=10), {"task.dead": refuse}, policy=POLICY
        ),
        "outbox.take": lambda conn: outbox.take(conn, epoch, ["task.dead"], limit=10),
        "tasks.adopt": lambda conn: tasks.adopt(conn, epoch, {WorkerId("w"): keys}, ttl_s=60),
        "tasks.begin_claim": lambda conn: tasks.begin_claim(conn, epoch, [WorkerId("w")], ttl_s=60),
        "tasks.claim": lambda conn: tasks.claim(conn, epoch, [WorkerId("w")], ttl_s=60),
        "tasks.complete": lambda conn: tasks.complete(conn, epoch, [publication(lease)], policy=POLICY),
        "tasks.fail": lambda conn: tasks.fail(conn, epoch, [failure(lease)], policy=POLICY),
        "tasks.fence": lambda conn: tasks.fence(conn, epoch, 60),
        "tasks.free": lambda conn: tasks.free(conn, epoch, [WorkerId("w/1.0")], policy=POLICY),
        "tasks.free_older": lambda conn: tasks.free_older(conn, epoch, except_workers=[], policy=POLICY),
        "tasks.heartbeat": lambda conn: tasks.heartbeat(conn, epoch, keys, ttl_s=999),
        "tasks.reap": lambda conn: tasks.reap(conn, epoch, policy=NO_WAIT),
    }


def newest(ledger: Ledger) -> tasks.Epoch:
    return tasks.Epoch(int(str(ledger.one(b"SELECT epoch FROM state.dispatcher"))))


def test_19_epoch_fences_every_function(overtaken: Ledger, state_url: str) -> None:
    made = calls(overtaken)
    assert made.keys() == {*taking_an_epoch(buffer, evaluations, jobs, outbox, tasks)} - {*SILENT}
    before, zombie = overtaken.rows(EVERYTHING), Database(state_url, application_name="zombie")
    for name, call in made.items():
        with pytest.raises(FencedError), zombie.transaction() as conn:
            call(conn)
        assert overtaken.rows(EVERYTHING) == before, name
    with zombie.transaction() as conn:
        tasks.release(conn, overtaken.epoch)
    assert overtaken.rows(EVERYTHING) == before
    zombie.close()


def taking_an_epoch(*modules: ModuleType) -> list[str]:
    """Return the public functions of these ledgers that have a parameter `epoch`."""
    return [
        f"{module.__name__.removeprefix('state.')}.{name}"
        for module in modules
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
        if "epoch" in inspect.signature(one).parameters
    ]


def test_19_epoch_fences_zombie_dispatcher(ledger: Ledger, state_url: str) -> None:
    """D1 sleeps past its term, D2 takes over, D1 wakes with results in its hands."""
    short = Timing(lease_s=30.0, leader_s=2.0, policy=POLICY)
    database = Database(state_url, application_name="first")
    first = Dispatcher(database, holder="cluster/space/1", timing=short)
    assert first.lead()
    second = Dispatcher(Database(state_url, application_name="second"), holder="other/space/1", timing=short)
    assert not second.lead()
    slots = (WorkerId("w/0.0"),)
    ledger = Ledger(ledger.conn, first.epoch)
    ledger.sync(job(stream("blocks", max_inflight=1)))
    (group,) = first.tick(Inbox(slots=slots), now=0.0).groups
    wait_until(second.lead, what="the end of the first term")
    before = ledger.rows(EVERYTHING)
    inbox = Inbox(outcomes=(publication(group.leases[0]),), alive=(group.leases[0].key,), slots=slots)
    for write in (lambda: first.tick(inbox, now=100.0), lambda: first.settle(inbox), lambda: first.recover({}, ())):
        with pytest.raises(FencedError):
            write()
        assert ledger.rows(EVERYTHING) == before
    first.resign()
    assert ledger.rows(EVERYTHING) == before
    assert [one.attempt for one in second.tick(inbox, now=0.0).published] == [group.leases[0].key]
    database.close()
