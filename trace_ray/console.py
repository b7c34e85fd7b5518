"""What people and scripts see: tables on a terminal, plain lines elsewhere, the JSON shapes of SPEC section 8.

Notes and progress go to stderr, answers to stdout, so that an answer can be piped.
"""

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trace_ray.check import CheckReport
from trace_ray.contracts import BlockRange, Job
from trace_ray.doctor import Finding
from trace_ray.errors import RefusedInput
from trace_ray.reports import Applied, Coverage, JobStatus, StreamStatus

if TYPE_CHECKING:  # both import heavy libraries, which `status` and `apply` do without
    from query.question import Answer
    from state.repair import Repaired
    from trace_ray.lite.stack import StackStatus

FORMATS: Final = ("table", "json", "ndjson", "csv", "arrow", "parquet")
BINARY: Final = ("arrow", "parquet")

FEW: Final = 5  # ranges that are named before the rest is counted
WIDE: Final = 200  # columns of a table that goes into a file or a pipe

out: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
notes: Final = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDE)


def say(text: str) -> None:
    """Tell the user one thing, on stderr."""
    notes.print(text, markup=False)


def print_json(document: object) -> None:
    """Print one JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


@contextmanager
def progress_bar(title: str, *, total: int) -> Generator[Callable[[int], None]]:
    """Show a bar on a terminal and nothing elsewhere; the block calls what it gets with how much is done."""
    bars = Progress(
        TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), console=notes, transient=True
    )
    with bars if notes.is_terminal else nullcontext():
        bar = bars.add_task(title, total=total)
        yield lambda done: bars.update(bar, completed=done)


# --- the stack ----------------------------------------------------------------------------------------------------


def print_stack(status: "StackStatus", token: Path | None) -> None:
    """Say where the parts of the stack are; `token` is the file that lets other Ray tools into our own cluster."""
    workers = _counted(len(status.dispatcher.workers), "worker")
    say(f"Stack is up: Postgres {status.postgres}, Ray at {status.ray}, {workers}")
    if status.dispatcher.evaluators:
        say(f"Alert rules run on {_counted(len(status.dispatcher.evaluators), 'evaluator')}")
    if status.http:
        say(f"Queries: {status.http}/v1/query, see {status.http}/docs; `trace-ray token --user NAME` makes a token")
    if status.dashboard:
        say(f"Ray dashboard: {status.dashboard}")
    if token:
        say(f"It asks for the token in {token}; other Ray tools take it by")
        say(f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_applied(job: Job, applied: Applied) -> None:
    """Print the job's id on stdout and what changed as notes."""
    out.print(str(applied.job_id), markup=False)
    for change in applied.changes:
        say(change)
    if not applied.changes:
        say(f"Job {job.name} is unchanged")


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what `doctor` found."""
    if as_json:
        print_json({"findings": [finding.to_dict() for finding in findings]})
        return
    table = _table("", "part", "finding", "to mend it")
    marks = {"works": "[green]works[/]", "limited": "[yellow]limited[/]", "broken": "[red]broken[/]", "info": ""}
    for finding in findings:
        table.add_row(marks[finding.state], finding.part, finding.text, finding.advice or "")
    out.print(table)


def print_check(report: CheckReport, *, as_json: bool) -> None:
    """Print what `check` learned about a job file and its providers."""
    if as_json:
        print_json(report.to_dict())
        return
    for line in report.lines():
        out.print(line, markup=False)


# --- status -------------------------------------------------------------------------------------------------------


def status_document(found: Sequence[JobStatus]) -> dict[str, Any]:
    """Return the document of `status --json` (SPEC section 8)."""
    return {"jobs": [_job(job) for job in found]}


def _job(job: JobStatus) -> dict[str, Any]:
    return {
        "job_id": str(job.job_id),
        "name": job.name,
        "chain_id": job.chain_id,
        "mode": job.mode,
        "enabled": job.enabled,
        "state": str(job.state),
        "reason": job.reason,
        "streams": [_stream(stream) for stream in job.streams],
    }


def _stream(stream: StreamStatus) -> dict[str, Any]:
    ranges = stream.ranges
    return {
        "dataset_key": stream.dataset_key,
        "dataset": stream.dataset,
        "from_block": stream.from_block,
        "to_block": stream.to_block,
        "next_block": stream.next_block,
        "ranges": {
            "queued": ranges.queued,
            "running": ranges.running,
            "succeeded": ranges.succeeded,
            "dead": ranges.dead,
        },
        "blocks_per_second": stream.blocks_per_second,
        "eta_seconds": stream.eta_seconds,
        "head": stream.head,
        "lag_blocks": stream.lag_blocks,
        "last_error": stream.last_error,
    }


def print_status(found: Sequence[JobStatus], *, as_json: bool) -> None:
    """Print the jobs and their streams."""
    if as_json:
        print_json(status_document(found))
        return
    if not found:
        say("No job yet: write one (docs/examples) and run `trace-ray sync -f JOB.yaml`")
        return
    out.print(status_view(found))


def status_view(found: Sequence[JobStatus]) -> Group:
    """Return each job: a heading with its state, one row per stream, and what went wrong last."""
    parts: list[Text | Table] = []
    for job in found:
        reason = f": {job.reason}" if job.reason else ""
        parts += [Text(f"{job.name} (chain {job.chain_id}) is {job.state}{reason}"), _streams(job.streams)]
        parts += [Text(f"{stream.dataset}: {stream.last_error}") for stream in job.streams if stream.last_error]
    return Group(*parts)


def _streams(streams: Sequence[StreamStatus]) -> Table:
    table = _table("dataset", "next", "to", "queued", "running", "done", "dead", "blocks/s", "ETA", "lag")
    for stream in streams:
        ranges = stream.ranges
        table.add_row(
            stream.dataset,
            f"{stream.next_block:,}",
            _number(stream.to_block),
            str(ranges.queued),
            str(ranges.running),
            str(ranges.succeeded),
            str(ranges.dead),
            "" if stream.blocks_per_second is None else f"{stream.blocks_per_second:,.0f}",
            "" if stream.eta_seconds is None else duration(stream.eta_seconds),
            _number(stream.lag_blocks),
        )
    return table


def duration(seconds: float) -> str:
    """Return seconds as people say them: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


