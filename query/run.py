"""One question: grant and SQL -> judge -> prune -> run in a worker -> answer. Knows no ledger and no token."""

import hashlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID, uuid4

from query.cancel import Cancel
from query.failures import Code, Failure, sentence
from query.intake import Intake
from query.pool import Pool
from query.process import Binding, Child, Failed, Reach, is_url
from query.protocol import OutOfTime, ProtocolBroken
from query.prune import select_files
from query.question import MAX_LIMIT, Answer, Column, DatasetPlan, DryRun, Limits, Question, SnapshotEntry
from query.refusals import (
    Displaced,
    QueryCancelled,
    QueryFailed,
    QueryMemory,
    QueryTimeout,
    WorkerCrashed,
    WorkerUnavailable,
    character,
)
from query.text import check_text
from query.verdict import Verdict
from query.verdicts import Asked, Judged
from trace_ray.contracts import BlockRange, Grant, GrantedDataset, GrantedFile
from trace_ray.errors import StoreUnavailable

DEFAULT_LIMITS: Final = Limits()
ALL_ROWS: Final = 2**62

Found = TypeVar("Found", Answer, DryRun)


@dataclass(frozen=True, slots=True)
class _Read:
    """The files that a judged question reads, by dataset; and all that a worker for it is bound to."""

    datasets: tuple[GrantedDataset, ...]
    files: Mapping[str, Sequence[GrantedFile]]
    keys: tuple[str, ...]

    def key(self) -> bytes:
        """Return what tells workers apart, within an organisation: the objects they are bound to."""
        return hashlib.blake2b("\n".join(self.keys).encode(), digest_size=32).digest()


@dataclass(slots=True)
class _Clock:
    """When a question has to end. It starts once a worker is there."""

    limits: Limits
    end: float | None = None

    def start(self, child: Child) -> None:
        if self.end is None:
            self.end = time.monotonic() + self.limits.timeout_s
        child.deadline = self.end + self.limits.grace_s

    def left(self) -> float:
        return 0.001 if self.end is None else max(0.001, self.end - time.monotonic())


@dataclass(slots=True)
class _Task:
    """One question under way."""

    question: Question
    grant: Grant
    pool: Pool
    clock: _Clock
    cancel: Cancel
    query_id: UUID
    started: float = field(default_factory=time.monotonic)
    long: bool = False

    def lease(self, key: bytes | None) -> AbstractContextManager[Child]:
        asker = (self.grant.org_id, self.question.asker)
        return self.pool.lease(asker, key, cancel=self.cancel, long=self.long)

    def begin_again(self) -> None:
        """Start over among the long questions, with all the time that a question has."""
        self.long, self.clock.end = True, None


def run(
    question: Question,
    grant: Grant,
    *,
    pool: Pool,
    locate: Callable[[str], str],
    limits: Limits | None = None,
    cancel: Cancel | None = None,
    export: bool = False,
    query_id: UUID | None = None,
) -> Answer:
    """Answer one question within its limits.

    Args:
        grant: The relations that may be read, each pinned to exact objects.
        locate: Object key -> path of a local file, or a signed http(s) URL that outlives a worker and a question
            (`pool.MAX_AGE_S` + `limits.timeout_s`).
        limits: Those of a process must equal the pool's, which are the default.
        export: Whether a result above the caps of an answer goes on into a file; else it is cut.

    Raises:
        SqlRejected: the gate refuses the statement.
        QueryFailed: the engine refuses it, or the result or one row is too large.
        QueryTimeout, QueryMemory: it needs more than it may have.
        QueryCancelled: `cancel` was set.
        QueueFull: every worker is busy.
        StoreUnavailable: an object could not be read.
        WorkerCrashed: the worker died; another question is not affected.
        WorkerUnavailable: no worker could be started and confined.
    """
    task = _task(question, grant, pool, limits=limits, cancel=cancel, query_id=query_id)
    return _patiently(task, lambda: _run(task, locate, export=export))


