"""One question: who asks -> what they may read -> run -> answer -> audit.

Knows no ledger, no key and no engine: `Ledger`, `Runner` and `Results` are passed in. Nothing leaves before its audit
row is written, and every refusal leaves a row too.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar
from uuid import UUID, uuid4

from query.cancel import Cancel
from query.outcomes import OK, Outcome, detail, outcome
from query.question import Answer, DryRun, Export, Limits, Question, SnapshotEntry
from query.refusals import AuditFailed, NotGranted, OutOfGrant, SnapshotUnknown, TokenMismatch, WorkerCrashed
from query.refusals import QueryTimeout as OutOfTime
from trace_ray.access import AuditedDataset, AuditRow, Caller, foreign_objects
from trace_ray.contracts import Grant, GrantedDataset, TaskId
from trace_ray.errors import DatabaseUnavailable, TraceError

logger = logging.getLogger(__name__)

DRY_RUN: Final = "DRY_RUN"  # the outcome of a question that was only planned
ALIAS: Final = "dataset"  # the relation that `dataset_id` makes of one dataset

Found = TypeVar("Found", Answer, DryRun)
Act = Callable[[UUID, Caller, Grant], Found]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read and bounded. `dataset_id` is a published name or a dataset's UUID."""

    sql: str = field(repr=False)
    limit: int
    as_of: int | None = None
    dataset_id: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a token holds: who, and for a capability token the grant and the prefixes that its objects lie below."""

    caller: Caller
    grant: Grant | None = None
    read_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A question that got no answer."""

    query_id: UUID
    error: Exception

    @property
    def outcome(self) -> Outcome:
        return outcome(self.error)


Identify = Callable[[], Held]  # raises Unauthenticated


class Ledger(Protocol):
    """Who may read what, and the audit. All of it may raise DatabaseUnavailable."""

    def user(self, token: str) -> Held:
        """Return whom a user token names; raises Unauthenticated."""
        ...

    def task(self, token: str) -> Held:
        """Return what a capability token grants; raises Unauthenticated, also when its attempt is over."""
        ...

    def grant(self, caller: Caller, as_of: int | None) -> Grant:
        """Return all that a user may read in a snapshot (None: the newest); raises SnapshotUnknown."""
        ...

    def record(self, entry: AuditRow) -> None: ...


class Runner(Protocol):
    """Judges, prunes and runs in processes that can be killed."""

    def run(
        self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel, export: bool
    ) -> Answer: ...

    def plan(self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel) -> DryRun: ...


class Results(Protocol):
    """Keeps answers that are too large to send."""

    def keep(self, caller: Caller, query_id: UUID, export: Export) -> str:
        """Store the file, once per content and organisation; return its location. The local file is used up."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """Answers questions. `observe` hears of every end, for metrics; `fingerprint` is a keyed hash of the SQL."""

    ledger: Ledger
    runner: Runner
    results: Results
    fingerprint: Callable[[str], str]
    observe: Callable[[AuditRow], None]
    people: Limits
    tasks: Limits

    def query(self, asked: Asked, identify: Identify, cancel: Cancel) -> Answer | Refused:
        """Answer a person. `cancel` is set when nobody waits any more."""
        return self._audited(asked, identify, lambda held: self._granted(held, asked), self._run(asked, cancel))

    def task_query(
        self, asked: Asked, identify: Identify, *, task_id: TaskId, attempt: int, cancel: Cancel
    ) -> Answer | Refused:
        """Answer an untrusted task; the body must name the task and attempt of its token."""
        return self._audited(
            asked, identify, lambda held: pinned(held, asked, task_id, attempt), self._run(asked, cancel)
        )

    def dry_run(self, asked: Asked, identify: Identify, cancel: Cancel) -> DryRun | Refused:
        """Tell what a person's question would read; nothing is run."""

        def plan(query_id: UUID, caller: Caller, grant: Grant) -> DryRun:
            question = Question(asked.sql, asked.limit, caller.user or "")
            return self.runner.plan(question, grant, query_id=query_id, limits=self._limits(caller), cancel=cancel)

        return self._audited(asked, identify, lambda held: self._granted(held, asked), plan)

    def reject(self, error: Exception, identify: Identify) -> Refused:
        """Refuse a request before its SQL is read; a token that does not hold is told first."""

        query_id, started, caller = uuid4(), time.monotonic(), None
        try:
            caller = identify().caller
        except TraceError as unknown:
            error = unknown
        return self._refused(Asked("", 1), Refused(query_id, error), caller, time.monotonic() - started)

    def _granted(self, held: Held, asked: Asked) -> Grant:
        return with_alias(self.ledger.grant(held.caller, asked.as_of), asked.dataset_id)

    def _limits(self, caller: Caller) -> Limits:
        return self.people if caller.task_id is None else self.tasks

    def _run(self, asked: Asked, cancel: Cancel) -> Act[Answer]:
        def run(query_id: UUID, caller: Caller, grant: Grant) -> Answer:
            answer = self.runner.run(
                Question(asked.sql, asked.limit, caller.user or ""),
                grant,
                query_id=query_id,
                limits=self._limits(caller),
                cancel=cancel,
                export=True,
            )
            answer = replace(answer, snapshot=real_names(answer.snapshot, grant))
            if answer.export is None:
                return answer
            return replace(answer, location=self.results.keep(caller, query_id, answer.export))

        return run

    # --- the audit ------------------------------------------------------------------------------------------------

    def _audited(
        self, asked: Asked, identify: Identify, permit: Callable[[Held], Grant], act: Act[Found]
    ) -> Found | Refused:
        """Act for whoever holds the token, and write down how it ended before anything is handed out."""
        query_id, started, caller = uuid4(), time.monotonic(), None
        try:
            held = identify()
            caller = held.caller
            found = act(query_id, caller, permit(held))
        except Exception as error:  # the top of one question: whatever ends it is told and recorded
            if outcome(error).status == 500:  # noqa: PLR2004
                logger.exception("question failed", extra={"query_id": str(query_id)})
            return self._refused(asked, Refused(query_id, error), caller, time.monotonic() - started)
        entry = answered(found, query_id, caller, self.fingerprint(asked.sql), time.monotonic() - started)
        try:
            self.ledger.record(entry)
        except DatabaseUnavailable as error:
            logger.exception("audit failed", extra={"query_id": str(query_id)})
            return Refused(query_id, audit_failed(error))
        self.observe(entry)
        return found

    def _refused(self, asked: Asked, refused: Refused, caller: Caller | None, seconds: float) -> Refused:
        error = refused.error
        reason = detail(error).get("reason")
        row = AuditRow(
            query_id=refused.query_id,
            outcome=refused.outcome.code,
            reason=None if reason is None else str(reason),
            seconds=seconds,
            sql_hash=self.fingerprint(asked.sql) if asked.sql else None,
            hostile=isinstance(error, WorkerCrashed),
            killed=isinstance(error, (WorkerCrashed, OutOfTime)),
        )
        entry = row if caller is None else asked_by(caller, row)
        self.observe(entry)
        try:
            self.ledger.record(entry)
        except DatabaseUnavailable as failed:
            logger.exception("audit failed", extra={"query_id": str(refused.query_id)})
            if not isinstance(error, DatabaseUnavailable):
                return Refused(refused.query_id, audit_failed(failed))
        return refused


