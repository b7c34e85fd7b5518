"""The ledger of tasks: terms of the Dispatcher, leases, attempts and their ends.

Every write of a Dispatcher presents its epoch, every finishing write of an attempt its lease token (SPEC promise 3).
The caller owns the transaction and has fenced it with `fence`. FencedError comes from `Database.transaction`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from state.db import Connection, Row, statements
from state.judge import FAILURES, Batch, Known, Place, Reason, stale
from trace_ray.contracts import (
    AttemptKey,
    BlockRange,
    Certificate,
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

PICKED_PER_SLOT: Final = 4  # a range has one task per stream; what is picked in vain stays queued
PICKED_MIN: Final = 32
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


def leading_build(conn: Connection) -> str | None:
    """Return the build of the Dispatcher that leads; None while nobody does."""
    row = conn.execute(SQL["leader"]).fetchone()
    return None if row is None else str(row["build"])


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


def claim(
    conn: Connection, epoch: Epoch, slots: Sequence[WorkerId], *, ttl_s: float, now: datetime | None = None
) -> list[LeaseGroup]:
    """Lease due tasks, one group per slot; a group shares job, range and pool, so that one call extracts it.

    Args:
        slots: One worker id per free slot; the i-th group goes to the i-th slot.
        now: For tests, which move time instead of sleeping.
    """
    want = max(PICKED_PER_SLOT * len(slots), PICKED_MIN)
    picked = conn.execute(SQL["pick"], {"epoch": epoch, "want": want, "now": now}).fetchall()
    places = list(zip(slots, _grouped(picked), strict=False))
    if not places:
        return []
    rows = conn.execute(
        SQL["claim"],
        {
            "epoch": epoch,
            "ttl": timedelta(seconds=ttl_s),
            "tasks": [task for _, group in places for task in group],
            "workers": [worker_id for worker_id, group in places for _ in group],
        },
    )
    leases = {lease.task.task_id: lease for lease in map(_lease, rows)}
    groups = [(worker_id, tuple(leases[task] for task in group if task in leases)) for worker_id, group in places]
    return [LeaseGroup(worker_id, group, ttl_s) for worker_id, group in groups if group]


def _grouped(picked: Iterable[Row]) -> list[list[TaskId]]:
    groups: dict[tuple[object, ...], list[TaskId]] = {}
    for row in picked:
        alone = row["task_id"] if row["task_failures"] >= ALONE_AFTER else None
        together = (row["job_id"], row["range_start"], row["range_end"], row["rpc_pool"], alone)
        groups.setdefault(together, []).append(TaskId(row["task_id"]))
    return list(groups.values())


def _lease(row: Row) -> Lease:
    payload = row["payload"]
    task = Task(
        task_id=TaskId(row["task_id"]),
        job_id=JobId(row["job_id"]),
        chain_id=payload["chain_id"],
        dataset_key=payload["dataset_key"],
        dataset_uuid=DatasetUuid(row["dataset_uuid"]),
        cryo_dataset_name=payload["cryo_dataset_name"],
        rpc_pool=row["rpc_pool"],  # the stream's present one: a change in the job file moves what is queued
        blocks=BlockRange(row["range_start"], row["range_end"]),
        config_hash=payload["config_hash"],
    )
    return Lease(
        task=task,
        attempt=row["attempt"],
        lease_token=LeaseToken(row["lease_token"]),
        generation=row["generation"],
        receipts=Receipts(row["receipts"]),
        parent_hash=row["before_hash"],
        child_parent_hash=row["after_hash"],
    )


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
    in_order = sorted(publications, key=lambda one: (one.dataset_uuid, one.blocks))  # neighbours, and locks, in order
    known = _judge(conn, epoch, in_order)
    batch, reasons, accepted = Batch(), dict[AttemptKey, Reason](), dict[AttemptKey, Publication]()
    for publication in in_order:
        key = publication.attempt
        if key in accepted:
            continue
        attempt, place = known.get((key.task_id, key.attempt), (None, None))
        reason = stale(attempt, key) or (place and batch.unfit(publication, place))
        if reason is None:
            accepted[key] = publication
        else:
            reasons[key] = reason
    if accepted:
        _publish(conn, epoch, list(accepted.values()))
    unfit = [
        Failure(key, "PublicationRefused", FAILURES[reason], retryable=True)
        for key, reason in reasons.items()
        if reason in FAILURES
    ]
    if unfit:
        fail(conn, epoch, unfit, policy=policy)
    return _settlements([publication.attempt for publication in publications], reasons)


def _judge(
    conn: Connection, epoch: Epoch, publications: Sequence[Publication]
) -> dict[tuple[TaskId, int], tuple[Known, Place]]:
    parameters = {
        "tasks": [publication.attempt.task_id for publication in publications],
        "attempts": [publication.attempt.attempt for publication in publications],
        "epoch": epoch,
    }
    rows = conn.execute(SQL["judge"], parameters)
    return {(row["task_id"], row["asked"]): (_known(row), _place(row)) for row in rows}


def _publish(conn: Connection, epoch: Epoch, accepted: Sequence[Publication]) -> None:
    proofs = [publication.certificate for publication in accepted]
    versions = [publication.dataset_version for publication in accepted]
    parameters = {
        **_key_columns([publication.attempt for publication in accepted]),
        "epoch": epoch,
        "versions": versions,
        "rows": [publication.rows for publication in accepted],
        "digests": [publication.digest for publication in accepted],
        "parents": [proof.parent_hash for proof in proofs],
        "ends": [proof.end_hash for proof in proofs],
        "certificates": json.dumps([_certificate(proof) for proof in proofs]),
        "seconds": json.dumps([dict(publication.seconds) for publication in accepted]),
    }
    conn.execute(SQL["complete"], parameters)
    _add_files(conn, accepted)
    if any(publication.generation for publication in accepted):
        conn.execute(SQL["replace"], {"versions": versions})


def _add_files(conn: Connection, accepted: Sequence[Publication]) -> None:
    files = [
        (publication.dataset_version, position, file)
        for publication in accepted
        for position, file in enumerate(publication.files)
    ]
    parameters = {
        "versions": [version for version, _, _ in files],
        "positions": [position for _, position, _ in files],
        "keys": [file.key for *_, file in files],
        "bytes": [file.bytes for *_, file in files],
        "rows": [file.rows for *_, file in files],
        "digests": [file.digest for *_, file in files],
        "mins": [file.min_block for *_, file in files],
        "maxs": [file.max_block for *_, file in files],
    }
    conn.execute(SQL["add_files"], parameters)


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


def _place(row: Row) -> Place:
    return Place(
        generation=row["generation"],
        dataset_uuid=DatasetUuid(row["dataset_uuid"]),
        blocks=BlockRange(row["range_start"], row["range_end"]),
        chain_id=row["chain_id"],
        dataset_key=row["dataset_key"],
        config_hash=row["config_hash"],
        before_hash=row["before_hash"],
        after_hash=row["after_hash"],
        covered_generation=row["covered_generation"],
    )


def _settlements(keys: Iterable[AttemptKey], reasons: Mapping[AttemptKey, Reason]) -> list[Settlement]:
    return [Settlement(key, key not in reasons, reasons.get(key)) for key in keys]


def _certificate(certificate: Certificate) -> dict[str, object]:
    """The certificate without its two hashes, which have columns of their own."""
    return {
        "level": certificate.level,
        "checks": certificate.checks,
        "receipts": certificate.receipts,
        "engine": certificate.engine,
        "engine_version": certificate.engine_version,
        "engine_digest": certificate.engine_digest,
        "engine_arguments": certificate.engine_arguments,
        "provider": certificate.provider,
    }


def _error_json(failure: Failure) -> str:
    # jsonb holds neither NUL nor half a surrogate pair, and one message from outside must not stop the ledger
    message = failure.message.encode(errors="replace").decode().replace("\0", "")
    error = {"kind": failure.kind, "message": message, "retryable": failure.retryable, "provider": failure.provider}
    return json.dumps(error)
