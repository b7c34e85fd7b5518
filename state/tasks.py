"""The ledger of tasks: terms of the Dispatcher, leases, attempts and their ends.

Every write of a Dispatcher presents its epoch, every finishing write of an attempt its lease token (SPEC promise 3).
The caller owns the transaction and has fenced it with `fence`. FencedError comes from `Database.transaction`.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import Cursor

from state import arrays, offers
from state.db import Connection, Row, ask, statements, storable
from state.judge import FAILURES, Batch, Known, Reason, stale
from state.neighbours import Neighbours, spans
from trace_ray.contracts import (
    AttemptKey,
    BlockRange,
    DatasetUuid,
    Epoch,
    Failure,
    JobId,
    Lease,
    LeaseGroup,
    LeaseToken,
    Publication,
    Receipts,
    Task,
    TaskId,
    WorkerId,
)
from trace_ray.retry import RetryPolicy

SQL: Final = statements("tasks")

PICKED_MORE: Final = 32  # looked at beyond what the slots can take, so that the last group is rarely cut short
PART: Final = 96  # publications registered by one statement; the ids of more would not fit into a row of the outbox
ALONE_AFTER: Final = 2  # failures of a joint call; the last attempt shows which of its tasks is the bad one


@dataclass(frozen=True, slots=True)
class Settlement:
    """Whether the ledger took an outcome; `reason` says why not."""

    attempt: AttemptKey
    accepted: bool
    reason: Reason | None = None


# --- terms of the Dispatcher --------------------------------------------------------------------------------------


def take_over(conn: Connection, *, holder: str, ttl_s: float, build: str = "") -> Epoch | None:
    """Begin a term, or return None while a Dispatcher of another cluster leads.

    Args:
        holder: cluster/namespace/pid.
        build: Of the code that leads, so that another one notices.
    """
    parameters = {"holder": holder, "build": build, "ttl": timedelta(seconds=ttl_s)}
    row = conn.execute(SQL["take_over"], parameters).fetchone()
    return Epoch(row["epoch"]) if row else None


def release(conn: Connection, epoch: Epoch) -> None:
    """End a term, so that the next one may begin at once."""
    conn.execute(SQL["release"], {"epoch": epoch})


def fence(conn: Connection, epoch: Epoch, ttl_s: float) -> None:
    """Prove that the epoch leads, extend its term, and make take-overs wait for the end of this transaction."""
    conn.execute(SQL["fence"], {"epoch": epoch, "ttl": timedelta(seconds=ttl_s)})


def adopt(
    conn: Connection, epoch: Epoch, held: Mapping[WorkerId, Sequence[AttemptKey]], *, ttl_s: float
) -> list[AttemptKey]:
    """Take over what living workers hold and return the attempts that are still theirs."""
    pairs = [(worker_id, key) for worker_id, keys in held.items() for key in keys]
    if not pairs:
        return []
    rows = conn.execute(
        SQL["adopt"],
        {
            **_key_columns([key for _, key in pairs]),
            "workers": [worker_id for worker_id, _ in pairs],
            "epoch": epoch,
            "ttl": timedelta(seconds=ttl_s),
        },
    )
    return [_key(row) for row in rows]


def free_older(conn: Connection, epoch: Epoch, *, except_workers: Sequence[WorkerId], policy: RetryPolicy) -> int:
    """Requeue what earlier terms leased and nobody holds; leases of `except_workers`, who are silent, may run out."""
    return _free(conn, epoch, None, except_workers, policy)


def free(conn: Connection, epoch: Epoch, workers: Sequence[WorkerId], *, policy: RetryPolicy) -> int:
    """Requeue at once what workers held that are known to be dead."""
    return _free(conn, epoch, workers, (), policy)


def _free(
    conn: Connection,
    epoch: Epoch,
    workers: Sequence[WorkerId] | None,
    except_workers: Sequence[WorkerId],
    policy: RetryPolicy,
) -> int:
    parameters = {
        "epoch": epoch,
        "workers": None if workers is None else list(workers),
        "except": list(except_workers),
        "max_infra": policy.max_infra_failures,
    }
    return len(conn.execute(SQL["free"], parameters).fetchall())


# --- leases -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Claim:
    """Leases that were asked for. In a pipeline the server works on them, and then on their neighbours, meanwhile."""

    _conn: Connection
    _slots: Sequence[WorkerId]
    _ttl_s: float
    _asked: Cursor[tuple[Any, ...]]
    _rows: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    _tasks: list[Task] = field(default_factory=list[Task])
    _neighbours: Cursor[tuple[Any, ...]] | None = None

    def look_around(self) -> "Claim":
        """Read what was leased, and ask for what is published around it."""
        self._rows = self._asked.fetchall()
        if self._rows:
            extents = sorted((DatasetUuid(row[3]), BlockRange(row[4], row[5])) for row in self._rows)
            self._neighbours = ask(self._conn, SQL["neighbours"], spans(extents))
            self._tasks = [_task(row) for row in self._rows]
        return self

    def groups(self) -> list[LeaseGroup]:
        """Return what was leased: a group shares job, range and pool, so that one call extracts it."""
        if self._neighbours is None:
            return []
        published = Neighbours.of_rows(self._neighbours.fetchall())
        groups: dict[int, list[Lease]] = {}
        for row, task in zip(self._rows, self._tasks, strict=True):
            groups.setdefault(row[0], []).append(_lease(row, task, published))
        return [LeaseGroup(self._slots[slot - 1], tuple(leases), self._ttl_s) for slot, leases in groups.items()]


def begin_claim(
    conn: Connection, epoch: Epoch, slots: Sequence[WorkerId], *, ttl_s: float, now: datetime | None = None
) -> Claim:
    """Ask for leases of due tasks, one group per slot.

    Args:
        slots: One worker id per free slot; the i-th group goes to the i-th slot.
        now: For tests, which move time instead of sleeping.
    """
    parameters = {
        "epoch": epoch,
        "ttl": timedelta(seconds=ttl_s),
        "slots": arrays.texts(slots),
        "seed": secrets.token_bytes(32),
        "more": PICKED_MORE,
        "alone": ALONE_AFTER,
        "now": now,
    }
    return Claim(conn, slots, ttl_s, ask(conn, SQL["claim"], parameters))


def claim(
    conn: Connection, epoch: Epoch, slots: Sequence[WorkerId], *, ttl_s: float, now: datetime | None = None
) -> list[LeaseGroup]:
    """Lease due tasks, one group per slot, as `begin_claim` says, and return them."""
    return begin_claim(conn, epoch, slots, ttl_s=ttl_s, now=now).look_around().groups()


def _task(row: Sequence[Any]) -> Task:
    _, task, job, dataset, start, end, _, _, _, config_hash, chain_id, key, cryo_name, pool, _ = row
    return Task(
        task_id=TaskId(task),
        job_id=JobId(job),
        chain_id=chain_id,
        dataset_key=key,
        dataset_uuid=DatasetUuid(dataset),
        cryo_dataset_name=cryo_name,
        rpc_pool=pool,  # the stream's present one: a change in the job file moves what is queued
        blocks=BlockRange(start, end),
        config_hash=config_hash,
    )


def _lease(row: Sequence[Any], task: Task, published: Neighbours) -> Lease:
    attempt, token, generation = row[6:9]
    around = published.around(task.dataset_uuid, task.blocks)
    return Lease(task, attempt, LeaseToken(token), generation, Receipts(row[14]), around.before_hash, around.after_hash)


def heartbeat(conn: Connection, epoch: Epoch, keys: Sequence[AttemptKey], *, ttl_s: float) -> list[AttemptKey]:
    """Renew leases and return the attempts that are still held."""
    parameters = {**_key_columns(keys), "epoch": epoch, "ttl": timedelta(seconds=ttl_s)}
    return [_key(row) for row in conn.execute(SQL["heartbeat"], parameters)]


def reap(conn: Connection, epoch: Epoch, *, policy: RetryPolicy) -> int:
    """Take back every expired lease and return how many."""
    parameters = {"epoch": epoch, "max_infra": policy.max_infra_failures, **_back_off(policy)}
    return len(conn.execute(SQL["reap"], parameters).fetchall())


# --- ends of attempts ---------------------------------------------------------------------------------------------


def complete(
    conn: Connection, epoch: Epoch, publications: Sequence[Publication], *, policy: RetryPolicy
) -> list[Settlement]:
    """Publish what holds its lease, fits its task and joins its neighbours; one settlement per publication, in order.

    What holds its lease and does not fit counts as a failed attempt.
    """
    in_order = sorted(publications, key=_place_in_chain)  # neighbours, and locks, in one order
    sound, judged = offers.judge(conn, epoch, in_order)
    batch, reasons, accepted = Batch(), dict[AttemptKey, Reason](), set[AttemptKey]()
    for start in range(0, len(in_order), PART):  # in a pipeline the server registers one while the next is decided on
        part: list[Publication] = []
        of_part = slice(start, start + PART)
        for publication, fits, known in zip(in_order[of_part], sound[of_part], judged[of_part], strict=True):
            key = publication.attempt
            if key in accepted or key in reasons:
                continue
            attempt, place = known or (None, None)
            reason = stale(attempt, key) or (place and batch.unfit(publication, place, sound=fits))
            if reason is None:
                accepted.add(key)
                part.append(publication)
            else:
                reasons[key] = reason
        if part:
            offers.register(conn, epoch, part)
    unfit = [
        Failure(key, "PublicationRefused", FAILURES[reason], retryable=True)
        for key, reason in reasons.items()
        if reason in FAILURES
    ]
    if unfit:
        fail(conn, epoch, unfit, policy=policy)
    return _settlements([publication.attempt for publication in publications], reasons)


def _place_in_chain(publication: Publication) -> tuple[int, int, int]:
    return publication.dataset_uuid.int, publication.blocks.start, publication.blocks.end


def fail(conn: Connection, epoch: Epoch, failures: Sequence[Failure], *, policy: RetryPolicy) -> list[Settlement]:
    """Count failed attempts; one settlement per failure, in order. Accepted means that it counted."""
    by_key = {failure.attempt: failure for failure in failures}
    unique = sorted(by_key.values(), key=lambda one: one.attempt.task_id)  # locks in one order
    keys = [failure.attempt for failure in unique]
    rows = conn.execute(
        SQL["fail"],
        {
            **_key_columns(keys),
            **_back_off(policy),
            "epoch": epoch,
            "retryable": [failure.retryable for failure in unique],
            "infra": [failure.infra for failure in unique],
            "errors": [_error_json(failure) for failure in unique],
            "max_attempts": policy.max_attempts,
            "max_infra": policy.max_infra_failures,
        },
    )
    counted = {(row["task_id"], row["attempt"]) for row in rows}
    refused = [key for key in keys if (key.task_id, key.attempt) not in counted]
    return _settlements([failure.attempt for failure in failures], refusals(conn, refused))


def refusals(conn: Connection, refused: Sequence[AttemptKey]) -> dict[AttemptKey, Reason]:
    """Return why the ledger takes nothing of these attempts."""
    if not refused:
        return {}
    columns = _key_columns(refused)
    rows = conn.execute(SQL["known"], {"tasks": columns["tasks"], "attempts": columns["attempts"]})
    known = {(row["task_id"], row["asked"]): _known(row) for row in rows}
    return {key: stale(known.get((key.task_id, key.attempt)), key) or Reason.STALE_ATTEMPT for key in refused}


# --- by order of an operator --------------------------------------------------------------------------------------


def cancel(conn: Connection, tasks: Sequence[TaskId]) -> int:
    """End queued and running tasks for good and return how many; what runs on is refused when it finishes."""
    return len(conn.execute(SQL["cancel"], {"tasks": list(tasks)}).fetchall())


def retry_dead(conn: Connection, job_id: JobId) -> int:
    """Put the dead ranges of a job back with fresh budgets and return how many. Attempts go on counting."""
    return len(conn.execute(SQL["replay"], {"job": job_id}).fetchall())


# --- rows ---------------------------------------------------------------------------------------------------------


def _key_columns(keys: Sequence[AttemptKey]) -> dict[str, list[object]]:
    return {
        "tasks": [key.task_id for key in keys],
        "attempts": [key.attempt for key in keys],
        "tokens": [key.lease_token for key in keys],
    }


def _back_off(policy: RetryPolicy) -> dict[str, timedelta]:
    return {"base": timedelta(seconds=policy.base_s), "cap": timedelta(seconds=policy.cap_s)}


def _key(row: Row) -> AttemptKey:
    return AttemptKey(TaskId(row["task_id"]), row["attempt"], LeaseToken(row["lease_token"]))


def _known(row: Row) -> Known:
    return Known(row["state"], row["attempt"], row["lease_token"], row["attempt_token"])


def _settlements(keys: Iterable[AttemptKey], reasons: Mapping[AttemptKey, Reason]) -> list[Settlement]:
    return [Settlement(key, key not in reasons, reasons.get(key)) for key in keys]


def _error_json(failure: Failure) -> str:
    message = storable(failure.message)  # one message from outside must not stop the ledger
    error = {"kind": failure.kind, "message": message, "retryable": failure.retryable, "provider": failure.provider}
    return json.dumps(error)