# --- pure parts ---------------------------------------------------------------------------------------------------


def answered(found: Answer | DryRun, query_id: UUID, caller: Caller, sql_hash: str, seconds: float) -> AuditRow:
    """Return the audit row of an answer."""
    ran = isinstance(found, Answer)
    read = found.snapshot if ran else found.datasets
    row = AuditRow(
        query_id=query_id,
        outcome=OK.code if ran else DRY_RUN,
        datasets=tuple(AuditedDataset(one.name, one.snapshot) for one in read),
        rows=found.rows if ran else 0,
        bytes=found.bytes if ran else 0,
        bytes_read=found.bytes_read if ran else 0,
        seconds=seconds,
        sql_hash=sql_hash,
    )
    return asked_by(caller, row)


def asked_by(caller: Caller, row: AuditRow) -> AuditRow:
    return replace(row, org_id=caller.org_id, user=caller.user, task_id=caller.task_id, attempt=caller.attempt)


def audit_failed(error: Exception) -> AuditFailed:
    failed = AuditFailed("the answer could not be recorded, so it was not handed out: ask again")
    failed.__cause__ = error
    return failed


def pinned(held: Held, asked: Asked, task_id: TaskId, attempt: int) -> Grant:
    """Return what a task's request may read.

    Raises:
        TokenMismatch: the body names another task or attempt.
        NotGranted, OutOfGrant: `dataset_id` or an object lies outside the grant.
        SnapshotUnknown: `as_of` is another snapshot than the token's.
    """
    if held.grant is None or (held.caller.task_id, held.caller.attempt) != (task_id, attempt):
        raise TokenMismatch("task_id and attempt must be those of the token: send what the task was started with")
    grant = with_alias(held.grant, asked.dataset_id)
    snapshot = max((dataset.snapshot for dataset in grant.datasets), default=0)
    if asked.as_of not in {None, snapshot}:
        raise SnapshotUnknown(f"this token is pinned to snapshot {snapshot}: leave as_of out")
    if foreign_objects(grant, held.read_prefixes):
        raise OutOfGrant("the token grants an object outside its own prefixes: ask for a new token")
    return grant


def with_alias(grant: Grant, dataset_id: str | None) -> Grant:
    """Return the grant with one of its datasets also under the name `dataset`.

    Raises:
        NotGranted: there is no such dataset in the grant.
    """
    if dataset_id is None:
        return grant
    wanted = dataset_id.lower()
    for dataset in grant.datasets:
        if wanted in {dataset.name.lower(), str(dataset.dataset_uuid)}:
            return replace(grant, datasets=(*grant.datasets, replace(dataset, name=ALIAS)))
    raise NotGranted("dataset_id names no dataset that you may read: choose one of GET /v1/datasets")


def real_names(snapshot: tuple[SnapshotEntry, ...], grant: Grant) -> tuple[SnapshotEntry, ...]:
    """Return the entries under published names: what was read as `dataset` is named as what it is, and once."""
    published: dict[str, GrantedDataset] = {dataset.name: dataset for dataset in grant.datasets}
    alias = published.pop(ALIAS, None)
    if alias is None:
        return snapshot
    name = next(found.name for found in published.values() if found.dataset_uuid == alias.dataset_uuid)
    renamed = [replace(entry, name=name) if entry.name == ALIAS else entry for entry in snapshot]
    return tuple({entry.name: entry for entry in renamed}.values())
