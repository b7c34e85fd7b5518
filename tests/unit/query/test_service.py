"""The service decides in one order, records before it answers, and gives no answer that it cannot record."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest

from query import refusals
from query.cancel import Cancel
from query.question import Answer, Column, DryRun, Export, Limits, Question, SnapshotEntry
from query.service import Asked, Held, Refused, Service, pinned, real_names, with_alias
from trace_ray.access import AuditRow, Caller
from trace_ray.contracts import DEFAULT_ORG, DatasetUuid, Grant, GrantedDataset, GrantedFile, TaskId
from trace_ray.errors import DatabaseUnavailable, StoreUnavailable, Unauthenticated

LOGS = GrantedDataset(
    "devnet_logs", DatasetUuid(UUID(int=7)), "logs", 3, 0, 10, (), (GrantedFile("cryo/1/7/a.parquet", 0, 9, 10, 5),)
)
GRANT = Grant(DEFAULT_ORG, (LOGS,))
ANN = Held(Caller(DEFAULT_ORG, "ann"))
TASK = TaskId(UUID(int=1))
ERRAND = Held(Caller(DEFAULT_ORG, task_id=TASK, attempt=2), GRANT, ("cryo/1/7/",))


def entry(name: str) -> SnapshotEntry:
    return SnapshotEntry(name, 3, 0, 10, ())


def answer(query_id: UUID, *names: str) -> Answer:
    return Answer(
        query_id=query_id,
        columns=(Column("n", "BIGINT"),),
        table=pa.table({"n": [1, 2]}),
        truncated=False,
        snapshot=tuple(map(entry, names)),
        files_read=1,
        files_total=1,
        seconds=0.1,
    )


@dataclass
class Ports:
    """Ledger, runner and results at once; `fail` is raised by the port of that name."""

    fail: dict[str, Exception] = field(default_factory=dict[str, Exception])
    names: tuple[str, ...] = ("devnet_logs",)
    export: Export | None = None
    recorded: list[AuditRow] = field(default_factory=list[AuditRow])
    observed: list[AuditRow] = field(default_factory=list[AuditRow])

    def _maybe(self, port: str) -> None:
        if port in self.fail:
            raise self.fail[port]

    def user(self, token: str) -> Held:
        self._maybe("user")
        return ANN

    def task(self, token: str) -> Held:
        return ERRAND

    def grant(self, caller: Caller, as_of: int | None) -> Grant:
        self._maybe("grant")
        return GRANT

    def record(self, entry: AuditRow) -> None:
        self._maybe("record")
        self.recorded.append(entry)

    def run(
        self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel, export: bool
    ) -> Answer:
        self._maybe("run")
        return replace(answer(query_id, *self.names), export=self.export)

    def plan(self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel) -> DryRun:
        return DryRun(())

    def keep(self, caller: Caller, query_id: UUID, export: Export) -> str:
        self._maybe("keep")
        return f"s3://bucket/{query_id}"

    def service(self) -> Service:
        return Service(self, self, self, lambda sql: f"h{len(sql)}", self.observed.append, Limits(), Limits())

    def ask(self, **asked: object) -> Answer | Refused:
        question = replace(Asked("select 1", 10), **asked)  # pyright: ignore[reportArgumentType]
        return self.service().query(question, lambda: self.user("t"), Cancel())


def refused(found: object) -> Refused:
    assert isinstance(found, Refused)
    return found


def test_an_answer_is_recorded_with_who_asked_and_what_was_read() -> None:
    ports = Ports()

    found = ports.ask()

    assert isinstance(found, Answer)
    (row,) = ports.recorded
    assert (row.query_id, row.user, row.outcome, row.rows) == (found.query_id, "ann", "OK", 2)
    assert (row.bytes, row.sql_hash) == (16, "h8")
    assert [(one.name, one.snapshot) for one in row.datasets] == [("devnet_logs", 3)]
    assert ports.observed == ports.recorded


@pytest.mark.parametrize(
    ("port", "error", "code", "known"),
    [
        ("user", Unauthenticated("no"), "UNAUTHENTICATED", False),
        ("grant", refusals.SnapshotUnknown("no"), "SNAPSHOT_UNKNOWN", True),
        ("run", refusals.SqlRejected(refusals.Reason.PARSE), "SQL_REJECTED", True),
        ("run", refusals.WorkerCrashed("no"), "WORKER_CRASH", True),
        ("run", ZeroDivisionError(), "INTERNAL", True),
        ("keep", StoreUnavailable("no"), "OBJECT_STORE_ERROR", True),
    ],
)
def test_a_refusal_is_recorded_too(port: str, error: Exception, code: str, known: bool) -> None:
    ports = Ports({port: error}, export=Export(Path("x"), 5, 6, "00"))

    found = refused(ports.ask())

    (row,) = ports.recorded
    assert (row.outcome, found.outcome.code) == (code, code)
    assert row.user == ("ann" if known else None)
    assert row.hostile == (code == "WORKER_CRASH")


def test_no_audit_no_answer() -> None:
    assert refused(Ports({"record": DatabaseUnavailable("gone")}).ask()).outcome.code == "AUDIT_FAILED"


def test_a_ledger_that_is_gone_is_told_as_that() -> None:
    gone = DatabaseUnavailable("gone")

    assert refused(Ports({"grant": gone, "record": gone}).ask()).outcome.code == "LEDGER_UNAVAILABLE"
    failed = Ports({"run": refusals.QueryMemory("no"), "record": gone})
    assert refused(failed.ask()).outcome.code == "AUDIT_FAILED"


def test_a_large_answer_is_kept_and_counts_whole() -> None:
    ports = Ports(export=Export(Path("x"), 50_000, 600, "00"))

    found = ports.ask()

    assert isinstance(found, Answer)
    assert found.location == f"s3://bucket/{found.query_id}"
    assert (ports.recorded[0].rows, ports.recorded[0].bytes) == (50_000, 600)


def test_a_dry_run_is_recorded_as_one() -> None:
    ports = Ports()

    found = ports.service().dry_run(Asked("select 1", 10), lambda: ANN, Cancel())

    assert (found, ports.recorded[0].outcome) == (DryRun(()), "DRY_RUN")


def test_rejecting_a_request_tells_first_that_the_token_does_not_hold() -> None:
    ports = Ports()

    def nobody() -> Held:
        raise Unauthenticated("no")

    bad = refusals.BadRequest("no")
    assert ports.service().reject(bad, lambda: ANN).outcome.code == "BAD_REQUEST"
    assert ports.service().reject(bad, nobody).outcome.code == "UNAUTHENTICATED"
    assert [(row.outcome, row.user, row.sql_hash) for row in ports.recorded] == [
        ("BAD_REQUEST", "ann", None),
        ("UNAUTHENTICATED", None, None),
    ]


def test_what_was_read_as_dataset_is_named_as_what_it_is_and_once() -> None:
    granted = with_alias(GRANT, "DEVNET_LOGS")

    assert [dataset.name for dataset in granted.datasets] == ["devnet_logs", "dataset"]
    assert with_alias(GRANT, str(LOGS.dataset_uuid)) == granted
    assert with_alias(GRANT, None) == GRANT
    assert real_names((entry("dataset"), entry("devnet_logs")), granted) == (entry("devnet_logs"),)
    assert real_names((entry("devnet_logs"),), GRANT) == (entry("devnet_logs"),)
    with pytest.raises(refusals.NotGranted):
        with_alias(GRANT, "other")


def test_a_task_asks_within_its_token() -> None:
    asked = Asked("select 1", 10)

    found = Ports().service().task_query(asked, lambda: ERRAND, task_id=TASK, attempt=2, cancel=Cancel())

    assert isinstance(found, Answer)
    assert pinned(ERRAND, replace(asked, as_of=3), TASK, 2) == GRANT
    for wrong in ((TaskId(UUID(int=9)), 2), (TASK, 1)):
        with pytest.raises(refusals.TokenMismatch):
            pinned(ERRAND, asked, *wrong)
    with pytest.raises(refusals.TokenMismatch):
        pinned(ANN, asked, TASK, 2)
    with pytest.raises(refusals.SnapshotUnknown):
        pinned(ERRAND, replace(asked, as_of=2), TASK, 2)
    with pytest.raises(refusals.OutOfGrant):
        pinned(replace(ERRAND, read_prefixes=("cryo/1/70/",)), asked, TASK, 2)


@pytest.mark.parametrize(("limit", "rows"), [(-1, 1), (0, 1), (5, 5), (99_999, 10_000)])
def test_limit_is_clamped(limit: int, rows: int) -> None:
    assert Question("select 1", limit).rows == rows