def once(
    question: Question,
    grant: Grant,
    *,
    locate: Callable[[str], str],
    scratch: Path,
    limits: Limits = DEFAULT_LIMITS,
    cancel: Cancel | None = None,
) -> Answer:
    """Answer one question without a standing pool; raises like `run`."""
    check_text(question.sql)
    keys = [file.key for dataset in grant.datasets for file in dataset.files]
    first = [locate(key) for key in keys[:1]]
    reach = Reach.of(first if first and is_url(first[0]) else [locate(key) for key in keys])
    with Pool(scratch=scratch, reach=reach, limits=limits, size=1, standby=False, whole=0) as pool:
        return run(question, grant, pool=pool, locate=locate, cancel=cancel)


def plan(
    question: Question, grant: Grant, *, pool: Pool, limits: Limits | None = None, cancel: Cancel | None = None
) -> DryRun:
    """Say what a question would read. It is judged and pruned; nothing is signed or run. Raises like `run`."""
    task = _task(question, grant, pool, limits=limits, cancel=cancel)
    return _patiently(task, lambda: _plan(task))


def _patiently(task: _Task, act: Callable[[], Found]) -> Found:
    """Act, and once more from the beginning when the question had to make way: nothing of it was handed out."""
    with _explained(task):
        try:
            return act()
        except Displaced:
            task.begin_again()
            return act()


def _run(task: _Task, locate: Callable[[str], str], *, export: bool) -> Answer:
    asked = _asked(task)
    judged = task.pool.verdicts.get(asked)
    if judged is None:
        with task.lease(None) as child:
            judged = _judge(task, asked, child)
            read = _read(task.grant, judged.verdict, task.pool.whole)
            if child.binding is None or child.binding.key == read.key():
                return _answer(task, child, judged, read, locate, export=export)
    read = _read(task.grant, judged.verdict, task.pool.whole)
    with task.lease(read.key()) as child:
        return _answer(task, child, judged, read, locate, export=export)


def _plan(task: _Task) -> DryRun:
    asked = _asked(task)
    judged = task.pool.verdicts.get(asked)
    if judged is None:
        with task.lease(None) as child:
            judged = _judge(task, asked, child)
    read = _read(task.grant, judged.verdict, task.pool.whole)
    return DryRun(tuple(_planned(dataset, read, judged.verdict) for dataset in read.datasets))


def _task(
    question: Question,
    grant: Grant,
    pool: Pool,
    *,
    limits: Limits | None,
    cancel: Cancel | None,
    query_id: UUID | None = None,
) -> _Task:
    check_text(question.sql)
    if limits is not None and not pool.fits(limits):
        raise ValueError("the limits of a process are those of its pool")
    return _Task(question, grant, pool, _Clock(limits or pool.limits), cancel or Cancel(), query_id or uuid4())


def _asked(task: _Task) -> Asked:
    names = tuple(dataset.name for dataset in task.grant.datasets)
    return Asked(task.grant.org_id, task.question.sql, names)


def _judge(task: _Task, asked: Asked, child: Child) -> Judged:
    task.clock.start(child)
    return task.pool.verdicts.put(asked, child.judge(asked.sql, asked.relations))


def _read(grant: Grant, verdict: Verdict, most_whole: int) -> _Read:
    """Choose the files that matter, and those that the worker is bound to."""
    named = tuple(dataset for dataset in grant.datasets if dataset.name in verdict.relations)
    files: dict[str, Sequence[GrantedFile]] = {}
    for dataset in named:
        if not dataset.files:
            raise QueryFailed(
                Code.SQL_ERROR, None, f"{dataset.name} has no published range yet: wait for its first one"
            )
        files[dataset.name] = select_files(dataset.files, verdict.block_ranges[dataset.name])
    choices = ([dataset.files for dataset in grant.datasets], [dataset.files for dataset in named])
    bound = next((listed for listed in choices if sum(map(len, listed)) <= most_whole), list(files.values()))
    return _Read(named, files, tuple(sorted({file.key for chosen in bound for file in chosen})))


