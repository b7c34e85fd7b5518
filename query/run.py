"""One judged run: grant and SQL -> judge -> prune -> run in a child -> answer. Knows no ledger, no token, no asker."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from query import confine
from query.failures import Code, Failure, sentence
from query.process import Child, Failed, Result, Setup
from query.protocol import OutOfTime, ProtocolBroken
from query.prune import select_files
from query.question import Answer, Column, Limits, Question, SnapshotEntry
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, WorkerCrashed, WorkerUnavailable, character
from query.text import check_text
from query.verdict import Verdict
from trace_ray.contracts import Grant, GrantedDataset
from trace_ray.errors import StoreUnavailable

DEFAULT_LIMITS: Final = Limits()
START_S: Final = 20.0  # a child's imports on a machine under load; not counted against the question's time


@dataclass(frozen=True, slots=True)
class _Plan:
    """The files that a judged question reads, by relation."""

    datasets: tuple[GrantedDataset, ...]
    sources: Mapping[str, Sequence[str]]


def run(
    question: Question,
    grant: Grant,
    *,
    locate: Callable[[str], str],
    scratch: Path,
    limits: Limits = DEFAULT_LIMITS,
) -> Answer:
    """Answer one question within its limits.

    Args:
        grant: The relations that may be read, each pinned to exact objects.
        locate: Object key -> path of a local file, or a signed http(s) URL. A URL is asked for the files needed only,
            and once for the port of the store.
        scratch: An existing or new directory for spilled data; what is put there is removed again.

    Raises:
        SqlRejected: the gate refuses the statement.
        QueryFailed: the engine refuses it, or one row is too large.
        QueryTimeout, QueryMemory: it needs more than it may have.
        StoreUnavailable: an object could not be read.
        WorkerCrashed: the child died; another question is not affected.
        WorkerUnavailable: no child could be started and confined.
    """
    started = time.monotonic()
    query_id = uuid4()
    check_text(question.sql)
    try:
        result, plan = _ask(question, grant, locate, scratch / str(query_id), limits)
    except Failed as failed:
        raise _error(failed.failure, question.sql) from None
    except OutOfTime:
        raise _out_of_time(limits) from None
    except OSError as error:
        raise WorkerUnavailable("a query process cannot be started here: free some memory or disk space") from error
    except ProtocolBroken as error:
        raise WorkerCrashed("the process that ran the statement died; ask for less, or simplify it") from error
    table = result.table
    if table is None:
        raise WorkerCrashed("the process that ran the statement sent no rows")
    return Answer(
        query_id=query_id,
        columns=tuple(Column(name, kind) for name, kind in result.columns),
        table=table,
        truncated=result.truncated,
        snapshot=tuple(
            SnapshotEntry(dataset.name, dataset.snapshot, dataset.from_block, dataset.to_block, dataset.gaps)
            for dataset in plan.datasets
        ),
        files_read=sum(len(paths) for paths in plan.sources.values()),
        files_total=sum(len(dataset.files) for dataset in plan.datasets),
        seconds=time.monotonic() - started,
    )


def _ask(
    question: Question, grant: Grant, locate: Callable[[str], str], spill: Path, limits: Limits
) -> tuple[Result, _Plan]:
    """Start a child, have the statement judged, bind the files that matter, run."""
    setup = _setup(grant, locate, spill, limits)
    with Child(setup, deadline=time.monotonic() + START_S) as child:
        if not confine.is_complete(_hello(child)) and not limits.without_landlock:
            raise WorkerUnavailable(
                "this kernel cannot confine a query: use Linux 6.7 or newer, or allow it in lite mode"
            )
        end = time.monotonic() + limits.timeout_s
        child.deadline = end + limits.grace_s
        verdict = child.judge(question.sql, [dataset.name for dataset in grant.datasets])
        plan = _plan(grant, verdict, locate)
        child.bind(plan.sources)
        seconds = max(0.001, end - time.monotonic())
        limit = min(question.rows, limits.rows)
        return child.run(limit=limit, max_bytes=limits.bytes, seconds=seconds), plan


def _hello(child: Child) -> int:
    try:
        return child.hello()
    except OutOfTime:
        raise WorkerUnavailable(
            "the query process did not start in time: free some memory or CPU and ask again"
        ) from None
    except ProtocolBroken:
        raise WorkerUnavailable("the query process cannot start: run `trace-ray doctor`") from None


def _setup(grant: Grant, locate: Callable[[str], str], spill: Path, limits: Limits) -> Setup:
    """Draw the first, wider territory; BIND shrinks it to the exact files once the verdict is known."""
    keys = [file.key for dataset in grant.datasets for file in dataset.files]
    first = locate(keys[0]) if keys else ""
    remote = first.startswith(("http://", "https://"))
    return Setup(
        spill=spill,
        read=() if remote else confine.roots(Path(locate(key)) for key in keys),
        port=_port(first) if remote else 0,
        threads=limits.threads,
        memory_mb=limits.memory_mb,
        spill_mb=limits.spill_mb,
        address_space_mb=limits.address_space_mb,
    )


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _plan(grant: Grant, verdict: Verdict, locate: Callable[[str], str]) -> _Plan:
    named = tuple(dataset for dataset in grant.datasets if dataset.name in verdict.relations)
    sources: dict[str, list[str]] = {}
    for dataset in named:
        if not dataset.files:
            raise QueryFailed(
                Code.SQL_ERROR, None, f"{dataset.name} has no published range yet: wait for its first one"
            )
        files = select_files(dataset.files, verdict.block_ranges[dataset.name])
        sources[dataset.name] = [locate(file.key) for file in files]
    return _Plan(named, sources)


def _out_of_time(limits: Limits) -> QueryTimeout:
    return QueryTimeout(f"no answer within {limits.timeout_s:g} s: narrow block_number, or read fewer columns")


def _error(failure: Failure, sql: str) -> Exception:
    """Turn a reported failure into the error for the asker."""
    position = None if failure.position is None else character(sql, failure.position)
    match failure.code:
        case Code.SQL_ERROR:
            where = "" if position is None else f" at character {position}"
            return QueryFailed(failure.code, position, f"the statement fails{where}: {sentence(failure)}")
        case Code.RESULT_TOO_LARGE:
            return QueryFailed(failure.code, None, "one row is larger than an answer may be: select fewer columns")
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
