"""Chaos on the ledger alone, without Ray: processes that compete for one database, and a supervisor that hurts them.

`python -m tests.chaos.ledger_run --seconds 60 --seed 1`. The seed fixes the faults, their order and what becomes of
each attempt; how the processes interleave is up to the machine. At the end all comes to rest, and `checker` judges. A
run that was too kind to prove anything fails too.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.chaos import checker, ledger_wire
from tests.chaos.checker import Invariant, Violation
from tests.chaos.ledger_wire import LEADER_S, LEASE_S
from tests.chaos.ledger_worker import digest, poison
from tests.chaos.ledger_world import World, world
from trace_ray.contracts import LeaseToken, TaskId

DRAIN_S: Final = 60.0
DECK_S: Final = 10.0  # in this time each fault of FAULTS happens as often as it says

Fault = Callable[[World, random.Random], object]

FAULTS: Final[Mapping[str, tuple[int, Fault]]] = {
    "leader killed": (3, lambda one, _: one.kill(one.leader() or "")),
    "follower killed": (1, lambda one, rng: one.kill(rng.choice(one.followers()))),
    "worker killed": (2, lambda one, rng: one.kill(rng.choice(one.workers()))),
    "leader paused": (4, lambda one, rng: one.freeze(one.leader() or "", rng.uniform(1.2, 2.5) * LEADER_S)),
    "worker paused": (4, lambda one, rng: one.freeze(rng.choice(one.workers()), rng.uniform(1.2, 3.0) * LEASE_S)),
    "second leader": (3, lambda one, rng: one.tell_to_lead(rng.choice(one.followers()))),
    "backends terminated": (5, lambda one, _: terminate(one)),
    "backend killed": (1, lambda one, rng: one.crash_backend(rng)),
    "server stopped at once": (1, lambda one, _: crash_server(one)),
    "tasks cancelled": (5, lambda one, rng: one.cancel(rng.randint(1, 3))),
    "versions withdrawn": (3, lambda one, rng: one.withdraw(rng.randint(1, 3))),
    "dead ranges put back": (2, lambda one, _: one.retry_dead()),
}

OWN: Final = (  # what only this run can know, because of what its workers publish
    Invariant(
        "no_forged_failure",
        "no attempt failed by a message that it did not send",
        "SELECT task_id, attempt, outcome FROM state.attempts WHERE error ->> 'kind' = 'Forged'",
    ),
    Invariant(
        "done_is_visible",
        "every done range shows a version, also where one was withdrawn",
        """
        SELECT r.stream_id, r.range_start FROM state.ranges r JOIN state.streams s USING (stream_id)
        WHERE r.done AND NOT EXISTS (SELECT FROM state.dataset_versions v WHERE v.dataset_uuid = s.dataset_uuid
          AND v.range_start = r.range_start AND v.range_end = r.range_end AND v.replaced_snapshot IS NULL)
        """,
    ),
    Invariant(
        "durations_not_clocks",
        "a process whose clock is an hour off leaves no trace: times are the server's, durations are short",
        """
        SELECT task_id, attempt, started_at, ended_at, seconds FROM state.attempts
        WHERE started_at < (SELECT min(created_at) FROM state.jobs) OR started_at > clock_timestamp()
          OR ended_at > clock_timestamp() OR (seconds ->> 'extract')::float8 NOT BETWEEN 0 AND 60
        """,
    ),
)

TAKEN: Final = """
    SELECT v.task_id, v.attempt, a.lease_token, f.digest FROM state.dataset_versions v
    JOIN state.dataset_files f USING (dataset_version) JOIN state.attempts a USING (task_id, attempt)