def _answer(
    task: _Task, child: Child, judged: Judged, read: _Read, locate: Callable[[str], str], *, export: bool
) -> Answer:
    """Run the statement on a worker that is bound to its objects, or can be."""
    task.clock.start(child)
    warm = child.binding is not None
    if not warm:
        child.bind(Binding(read.key(), {key: locate(key) for key in read.keys}))
    limits = task.clock.limits
    limit = min(task.question.rows, limits.rows)
    path = task.pool.path(f"{task.query_id}.parquet") if export else None
    views = {name: [file.key for file in files] for name, files in read.files.items()}
    rows = child.run(
        judged,
        views,
        limit=ALL_ROWS if export and limit == MAX_LIMIT else limit,
        max_bytes=limits.export_bytes if export else limits.bytes,
        seconds=task.clock.left(),
    )
    with Intake(limit=limit, limits=limits, path=path, deadline=child.deadline) as intake:
        for piece in rows.pieces():
            intake.add(piece)
        result = intake.finish(cut=rows.truncated)
    return Answer(
        query_id=task.query_id,
        columns=tuple(Column(name, kind) for name, kind in rows.columns),
        table=result.table,
        truncated=result.truncated,
        snapshot=tuple(
            SnapshotEntry(dataset.name, dataset.snapshot, dataset.from_block, dataset.to_block, dataset.gaps)
            for dataset in read.datasets
        ),
        files_read=sum(len(files) for files in read.files.values()),
        files_total=sum(len(dataset.files) for dataset in read.datasets),
        bytes_read=sum(file.bytes for files in read.files.values() for file in files),
        seconds=time.monotonic() - task.started,
        warm=warm,
        export=result.export,
    )


def _planned(dataset: GrantedDataset, read: _Read, verdict: Verdict) -> DatasetPlan:
    files = read.files[dataset.name]
    coverage = BlockRange(dataset.from_block, dataset.to_block)
    return DatasetPlan(
        name=dataset.name,
        snapshot=dataset.snapshot,
        blocks=tuple(
            BlockRange(max(blocks.start, coverage.start), min(blocks.end, coverage.end))
            for blocks in verdict.block_ranges[dataset.name]
            if blocks.overlaps(coverage)
        ),
        files_read=len(files),
        files_total=len(dataset.files),
        bytes_read=sum(file.bytes for file in files),
        bytes_total=sum(file.bytes for file in dataset.files),
        rows=sum(file.rows for file in files),
    )


@contextmanager
def _explained(task: _Task) -> Generator[None]:
    """Turn what happened in or to a worker into the error for the asker."""
    try:
        yield
    except (Failed, OutOfTime, ProtocolBroken, OSError) as error:
        if task.cancel.is_set():
            raise QueryCancelled("the question was cancelled") from None
        match error:
            case Failed():
                raise _error(error.failure, task.question.sql) from None
            case OutOfTime():
                raise QueryTimeout(
                    f"no answer within {task.clock.limits.timeout_s:g} s: narrow block_number, or read fewer columns",
                    killed=True,
                ) from None
            case ProtocolBroken():
                raise WorkerCrashed("the process that ran the statement died; ask for less, or simplify it") from error
            case _:
                raise WorkerUnavailable("there is no room for the result here: free some disk space") from error


def _error(failure: Failure, sql: str) -> Exception:
    """Turn a reported failure into the error for the asker."""
    position = None if failure.position is None else character(sql, failure.position)
    match failure.code:
        case Code.SQL_ERROR:
            where = "" if position is None else f" at character {position}"
            return QueryFailed(failure.code, position, f"the statement fails{where}: {sentence(failure)}")
        case Code.RESULT_TOO_LARGE:
            return QueryFailed(failure.code, None, "one row is larger than an answer may be: select fewer columns")
        case Code.EXPORT_TOO_LARGE:
            return QueryFailed(
                Code.RESULT_TOO_LARGE, None, "the result is larger than an export may be: read fewer blocks or columns"
            )
        case Code.MEMORY:
            return QueryMemory("the statement needs more memory than it may have: read fewer blocks or fewer columns")
        case Code.TIMEOUT:
            return QueryTimeout(
                "the statement took too long and was stopped: narrow block_number, or read fewer columns"
            )
        case Code.STORE:
            return StoreUnavailable("an object of a granted dataset could not be read: ask again, or check the store")
        case Code.CONFINEMENT:
            return WorkerUnavailable("the query process could not be confined on this machine: run `trace-ray doctor`")
        case Code.CRASH:
            return WorkerCrashed("the engine gave up on the statement; simplify it")