# --- data ---------------------------------------------------------------------------------------------------------


def print_datasets(found: Sequence[Coverage], *, as_json: bool) -> None:
    """List the published datasets."""
    if as_json:
        print_json({"datasets": [_coverage(one, versions=False) for one in found]})
        return
    if not found:
        say("Nothing is published yet: `trace-ray status` shows what is on its way")
        return
    table = _table("dataset", "blocks", "rows", "files", "size", "gaps", "snapshot")
    for one in found:
        span = f"[{one.from_block:,}, {one.to_block:,})"
        size = f"{one.bytes / 1e6:,.1f} MB"
        table.add_row(one.dataset, span, f"{one.rows:,}", str(one.files), size, str(len(one.gaps)), str(one.snapshot))
    out.print(table)


def print_coverage(found: Coverage, *, as_json: bool) -> None:
    """Print what is published of one dataset, its gaps by block, and how it was proven."""
    if as_json:
        print_json(_coverage(found, versions=True))
        return
    span = BlockRange(found.from_block, found.to_block) if found.to_block > found.from_block else "no block"
    out.print(
        f"{found.dataset}: {found.blocks:,} blocks of {span}, {found.rows:,} rows in {found.files} files", markup=False
    )
    for one in found.missing:
        detail = f" ({one.detail})" if one.detail else ""
        reason = one.reason.replace("_", " ")
        out.print(Text(printable(f"missing {one.blocks}: {len(one.blocks):,} blocks, {reason}{detail}")))
    if not found.missing:
        out.print("no gaps", markup=False)
    table = _table("blocks", "rows", "proof", "engine", "provider")
    for version in found.versions:
        certificate = version.certificate
        engine = f"{certificate.engine} {certificate.engine_version}"
        table.add_row(str(version.blocks), f"{version.rows:,}", str(certificate.level), engine, certificate.provider)
    out.print(table)


