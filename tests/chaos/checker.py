"""Judges a ledger after chaos. Reads Postgres only, with SQL of its own: it shares no line with what it judges.

Each invariant is one statement that returns the rows which break it; no row, no violation. `check_objects` also reads
what was published.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString, Protocol, cast

import psycopg
import pyarrow.parquet as pq
from psycopg.rows import dict_row

Row = dict[str, Any]

SHOWN: Final = 5  # rows of a violation that are printed; all of them are counted


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule, and the statement that returns the rows which break it."""

    name: str
    rule: str
    sql: LiteralString


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule with its offending rows; `count` of them, the first few are kept."""

    name: str
    rule: str
    count: int
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.rule}: broken {self.count} times\n" + "\n".join(f"    {row}" for row in self.rows)


class Reader(Protocol):
    """Copies an object to a path; `trace_ray.storage.ObjectStore` is one."""

    def get(self, key: str, path: Path) -> None: ...


ALWAYS: Final = (  # at every commit
    Invariant(
        "ranges_tile",
        "the ranges of a stream follow each other from the job's first block without gap or overlap",
        """
        SELECT * FROM (
          SELECT r.stream_id, r.range_start, r.range_end,
            coalesce(lag(r.range_end) OVER (PARTITION BY r.stream_id ORDER BY r.range_start), j.from_block) AS expected
          FROM state.ranges r JOIN state.streams s USING (stream_id) JOIN state.jobs j USING (job_id)) x
        WHERE range_start <> expected
        """,
    ),
    Invariant(
        "cursor_is_last_end",
        "the cursor of a stream is the end of its last range",
        """
        SELECT c.stream_id, c.next_block, max(r.range_end) AS last_end
        FROM state.cursors c JOIN state.streams s USING (stream_id) JOIN state.jobs j USING (job_id)
        LEFT JOIN state.ranges r USING (stream_id)
        GROUP BY c.stream_id, c.next_block, j.from_block
        HAVING c.next_block <> coalesce(max(r.range_end), j.from_block)
        """,
    ),
    Invariant(
        "range_has_its_task",
        "a range has one task of the same blocks, and a first-generation task has its range",
        """
        SELECT r.stream_id, r.range_start, r.task_id, t.task_id AS found
        FROM state.ranges r FULL JOIN (SELECT * FROM state.tasks WHERE generation = 0) t
          ON t.stream_id = r.stream_id AND t.range_start = r.range_start AND t.range_end = r.range_end
        WHERE r.task_id IS NULL OR t.task_id IS NULL
        """,
    ),
    Invariant(
        "range_follows_its_task",
        "a range is done exactly when its task succeeded, and dead exactly when it is dead or cancelled",
        """
        SELECT r.stream_id, r.range_start, r.done, r.dead, t.state
        FROM state.ranges r JOIN state.tasks t USING (task_id)
        WHERE r.done <> (t.state = 'succeeded') OR (r.dead AND NOT r.done) <> (t.state IN ('dead', 'cancelled'))
        """,
    ),
    Invariant(
        "task_published_once",
        "a succeeded task has exactly one dataset version, every other task none",
        """
        SELECT t.task_id, t.state, t.range_start, count(v.dataset_version) AS versions
        FROM state.tasks t LEFT JOIN state.dataset_versions v USING (task_id)
        GROUP BY t.task_id HAVING count(v.dataset_version) <> (t.state = 'succeeded')::int
        """,
    ),
    Invariant(
        "version_fits_its_task",
        "a dataset version is of the dataset, blocks, generation and accepted attempt of its task",
        """
        SELECT v.dataset_version, v.task_id, v.attempt, t.attempt AS accepted
        FROM state.dataset_versions v LEFT JOIN state.tasks t USING (task_id)
        WHERE (v.dataset_uuid, v.range_start, v.range_end, v.generation, v.attempt)
          IS DISTINCT FROM (t.dataset_uuid, t.range_start, t.range_end, t.generation, t.attempt)
        """,
    ),
    Invariant(
        "version_is_single",
        "blocks of a dataset have one version per generation, and one that is visible unless it was withdrawn",
        """
        SELECT dataset_uuid, range_start, range_end, array_agg(generation) AS generations
        FROM state.dataset_versions GROUP BY dataset_uuid, range_start, range_end
        HAVING count(*) <> count(DISTINCT generation) OR count(*) FILTER (WHERE replaced_snapshot IS NULL) > 1
          OR (count(*) FILTER (WHERE replaced_snapshot IS NULL) = 0 AND bool_and(withdrawn IS NULL))
        """,
    ),
    Invariant(
        "visible_versions_disjoint",
        "visible versions of a dataset never overlap",
        """
        SELECT a.dataset_uuid, a.range_start, a.range_end, b.range_start AS other_start, b.range_end AS other_end
        FROM state.dataset_versions a JOIN state.dataset_versions b
          ON a.dataset_uuid = b.dataset_uuid AND a.range_start < b.range_end AND b.range_start < a.range_end
          AND a.ctid < b.ctid
        WHERE a.replaced_snapshot IS NULL AND b.replaced_snapshot IS NULL
        """,
    ),
    Invariant(
        "hash_chain",
        "visible neighbours of a dataset join: the parent hash of one is the last hash of the other",
        """
        SELECT a.dataset_uuid, a.range_end AS block, a.end_hash, b.parent_hash
        FROM state.dataset_versions a JOIN state.dataset_versions b
          ON b.dataset_uuid = a.dataset_uuid AND b.range_start = a.range_end
        WHERE a.replaced_snapshot IS NULL AND b.replaced_snapshot IS NULL AND a.end_hash <> b.parent_hash
        """,
    ),
    Invariant(
        "files_of_versions",
        "a dataset version has files 0 to n-1 whose rows add up and whose blocks lie inside it; no file is an orphan",
        """
        SELECT v.dataset_version, f.dataset_version AS files_of, v.row_count, sum(f.row_count) AS rows
        FROM state.dataset_versions v FULL JOIN state.dataset_files f USING (dataset_version)
        GROUP BY v.dataset_version, f.dataset_version, v.row_count, v.range_start, v.range_end
        HAVING v.dataset_version IS NULL OR f.dataset_version IS NULL OR sum(f.row_count) <> v.row_count
          OR min(f.position) <> 0 OR max(f.position) <> count(*) - 1 OR count(DISTINCT f.key) <> count(*)
          OR min(f.min_block) < v.range_start OR max(f.max_block) >= v.range_end OR bool_or(f.min_block > f.max_block)
        """,
    ),
    Invariant(
        "attempts_gapless",
        "the attempts of a task count 1 to n, and n is what the task says",
        """
        SELECT t.task_id, t.attempt, count(a.attempt) AS attempts, min(a.attempt) AS first, max(a.attempt) AS last
        FROM state.tasks t FULL JOIN state.attempts a USING (task_id)
        GROUP BY t.task_id, t.attempt
        HAVING t.attempt IS NULL OR count(a.attempt) <> t.attempt
          OR (t.attempt > 0 AND (min(a.attempt) <> 1 OR max(a.attempt) <> t.attempt))
        """,
    ),
    Invariant(
        "accepted_attempt_is_last",
        "a succeeded task has exactly one succeeded attempt, its last; every other task has none",
        """
        SELECT t.task_id, t.state, t.attempt, array_agg(a.attempt) FILTER (WHERE a.outcome = 'succeeded') AS accepted
        FROM state.tasks t LEFT JOIN state.attempts a USING (task_id)
        GROUP BY t.task_id
        HAVING array_agg(a.attempt) FILTER (WHERE a.outcome = 'succeeded')
          IS DISTINCT FROM CASE WHEN t.state = 'succeeded' THEN ARRAY[t.attempt] END
        """,
    ),
    Invariant(
        "open_attempt_is_the_lease",
        "only a running task has an open attempt: its last, with the token of its lease",
        """
        SELECT t.task_id, t.state, t.attempt, a.attempt AS open
        FROM state.tasks t LEFT JOIN state.attempts a ON a.task_id = t.task_id AND a.outcome IS NULL
        WHERE (t.state = 'running') <> (a.attempt IS NOT NULL)
          OR a.attempt <> t.attempt OR a.lease_token <> t.lease_token
        """,
    ),
    Invariant(
        "attempts_end_once",
        "an attempt has an end exactly when it has an outcome, and never before it began",
        """
        SELECT task_id, attempt, outcome, started_at, ended_at FROM state.attempts
        WHERE (outcome IS NULL) <> (ended_at IS NULL) OR ended_at < started_at
        """,
    ),
    Invariant(
        "attempts_do_not_overlap",
        "an attempt of a task begins after the attempt before it ended",
        """
        SELECT * FROM (
          SELECT task_id, attempt, started_at, lag(ended_at) OVER w AS before, lag(outcome) OVER w AS outcome_before
          FROM state.attempts WINDOW w AS (PARTITION BY task_id ORDER BY attempt)) x
        WHERE attempt > 1 AND (before IS NULL OR started_at < before)
        """,
    ),
    Invariant(
        "tokens_are_unique",
        "no two attempts ever had the same lease token",
        """
        SELECT lease_token, count(*) AS attempts FROM state.attempts GROUP BY lease_token HAVING count(*) > 1
        """,
    ),
    Invariant(
        "epochs_never_fall",
        "no attempt is leased by an older epoch than one that was leased before it: of its task, and of all",
        """
        SELECT * FROM (
          SELECT task_id, attempt, epoch, started_at,
            max(epoch) OVER (ORDER BY started_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest,
            lag(epoch) OVER (PARTITION BY task_id ORDER BY attempt) AS before
          FROM state.attempts) x
        WHERE epoch < newest OR epoch < before
        """,
    ),
    Invariant(
        "leases_of_known_epochs",
        "no lease or attempt carries an epoch newer than the newest term",
        """
        SELECT a.task_id, a.attempt, a.epoch, t.lease_epoch, d.epoch AS newest
        FROM state.attempts a JOIN state.tasks t USING (task_id) CROSS JOIN state.dispatcher d
        WHERE a.epoch > d.epoch OR t.lease_epoch > d.epoch
        """,
    ),
    Invariant(
        "snapshots_gapless",
        "snapshot numbers of an organisation run from 1 to its newest, each publication has its own",
        """
        WITH changes AS (
          SELECT d.org_id, v.published_snapshot AS number, true AS published
          FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
          UNION ALL
          SELECT d.org_id, v.replaced_snapshot, false
          FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
          WHERE v.replaced_snapshot IS NOT NULL)
        SELECT y.org_id, y.newest, count(DISTINCT c.number) AS numbers, min(c.number) AS first, max(c.number) AS last
        FROM state.snapshots y LEFT JOIN changes c USING (org_id)
        GROUP BY y.org_id, y.newest
        HAVING count(DISTINCT c.number) <> y.newest OR max(c.number) <> y.newest OR min(c.number) <> 1
          OR count(*) FILTER (WHERE c.published) <> count(DISTINCT c.number) FILTER (WHERE c.published)
        """,
    ),
    Invariant(
        "dataset_snapshot_is_newest",
        "the snapshot of a dataset is that of its last change",
        """
        SELECT d.dataset_uuid, d.snapshot, max(greatest(v.published_snapshot, v.replaced_snapshot)) AS newest
        FROM state.datasets d LEFT JOIN state.dataset_versions v USING (dataset_uuid)
        GROUP BY d.dataset_uuid
        HAVING d.snapshot <> coalesce(max(greatest(v.published_snapshot, v.replaced_snapshot)), 0)
        """,
    ),
    Invariant(
        "events_have_their_cause",
        "an outbox event names a published version, or an attempt of a task that died",
        """
        SELECT o.id, o.topic, o.idempotency_key FROM state.events o
        LEFT JOIN state.dataset_versions v ON o.idempotency_key = 'published/' || v.dataset_version
        LEFT JOIN state.attempts a ON o.idempotency_key = 'dead/' || a.task_id || '/' || a.attempt
        WHERE (o.topic = 'dataset.published' AND v.dataset_version IS NULL)
           OR (o.topic = 'task.dead' AND a.task_id IS NULL)
        """,
    ),
)

DRAINED: Final = (  # after everything came to rest
    Invariant(
        "nothing_is_open",
        "after a drain no task is queued or running",
        "SELECT task_id, state, attempt, run_at, error FROM state.tasks WHERE state IN ('queued', 'running')",
    ),
    Invariant(
        "nothing_is_lost",
        "after a drain every block of an enabled job up to its last one is published or in a dead range",
        """
        SELECT s.stream_id, c.next_block, j.to_block FROM state.streams s
        JOIN state.jobs j USING (job_id) JOIN state.cursors c USING (stream_id)
        WHERE s.enabled AND j.enabled AND j.to_block IS NOT NULL AND c.next_block <> j.to_block
        """,
    ),
)

SINK: Final = (  # `chaos.sink` holds one row per event that ever came out of the outbox
    Invariant(
        "published_event_came_once",
        "every published version has exactly one event: delivered into the sink, and no longer in the outbox",
        """
        SELECT v.dataset_version, s.key AS delivered FROM state.dataset_versions v
        FULL JOIN (SELECT * FROM chaos.sink WHERE topic = 'dataset.published') s
          ON s.key = 'published/' || v.dataset_version
        WHERE v.dataset_version IS NULL OR s.key IS NULL
        """,
    ),
    Invariant(
        "dead_event_came_once",
        "a dead task has exactly one event of its last attempt, and an event is of an attempt",
        """
        SELECT t.task_id, t.attempt, s.key AS delivered
        FROM (SELECT * FROM state.tasks WHERE state = 'dead') t
        FULL JOIN (SELECT * FROM chaos.sink WHERE topic = 'task.dead') s
          ON s.key = 'dead/' || t.task_id || '/' || t.attempt
        LEFT JOIN state.attempts a ON s.key = 'dead/' || a.task_id || '/' || a.attempt
        WHERE s.key IS NULL OR (t.task_id IS NULL AND a.task_id IS NULL)
        """,
    ),
    Invariant(
        "no_event_before_its_cause",
        "when an event was delivered, what it tells was committed",
        "SELECT key, topic FROM chaos.sink WHERE NOT caused",
    ),
    Invariant(
        "outbox_is_empty",
        "after a drain the outbox is empty",
        "SELECT id, topic, idempotency_key, attempts, failed, last_error FROM state.outbox",
    ),
)


def violations(url: str, invariants: Sequence[Invariant] = ALWAYS) -> list[Violation]:
    """Return what is broken, as one snapshot of the database shows it."""
    with psycopg.Connection[Row].connect(url, row_factory=dict_row, application_name="chaos-checker") as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return [broken for one in invariants if (broken := _broken(conn, one))]


def _broken(conn: psycopg.Connection[Row], invariant: Invariant) -> Violation | None:
    rows = conn.execute(invariant.sql).fetchall()
    return Violation(invariant.name, invariant.rule, len(rows), tuple(rows[:SHOWN])) if rows else None


# --- objects ------------------------------------------------------------------------------------------------------

FILES: Final = """
    SELECT f.key, f.bytes, f.row_count, f.digest, f.min_block, f.max_block, v.range_start, v.range_end
    FROM state.dataset_files f JOIN state.dataset_versions v USING (dataset_version) ORDER BY f.key
"""


def check_objects(url: str, store: Reader) -> list[Violation]:
    """Read every registered object and return what is broken: of all versions, also replaced ones, which stay."""
    with psycopg.Connection[Row].connect(url, row_factory=dict_row, application_name="chaos-checker") as conn:
        files = conn.execute(FILES).fetchall()
    broken: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="trace-ray-chaos-") as scratch:
        for file in files:
            for rule, row in _object_problems(file, store, Path(scratch) / "object"):
                broken.setdefault(rule, []).append(row)
    return [Violation("objects", rule, len(rows), tuple(rows[:SHOWN])) for rule, rows in broken.items()]


def _object_problems(file: Row, store: Reader, path: Path) -> Iterator[tuple[str, Row]]:
    try:
        store.get(file["key"], path)
    except Exception as error:  # noqa: BLE001 - whatever keeps an object from being read breaks the rule
        yield "a registered object can be read", {**file, "error": repr(error)}
        return
    data = path.read_bytes()
    found = {"bytes": len(data), "digest": hashlib.sha256(data).hexdigest()}
    if found != {name: file[name] for name in found}:
        yield "an object has the size and the sha256 that are registered", {**file, "found": found}
        return
    if file["digest"] not in file["key"]:
        yield "the name of an object carries its digest", file
    try:
        table = pq.read_table(path)
    except Exception as error:  # noqa: BLE001 - whatever keeps an object from being read breaks the rule
        yield "an object is whole Parquet", {**file, "error": repr(error)}
        return
    if table.num_rows != file["row_count"]:
        yield "an object has the rows that are registered", {**file, "found": table.num_rows}
    numbers = cast(list[int], table.column("block_number").to_pylist())
    first, last = min(numbers, default=file["min_block"]), max(numbers, default=file["max_block"])
    if not file["range_start"] <= file["min_block"] <= first <= last <= file["max_block"] < file["range_end"]:
        yield (
            "the blocks of an object lie where they are registered, inside its range",
            {**file, "found": (first, last)},
        )
