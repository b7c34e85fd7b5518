"""What the ledger says of a run, held against what was done to it.

Every attempt that did not succeed must have its reason in the log of faults. A lease that was taken back although its
worker lived and nobody else led is a re-run that should not have been.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from state.db import Row
from tests.chaos.stack_log import Log
from tests.chaos.stack_world import World

ATTEMPTS = b"""
SELECT a.task_id, a.attempt, a.worker_id, a.epoch, a.outcome, a.error ->> 'kind' AS kind,
       a.error ->> 'message' AS message, extract(epoch FROM a.started_at)::float8 AS started,
       extract(epoch FROM coalesce(a.ended_at, clock_timestamp()))::float8 AS ended, t.state
FROM state.attempts a JOIN state.tasks t USING (task_id)
ORDER BY a.started_at
"""
ENGINES = b"SELECT certificate ->> 'engine' AS engine, count(*) AS versions FROM state.dataset_versions GROUP BY 1"
RANGES = b"SELECT count(*) AS ranges, count(*) FILTER (WHERE done) AS done FROM state.ranges"

BEFORE_S = 1.0  # what failed as a fault ended is counted by the Dispatcher a moment later
AFTER_DISPATCHER_S = 15.0
ON_ITS_WAY_S = 0.25  # from the commit of a claim to the call of the worker: milliseconds, more on a busy machine
STORE = ("store 503", "store half", "store hang", "store lost")
DISK = ("staging disk full", "object disk full")
CLOCK = "clock of a worker an hour off"
TAKEN = ("second Dispatcher", "second stack")
PROVIDER_ERRORS = frozenset(
    {"SourceUnavailable", "SourceLied", "MethodMissing", "DeadlineExceeded", "EngineCrashed", "PublicationRefused"}
)
STORE_ERRORS = frozenset({"StoreUnavailable", "DeadlineExceeded"})


@dataclass
class Verdict:
    """`unexplained`: attempts that failed for a reason that nobody gave them. `reruns`: leases that were taken back
    from workers that lived, with nobody else leading; `after_dispatcher` of them within seconds of a Dispatcher's kill.
    `undelivered`: leases committed in the last moment of a Dispatcher or connection, which never reached a worker.
    """

    ranges: int
    done: int
    attempts: int
    engines: dict[str, int]
    outcomes: dict[str, int]
    failures: dict[str, int]
    taken_over: int = 0
    undelivered: int = 0
    reruns: list[str] = field(default_factory=list[str])
    after_dispatcher: int = 0
    unexplained: list[str] = field(default_factory=list[str])


def judge(world: World) -> Verdict:
    database = world.database("judge")
    with database.transaction() as conn:
        attempts = conn.execute(ATTEMPTS).fetchall()
        engines = conn.execute(ENGINES).fetchall()
        (ranges,) = conn.execute(RANGES).fetchall()
    database.close()
    verdict = Verdict(
        ranges=ranges["ranges"],
        done=ranges["done"],
        attempts=len(attempts),
        engines={row["engine"]: row["versions"] for row in engines},
        outcomes=dict(Counter(str(row["outcome"]) for row in attempts)),
        failures=dict(Counter(row["kind"] for row in attempts if row["outcome"] == "failed").most_common()),
    )
    _judge_lost(verdict, attempts, world.log, world.shape.lease_s)
    for row in attempts:
        if row["outcome"] == "failed" and not _explained(row, world.log):
            verdict.unexplained.append(_told(row, world.log))
    return verdict


def _judge_lost(verdict: Verdict, attempts: Sequence[Row], log: Log, lease_s: float) -> None:
    """Sort the leases that were taken back: from the dead or silent, by a second Dispatcher, or from the living."""
    gone = log.of("worker killed", "worker stopped longer than a lease")
    kills = log.of("Dispatcher killed")
    # a claim whose answer was lost is unknown to its Dispatcher; one that stopped after it may be killed as it stands
    breaks = log.of("backends ended", "Postgres crashed", "Dispatcher stopped longer than a lease")
    for row in attempts:
        if row["outcome"] not in ("released", "expired"):
            continue
        start, end = row["started"], row["ended"]
        if row["worker_id"].startswith("rival/"):
            continue  # it is killed at the end of each of its terms
        if any(fault.target == row["worker_id"] and fault.touches(start - BEFORE_S, end) for fault in gone):
            continue
        if any(fault.touches(start, end + lease_s) or fault.touches(start - lease_s, end) for fault in log.of(*TAKEN)):
            verdict.taken_over += 1
            continue
        if any(0 <= fault.began - start < ON_ITS_WAY_S for fault in (*kills, *breaks)):
            verdict.undelivered += 1
            continue
        verdict.reruns.append(_told(row, log))
        verdict.after_dispatcher += any(fault.touches(end - AFTER_DISPATCHER_S, end) for fault in kills)


def _explained(row: Row, log: Log) -> bool:
    start, end = row["started"] - BEFORE_S, row["ended"]
    causes: list[str] = []
    if row["kind"] in PROVIDER_ERRORS:
        causes += [kind for kind in log.counts() if kind.startswith("rpc ")]
        causes += DISK  # an engine that could not write, and the disk has room again when it is looked at
    if row["kind"] in STORE_ERRORS:
        causes += [*STORE, *DISK]
    if row["kind"] == "DiskFull":
        causes += DISK
    if row["kind"] in ("FatalError", "InfraError", "StoreUnavailable"):
        causes.append(CLOCK)
    return any(fault.touches(start, end) for fault in log.of(*causes))


def _told(row: Row, log: Log) -> str:
    span = f"{row['started'] - log.began:.1f}-{row['ended'] - log.began:.1f} s"
    return (
        f"{row['outcome']} {span} {row['worker_id']} epoch {row['epoch']} attempt {row['attempt']} "
        f"of {row['task_id']}: {row['kind']}: {row['message']}"
    )