def print_repaired(name: str, streams: Sequence["Repaired"]) -> None:
    """Tell what a repair planned, by stream and cause."""
    for stream in streams:
        parts = [
            f"{len(ranges)} {what} ({', '.join(map(str, ranges[:FEW]))}{', ...' if len(ranges) > FEW else ''})"
            for ranges, what in (
                (stream.put_back, "dead put back"),
                (stream.regenerated, "withdrawn made anew"),
                (stream.never_planned, "never planned before"),
            )
            if ranges
        ]
        if parts:
            say(f"{stream.dataset_key}: {'; '.join(parts)}")
    planned = sum(stream.ranges for stream in streams)
    say(f"{name}: {planned} ranges planned again" if planned else f"{name} misses nothing below its cursors")


def _coverage(found: Coverage, *, versions: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "dataset": found.dataset,
        "dataset_uuid": str(found.dataset_uuid),
        "snapshot": found.snapshot,
        "from_block": found.from_block,
        "to_block": found.to_block,
        "blocks": found.blocks,
        "rows": found.rows,
        "files": found.files,
        "bytes": found.bytes,
        "gaps": [[gap.start, gap.end] for gap in found.gaps],
    }
    if versions:
        document["missing"] = [
            {"start": one.blocks.start, "end": one.blocks.end, "reason": str(one.reason), "detail": one.detail}
            for one in found.missing
        ]
        document["versions"] = [
            {
                "dataset_version": str(version.dataset_version),
                "range_start": version.blocks.start,
                "range_end": version.blocks.end,
                "rows": version.rows,
                "certificate": certificate_document(version.certificate),
            }
            for version in found.versions
        ]
    return document


def certificate_document(certificate: Any) -> Mapping[str, Any]:
    """Return a certificate as JSON; hashes are `0x...`."""
    return {
        "level": str(certificate.level),
        "checks": list(certificate.checks),
        "parent_hash": "0x" + certificate.parent_hash.hex(),
        "end_hash": "0x" + certificate.end_hash.hex(),
        "receipts": str(certificate.receipts),
        "engine": certificate.engine,
        "engine_version": certificate.engine_version,
        "engine_digest": certificate.engine_digest,
        "engine_arguments": list(certificate.engine_arguments),
        "provider": certificate.provider,
    }


# --- answers ------------------------------------------------------------------------------------------------------


def print_answer(answer: "Answer", *, form: str, output: Path | None) -> None:
    """Write an answer to a file or stdout in the form that was asked for.

    Raises:
        RefusedInput: a binary form would go to a terminal, or the file cannot be written.
    """
    from query import results

    if form == "table" and output is None:
        _print_rows(answer)
        return
    writers = {
        "table": results.to_csv,
        "json": results.to_json,
        "ndjson": results.to_ndjson,
        "csv": results.to_csv,
        "arrow": results.to_arrow,
        "parquet": results.to_parquet,
    }
    if output is None and form in BINARY and sys.stdout.isatty():
        raise RefusedInput(f"{form} is binary: name a file with -o FILE, or pipe it")
    content = writers[form](answer)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        try:
            output.write_bytes(content)
        except OSError as error:
            raise RefusedInput(f"{output} cannot be written ({error.strerror}): name another file") from error
        say(f"{answer.table.num_rows:,} rows written to {output}")
    _tell_truncated(answer)


def _print_rows(answer: "Answer") -> None:
    from query import results

    table = _table(*(printable(column.name) for column in answer.columns))
    for row in zip(*results.columns(answer.table), strict=True):
        table.add_row(*(Text(printable(value)) for value in row))
    out.print(table)
    rows = answer.table.num_rows
    files = f"{answer.files_read} of {answer.files_total} files read"
    say(f"{rows:,} row{'' if rows == 1 else 's'} in {answer.seconds:.2f} s, {files}")
    _tell_truncated(answer)


def printable(value: object) -> str:
    """Return a cell's text; what could steer a terminal is replaced, for anybody can write text into a chain."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return rows as a table whose long cells go on in the next line."""
    made = Table(box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(value)) for value in row))
    return made


def _tell_truncated(answer: "Answer") -> None:
    if answer.truncated:
        say("There are more rows: raise --limit (at most 10,000) or narrow the question")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading == "dataset")
    return table


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
