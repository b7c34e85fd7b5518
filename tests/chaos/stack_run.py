"""The chaos run on a whole stack: real Ray, Postgres, engines and object store, hurt for a while and then checked.

    python -m tests.chaos.stack_run --seconds 60 --seed 1 [--engine cryo|native] [--store file|s3] [--json FILE]

The seed decides which faults hit in which order; when exactly is up to the machine. Exit 1 when anything is wrong.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos import checker, stack_judge, stack_rows
from tests.chaos.stack_faults import run_track, tracks
from tests.chaos.stack_judge import Verdict
from tests.chaos.stack_ledger import Ghosts
from tests.chaos.stack_log import Log
from tests.chaos.stack_processes import DISPATCHER, WORKER
from tests.chaos.stack_world import WORKERS, Shape, World, world
from trace_ray.storage import open_store

LONG_S = 120.0  # from here on a run has time for everything
FEED_S = 0.5


@dataclass
class Report:
    """A run. Right when `problems` is empty."""

    seed: int
    shape: Shape
    seconds: float
    total_s: float
    faults: dict[str, int]
    verdict: Verdict
    jobs: int
    ghosts_refused: dict[str, int]
    ghosts_accepted: list[str]
    dead: dict[str, int]
    incomplete: list[str]
    rows: int
    lost: int
    doubled: int
    wrong: int
    could_not: list[str]
    violations: list[str]
    log: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    @property
    def problems(self) -> list[str]:
        """Return what breaks a promise, in words."""
        found = [f"violated: {violation}" for violation in self.violations]
        found += [f"not complete after all faults ended: {one}" for one in self.incomplete]
        found += [f"accepted from a ghost: {one}" for one in self.ghosts_accepted]
        found += [f"no fault explains: {one}" for one in self.verdict.unexplained]
        found += [f"taken back although its worker lived: {one}" for one in self.verdict.reruns]
        for name in ("lost", "doubled", "wrong"):
            if count := getattr(self, name):
                found.append(f"{count} rows {name}")
        if self.verdict.done != self.verdict.ranges:
            found.append(f"{self.verdict.ranges - self.verdict.done} ranges are not done")
        return found


@dataclass
class Threads:
    """The threads of a run; the first error of any of them ends it."""

    over: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list[BaseException])
    running: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        def guarded() -> None:
            try:
                work(self.over)
            except BaseException as error:  # noqa: BLE001 - raised again by `join`
                self.errors.append(error)
                self.over.set()

        self.running.append(threading.Thread(target=guarded, name=name))
        self.running[-1].start()

    def join(self) -> None:
        """End all and wait for them."""
        self.over.set()
        for thread in self.running:
            thread.join()
        if self.errors:
            raise self.errors[0]


def run(
    seconds: float, seed: int, *, engine: str | None = None, store: str | None = None, loud: bool = False
) -> Report:
    """Hurt a stack for so many seconds, let it finish, and check everything."""
    began = time.monotonic()
    shape, log, ghosts = Shape.of_seed(seed, engine=engine, store=store), Log(loud=loud), Ghosts()
    with world(shape, log, seed=seed) as one, tempfile.TemporaryDirectory(prefix="trace-ray-chaos-rows-") as scratch:
        log.began = time.time()
        _hurt(one, ghosts, seconds, seed)
        hurt_s = time.time() - log.began
        _recover(one)
        rows = stack_rows.compare(one, Path(scratch))
        return Report(
            seed=seed,
            shape=shape,
            seconds=round(hurt_s, 1),
            total_s=round(time.monotonic() - began, 1),
            faults=log.counts(),
            verdict=stack_judge.judge(one),
            jobs=len(one.jobs),
            ghosts_refused=dict(sorted(ghosts.refused.items())),
            ghosts_accepted=ghosts.accepted,
            dead=dict(one.dead.most_common()),
            incomplete=one.incomplete,
            rows=sum(found.rows for found in rows),
            lost=sum(found.lost for found in rows),
            doubled=sum(found.doubled for found in rows),
            wrong=sum(found.wrong for found in rows),
            could_not=_could_not(one),
            violations=_violations(one),
            log=log.lines(),
        )


def _hurt(one: World, ghosts: Ghosts, seconds: float, seed: int) -> None:
    threads = Threads()
    for track in tracks(one, long=seconds >= LONG_S):
        rng = random.Random(f"{seed}/{track.name}")
        threads.start(track.name, lambda over, track=track, rng=rng: run_track(track, one, rng, over))
    threads.start("ghosts", lambda over: ghosts.haunt(one, random.Random(f"{seed}/ghosts"), over))
    threads.start("jobs", lambda over: _feed(one, over))
    threads.over.wait(seconds)
    threads.join()


def _feed(one: World, over: threading.Event) -> None:
    """Apply the next job when the last one runs out of ranges."""
    while not over.wait(FEED_S):
        if one.has_room():
            one.apply_next()


def _recover(one: World) -> None:
    """All faults are off: the stack comes back by itself and by `trace-ray up`, and every job completes."""
    one.up()
    one.processes.await_actors(DISPATCHER, 1)
    one.processes.await_actors(WORKER, WORKERS)
    for name in one.jobs:
        one.finish(name)


def _violations(one: World) -> list[str]:
    settings = one.settings()
    found = [str(violation) for violation in checker.violations(one.state_url, (*checker.ALWAYS, *checker.DRAINED))]
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    found += [str(violation) for violation in checker.check_objects(one.state_url, store)]
    store.close()
    return found


def _could_not(one: World) -> list[str]:
    """Return what this machine did not allow."""
    found: list[str] = []
    if not one.clocks.ready:
        found.append("no clock was moved: that needs Linux and a C compiler")
    if one.staging.kind != "tmpfs":
        found.append("no disk was full: files were limited in size instead, for only root may mount a small disk")
    return found


def table(report: Report) -> str:
    """Return the run as Markdown."""
    verdict = report.verdict
    figures: list[tuple[str, object]] = [
        ("seed; engines; object store", f"{report.seed}; {', '.join(report.shape.engines)}; {report.shape.store}"),
        ("seconds of faults; with start, recovery and checks", f"{report.seconds:.0f}; {report.total_s:.0f}"),
        ("jobs; datasets; ranges", f"{report.jobs}; {report.jobs * len(report.shape.kinds)}; {verdict.ranges}"),
        ("attempts", f"{verdict.attempts} ({_counts(verdict.outcomes)})"),
        ("published by engine", _counts(verdict.engines)),
        ("failed attempts by kind", _counts(verdict.failures) or "none"),
        ("dead ranges put back by `retry`", f"{sum(report.dead.values())} ({_counts(report.dead) or 'none'})"),
        ("leases taken over by a second Dispatcher", verdict.taken_over),
        ("leases that a kill of the Dispatcher kept from their worker: nothing had run", verdict.undelivered),
        ("re-runs although the worker lived; after a Dispatcher's kill", f"{len(verdict.reruns)}; "
         f"{verdict.after_dispatcher}"),
        ("failures that no fault explains", len(verdict.unexplained)),
        ("completions of ghosts: refused; accepted", f"{sum(report.ghosts_refused.values())}; "
         f"{len(report.ghosts_accepted)}"),
        ("rows compared; lost; doubled; wrong", f"{report.rows}; {report.lost}; {report.doubled}; {report.wrong}"),
        ("violated invariants", len(report.violations)),
        *(("fault: " + kind, count) for kind, count in report.faults.items()),
        *(("not done here", reason) for reason in report.could_not),
    ]  # fmt: skip
    return "\n".join(["| what | how many |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures)])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stack_run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("cryo", "native"))
    parser.add_argument("--store", choices=("file", "s3"))
    parser.add_argument("--json", type=Path, help="write everything here, with the log of faults")
    asked = parser.parse_args()
    report = run(asked.seconds, asked.seed, engine=asked.engine, store=asked.store, loud=True)
    if asked.json:
        asked.json.write_text(json.dumps({**asdict(report), "problems": report.problems}, indent=1, default=str))
    print(table(report))
    for problem in report.problems:
        print(problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
