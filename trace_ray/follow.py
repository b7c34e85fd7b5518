"""Following a sync: a progress display on a terminal, a plain line now and then elsewhere. Reads only the ledger."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from state import jobs
from state.db import Database
from trace_ray.console import duration, notes, out, say, status_view
from trace_ray.contracts import FixedTarget, Job, OrgId
from trace_ray.errors import DatabaseUnavailable
from trace_ray.reports import JobState, JobStatus

POLL_S: Final = 0.5
LINE_S: Final = 5.0  # a log that nobody watches needs no more
PATIENCE_S: Final = 30.0  # Postgres may restart under a sync; the Dispatcher repairs the rest


def until_complete(database: Database, job: Job) -> bool:
    """Show progress until the job is complete. False when it ends incomplete: nothing left to do but dead ranges, or
    the job is paused and its running ranges have finished.

    Raises:
        DatabaseUnavailable: Postgres stayed away.
    """
    show = _Bars(job) if notes.is_terminal else _Lines()
    with show:
        while True:
            status = _read(database, job.org_id, job.name)[0]
            show.update(status)
            if status.state is JobState.COMPLETE:
                break
            if _is_stuck(status):
                _tell_dead(status)
                return False
            if status.state is JobState.PAUSED and not any(stream.ranges.running for stream in status.streams):
                say(f"{status.name} is paused and incomplete: `trace-ray resume {status.name}` lets it go on")
                return False
            time.sleep(POLL_S)
    _tell_complete(status)
    return True


def watch(database: Database, org_id: OrgId, name: str | None) -> None:
    """Refresh the status table until Ctrl-C."""
    with suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
        while True:
            found = _read(database, org_id, name)
            live.update(status_view(found), refresh=True)
            time.sleep(POLL_S * 2)


def _read(database: Database, org_id: OrgId, name: str | None) -> Sequence[JobStatus]:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            with database.transaction() as conn:
                return jobs.status(conn, org_id, name)
        except DatabaseUnavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(POLL_S)


def _is_stuck(status: JobStatus) -> bool:
    """Dead ranges, and nothing that could still change: planning is over and no range is open."""
    planned = all(stream.to_block is not None and stream.next_block >= stream.to_block for stream in status.streams)
    is_open = any(stream.ranges.queued or stream.ranges.running for stream in status.streams)
    return planned and not is_open and any(stream.ranges.dead for stream in status.streams)


def _tell_dead(status: JobStatus) -> None:
    for stream in status.streams:
        if stream.ranges.dead:
            say(f"{stream.dataset}: {stream.ranges.dead} dead ranges: {stream.last_error}")
    say(f"{status.name} is incomplete: mend the cause, then run `trace-ray retry {status.name}` and sync again")


def _tell_complete(status: JobStatus) -> None:
    for stream in status.streams:
        blocks = (stream.to_block or stream.from_block) - stream.from_block
        say(f"{stream.dataset}: {blocks:,} blocks in {stream.ranges.succeeded} ranges, each proven")
    say(f'{status.name} is complete; ask with `trace-ray query "FROM {status.streams[0].dataset}"`')


class _Lines:
    """A plain line every few seconds, when something changed."""

    def __init__(self) -> None:
        self._said_at = -LINE_S
        self._last = ""

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, status: JobStatus) -> None:
        line = _line(status)
        over = status.state is JobState.COMPLETE
        if line != self._last and (over or time.monotonic() - self._said_at >= LINE_S):
            say(line)
            self._said_at, self._last = time.monotonic(), line


class _Bars:
    """One bar per stream, with rate and ETA."""

    def __init__(self, job: Job) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            console=notes, auto_refresh=False,
        )  # fmt: skip
        span = job.mode.to_block - job.mode.from_block if isinstance(job.mode, FixedTarget) else None
        self._bars = {
            stream.dataset: self._progress.add_task(stream.dataset, total=span, rate="") for stream in job.streams
        }
        self._reason = ""
        self._live = Live(self._progress, console=notes, auto_refresh=False)

    def __enter__(self) -> "_Bars":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, status: JobStatus) -> None:
        for stream in status.streams:
            bar = self._bars.get(stream.dataset)
            if bar is not None:
                self._progress.update(
                    bar, completed=stream.blocks_done, rate=_rate(stream.blocks_per_second, stream.eta_seconds)
                )
        note = [Text(status.reason, style="yellow")] if status.reason else []
        self._live.update(Group(self._progress, *note), refresh=True)


def _line(status: JobStatus) -> str:
    parts = [
        f"{stream.dataset} {stream.blocks_done:,}/{_end(stream.to_block, stream.from_block)}"
        + (f" {rate}" if (rate := _rate(stream.blocks_per_second, stream.eta_seconds)) else "")
        + (f" ({stream.ranges.dead} dead)" if stream.ranges.dead else "")
        for stream in status.streams
    ]
    return "; ".join([*parts, *([status.reason] if status.reason else [])])


def _end(to_block: int | None, from_block: int) -> str:
    return "?" if to_block is None else f"{to_block - from_block:,}"


def _rate(blocks_per_second: float | None, eta_seconds: float | None) -> str:
    if blocks_per_second is None:
        return ""
    eta = "" if eta_seconds is None else f", {duration(eta_seconds)} left"
    return f"{blocks_per_second:,.0f} blocks/s{eta}"