"""
DEAD: Final = (
    "SELECT task_id, attempt, state, task_failures, infra_failures, error FROM state.tasks WHERE state = 'dead'"
)
FIGURES: Final[Mapping[str, str]] = {
    "tasks": "SELECT count(*) FROM state.tasks",
    "succeeded": "SELECT count(*) FROM state.tasks WHERE state = 'succeeded'",
    "dead": "SELECT count(*) FROM state.tasks WHERE state = 'dead'",
    "later generations": "SELECT count(*) FROM state.dataset_versions WHERE generation > 0",
    "attempts": "SELECT count(*) FROM state.attempts",
    "expired": "SELECT count(*) FROM state.attempts WHERE outcome = 'expired'",
    "released": "SELECT count(*) FROM state.attempts WHERE outcome = 'released'",
    "failed": "SELECT count(*) FROM state.attempts WHERE outcome = 'failed'",
    "terms": "SELECT max(epoch) FROM state.dispatcher",
    "events": "SELECT count(*) FROM chaos.sink",
    "events delivered again": "SELECT count(*) FROM chaos.sink WHERE deliveries > 1",
    "lost": """
        SELECT count(*) FROM state.ranges r JOIN state.tasks t USING (task_id) WHERE NOT r.done AND t.state <> 'dead'
    """,
    "duplicated": """
        SELECT coalesce(sum(n - 1), 0)::bigint FROM (SELECT count(*) AS n FROM state.dataset_versions
        GROUP BY dataset_uuid, range_start, range_end, generation) x
    """,
}
LEAST: Final[Mapping[str, float]] = {  # a second of faults brings at least so many, or the run proves nothing
    "tasks": 20.0,
    "expired": 1.0,
    "terms": 0.3,
    "fenced": 0.1,
    "reaped": 1.0,
    "adopted": 0.1,
    "refused stale_attempt": 1.0,
    "refused wrong_token": 0.5,
    "refused already_done": 1.0,
    "events delivered again": 0.05,
    "backends terminated": 0.2,
    "server stopped at once": 0.05,
    "backend killed": 0.05,
    "leader killed": 0.1,
    "leader paused": 0.1,
    "worker killed": 0.1,
}


@dataclass(frozen=True)
class Report:
    """One run. `shortages`: what it was meant to exercise and hardly did."""

    seed: int
    seconds: float
    total_s: float
    faults: dict[str, int]
    figures: dict[str, int]
    log: dict[str, int]
    shortages: list[str]
    violations: list[Violation]

    @property
    def problems(self) -> list[str]:
        """Return what is wrong with the ledger, or with the run."""
        return [*map(str, self.violations), *(f"too few to prove anything: {one}" for one in self.shortages)]

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "violations": [str(one) for one in self.violations]}


def run(seconds: float, seed: int, *, drain_s: float = DRAIN_S) -> Report:
    """Hurt a ledger for so long, let it come to rest, and judge it."""
    began = time.monotonic()
    with world(seed) as one:
        faults = hurt(one, seconds, random.Random(seed))
        one.calm()
        drained = one.drain(drain_s)
        log, unexpected = read_log(one)
        violations = judge(one, drained=drained) + unexpected
        figures = {name: number(one.url, query) for name, query in FIGURES.items()}
    missed = shortages({**figures, **log, **faults}, seconds)
    return Report(seed, seconds, time.monotonic() - began, faults, figures, log, missed, violations)


def shortages(counted: Mapping[str, int], seconds: float) -> list[str]:
    """Return what a run of so many seconds was meant to exercise and hardly did."""
    return [
        f"{name}: {counted.get(name, 0)} in {seconds:.0f} s, wanted {least * seconds:.0f}"
        for name, least in LEAST.items()
        if counted.get(name, 0) < int(least * seconds)
    ]


def hurt(one: World, seconds: float, rng: random.Random) -> dict[str, int]:
    """Deal faults from shuffled decks, and keep everybody running; return how often each took place."""
    done: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    cards = [name for name, (times, _) in FAULTS.items() for _ in range(times)]
    deck: list[str] = []
    over = time.monotonic() + seconds
    due = time.monotonic() + 1.0  # when the first tasks run
    while (now := time.monotonic()) < over:
        one.respawn()
        if now >= due:
            if not deck:
                deck = rng.sample(cards, len(cards))
            name = deck.pop()
            done[name] += int(FAULTS[name][1](one, rng) or 0)
            due += DECK_S / len(cards) * rng.uniform(0.5, 1.5)  # faults that take long are caught up with
        time.sleep(0.02)
    return dict(done)


def terminate(one: World) -> bool:
    pids = one.backends()
    return bool(pids) and one.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS p(pid)", pids) is not None


def crash_server(one: World) -> bool:
    one.crash_server()
    return True


def read_log(one: World) -> tuple[dict[str, int], list[Violation]]:
    """Sum up what the dispatchers wrote down; an error that none of them should meet is a violation."""
    counts: Counter[str] = Counter()
    unexpected: list[dict[str, Any]] = []
    for what, count, detail in ledger_wire.read(one.log_file):
        counts[what] += count
        if detail:
            unexpected.append({"error": detail})
    rule = "a dispatcher meets only errors that it knows"
    found = [Violation("unexpected_error", rule, len(unexpected), tuple(unexpected[:2]))] if unexpected else []
    return dict(sorted(counts.items())), found


def judge(one: World, *, drained: bool) -> list[Violation]:
    """Ask the checker, and what only this run can know."""
    invariants = (*checker.ALWAYS, *checker.SINK, *OWN, *checker.DRAINED)
    found = checker.violations(one.url, invariants)
    if not drained and not found:
        found.append(Violation("comes_to_rest", "without faults all work ends soon", 1, ()))
    found += foreign_bytes(one.url)
    with psycopg.connect(one.url) as conn:
        dead = conn.execute(DEAD).fetchall()
    groundless = [row for row in dead if poison(one.seed, row[0]) is None]
    if groundless:
        rows = tuple({"task_id": row[0], "error": row[5]} for row in groundless[: checker.SHOWN])
        found.append(Violation("dead_for_a_reason", "only poisoned ranges die", len(groundless), rows))
    return found


def foreign_bytes(url: str) -> list[Violation]:
    """Return the versions whose bytes are not those of the attempt that the ledger says it took."""
    with psycopg.connect(url) as conn:
        taken = conn.execute(TAKEN).fetchall()
    wrong = [row for row in taken if digest(TaskId(row[0]), row[1], LeaseToken(row[2])) != row[3]]
    rows = tuple({"task_id": row[0], "attempt": row[1]} for row in wrong[: checker.SHOWN])
    rule = "what is published are the bytes of the accepted attempt and its token"
    return [Violation("bytes_of_the_accepted_attempt", rule, len(wrong), rows)] if wrong else []


def number(url: str, query: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0] or 0)


def table(report: Report) -> str:
    """Return the run as Markdown."""
    figures = {
        "seed": report.seed,
        "seconds of faults": f"{report.seconds:.0f}",
        "seconds with start, drain and checks": f"{report.total_s:.0f}",
        **report.faults,
        **report.figures,
        **report.log,
        "violations": sum(one.count for one in report.violations),
    }
    return "\n".join(
        ["| what | how many |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.ledger_run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drain", type=float, default=DRAIN_S, help="seconds that the work may take to end afterwards")
    parser.add_argument("--json", type=Path, help="write everything here")
    asked = parser.parse_args()
    report = run(asked.seconds, asked.seed, drain_s=asked.drain)
    if asked.json:
        asked.json.write_text(json.dumps(report.json(), indent=2, default=str))
    print(table(report))
    for problem in report.problems:
        print(problem)
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
