"""The plans of the hot statements: by index, also when most of a large table is history and nobody has analysed it."""

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from state import db, evaluations, jobs, outbox, retractions, tasks
from state.db import Connection, connect, statements
from tests import pg
from tests.integration.state.ledger import CHAIN, POOL, Ledger, job, stream
from tests.integration.state.watching import rule, watch
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.lite.postgres import LocalPostgres

DONE, READY, RUNNING, EVALUATED = 100_000, 20_000, 100, 20_000
HISTORY: Final = (
    b"""
    INSERT INTO state.tasks (task_id, job_id, stream_id, dataset_uuid, range_start, range_end, payload, state, attempt,
      created_at, finished_at)
    SELECT gen_random_uuid(), t.job_id, t.stream_id, t.dataset_uuid, 1000000 + n, 1000001 + n, t.payload, 'succeeded',
      1, now() - n * interval '1 min', now() - n * interval '1 min'
    FROM (SELECT * FROM state.tasks LIMIT 1) t, generate_series(1, %(done)s::int) n""",
    b"""
    INSERT INTO state.tasks (task_id, job_id, stream_id, dataset_uuid, range_start, range_end, payload, run_at)
    SELECT gen_random_uuid(), t.job_id, t.stream_id, t.dataset_uuid, 2000000 + n, 2000001 + n, t.payload,
      now() + (n %% 2 - 1) * interval '1 h' -- half of them wait to be tried again
    FROM (SELECT * FROM state.tasks LIMIT 1) t, generate_series(1, %(ready)s::int) n""",
    b"""
    INSERT INTO state.ranges (stream_id, range_start, range_end, task_id, done)
    SELECT stream_id, range_start, range_end, task_id, state = 'succeeded'
    FROM state.tasks WHERE range_start > 1000000""",
    b"""
    INSERT INTO state.attempts (task_id, attempt, lease_token, epoch, worker_id, started_at, ended_at, outcome)
    SELECT task_id, 1, gen_random_uuid(), 1, 'w', created_at, created_at, 'succeeded'
    FROM state.tasks WHERE state = 'succeeded'""",
    b"""
    INSERT INTO state.dataset_versions (dataset_version, dataset_uuid, config_hash, range_start, range_end, generation,
      row_count, digest, parent_hash, end_hash, certificate, task_id, attempt, published_snapshot, published_at)
    SELECT task_id, dataset_uuid, 'c', range_start, range_end, 0, 1, 'd', '', '', '{}', task_id, 1, 1, created_at
    FROM state.tasks WHERE state = 'succeeded'""",
    b"""
    INSERT INTO state.dataset_files (dataset_version, position, key, bytes, row_count, digest, min_block, max_block)
    SELECT dataset_version, 0, 'k', 1, 1, 'd', range_start, range_start FROM state.dataset_versions""",
    b"""
    INSERT INTO state.outbox (topic, idempotency_key, payload, failed)
    SELECT 'dataset.published', 'key/' || n, '{}', n > 200 FROM generate_series(1, %(ready)s::int) n""",
    b"""
    INSERT INTO state.tasks (task_id, kind, job_id, stream_id, dataset_uuid, range_start, range_end, payload, state,
      attempt, finished_at, run_at)
    SELECT gen_random_uuid(), 'evaluation', r.rule_id, r.rule_id, r.rule_id, n, n + 1,
      jsonb_build_object('chain_id', 1, 'as_of', 1, 'inputs', ''),
      CASE WHEN n %% 2 = 0 THEN 'queued' ELSE 'succeeded' END, n %% 2, CASE WHEN n %% 2 = 1 THEN now() END, '-infinity'
    FROM state.rules r, generate_series(1, %(evaluated)s::int) n""",
)
BIG: Final = ("tasks", "attempts", "dataset_versions", "dataset_files", "outbox", "ranges")
EVERYWHERE: Final = frozenset(BIG)

# Each statement of a tick, with the tables that it must not read from end to end, whoever plans it.
HOT: Final = {
    **{f"tasks.{name}": EVERYWHERE for name in statements("tasks") if name not in ("take_over", "replay", "cancel")},
    **{f"jobs.{name}": EVERYWHERE for name in ("lock_cursors", "plannable", "add_ranges", "doubt_heads")},
    **{f"outbox.{name}": EVERYWHERE for name in ("append", "drain", "put_back")},
    **{f"evaluations.{name}": EVERYWHERE for name in statements("evaluations")},
    **{f"retractions.{name}": EVERYWHERE for name in ("announce", "announce_late")},
    "jobs.heads_wanted": EVERYWHERE - {"ranges"},  # looks for one open range, which a planner hopes to meet early
}
STATUS: Final = EVERYWHERE - {"ranges", "tasks"}  # it reads every open range with its task: here a sixth of the table
LEDGERS: Final = {
    "tasks": tasks.SQL,
    "jobs": jobs.SQL,
    "outbox": outbox.SQL,
    "evaluations": evaluations.SQL,
    "retractions": retractions.SQL,
}
MODES: Final = {
    "as the Dispatcher": None,
    "custom": b"SET LOCAL plan_cache_mode = 'force_custom_plan'",
    "generic": b"SET LOCAL plan_cache_mode = 'force_generic_plan'",
}


@pytest.fixture(scope="module", params=["not analysed", "analysed"])
def aged(postgres: LocalPostgres, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger with a long history, a long queue, and some leases."""
    with connect(pg.fresh_database(postgres), application_name="trace-test") as conn:
        for table in BIG:  # nobody comes to help behind our back
            conn.execute(f"ALTER TABLE state.{table} SET (autovacuum_enabled = false)".encode())
        ledger = Ledger.lead(conn)
        ledger.sync(job(stream("blocks", chunk_size=1, max_inflight=RUNNING)))
        ledger.claim(slots=RUNNING)
        watch(ledger, rule())
        with conn.transaction():
            conn.execute(b"SET LOCAL statement_timeout = '60s'")
            for history in HISTORY:
                conn.execute(history, {"done": DONE, "ready": READY, "evaluated": EVALUATED})
        if request.param == "analysed":
            analyse(conn)
        yield ledger


def analyse(conn: Connection) -> None:
    with conn.transaction():
        conn.execute(b"SET LOCAL statement_timeout = '60s'")  # a slow disk is not what is asked about
        conn.execute(b"ANALYZE")


def parameters(ledger: Ledger) -> dict[str, object]:
    """Return one value for each parameter of a hot statement: a tick that handles every running task."""
    running = ledger.rows(b"SELECT * FROM state.tasks WHERE state = 'running' ORDER BY task_id")
    ids: list[UUID] = [row["task_id"] for row in running]
    starts: list[int] = [row["range_start"] for row in running]
    count = len(ids)
    return {
        "epoch": ledger.epoch, "ttl": timedelta(seconds=60), "now": None, "more": 32, "alone": 2, "limit": 500,
        "seed": b"s",
        "tasks": ids, "attempts": [1] * count, "tokens": [row["lease_token"] for row in running],
        "workers": ["w/0.0"] * count, "except": ["w/9.0"], "slots": [f"w/{number}.0" for number in range(64)],
        "datasets": [row["dataset_uuid"] for row in running], "span_starts": starts, "span_ends": starts,
        "streams": [row["stream_id"] for row in running], "starts": starts, "ends": [s + 1 for s in starts],
        "versions": [uuid4() for _ in ids], "rows": [1] * count, "digests": ["d"] * count, "parents": [b"p"] * count,
        "certificates": [Jsonb({})] * count, "seconds": [Jsonb({})] * count, "positions": [0] * count,
        "keys": ["k"] * count, "bytes": [1] * count, "mins": starts, "maxs": starts, "infra": [False] * count,
        "retryable": [True] * count, "errors": ["{}"] * count, "max_attempts": 3, "max_infra": 3,
        "base": timedelta(seconds=1), "cap": timedelta(seconds=9), "topic": "t", "key": "k", "payload": Jsonb({}),
        "topics": ["dataset.published", "task.dead"], "ids": starts, "payloads": [Jsonb({})] * count, "holder": "a/b/1",
        "build": "b", "org": DEFAULT_ORG, "name": None, "names": ["devnet_blocks"],
        "window": timedelta(minutes=5), "pool": POOL, "chain_id": CHAIN,
        "poll": 10.0, "retry": 2.0, "rules": [rule().rule_id] * count, "chains": [CHAIN] * count,
        "snapshots": [1] * count, "inputs": ["i"] * count,
        "priority": 0, "task": ids[0], "attempt": 1, "token": running[0]["lease_token"],
        "durations": None, "queue": "q", "max_deliveries": 3, "chain": CHAIN, "start": starts[0], "end": starts[0] + 9,
        "cause": "c", "rule": rule().rule_id,
    }  # fmt: skip


def plan_of(ledger: Ledger, statement: bytes, values: dict[str, object], setting: bytes | None) -> list[dict[str, Any]]:
    """Return the nodes of a statement's plan, prepared as the product does it."""
    names = list(dict.fromkeys(re.findall(rb"%\((\w+)\)[sb]", statement)))
    text = re.sub(rb"%\((\w+)\)[sb]", lambda found: b"$%d" % (names.index(found[1]) + 1), statement)
    conn = ledger.conn
    with conn.transaction(force_rollback=True):
        if setting is None:
            tasks.fence(conn, ledger.epoch, 60)
        else:
            conn.execute(setting)
        conn.execute(b"PREPARE hot AS " + text.replace(b"%%", b"%"), prepare=False)
        found = nodes(conn, [values[name.decode()] for name in names])
        conn.execute(b"DEALLOCATE hot", prepare=False)
    return found


def nodes(conn: Connection, arguments: list[object]) -> list[dict[str, Any]]:
    marks = b", ".join([b"%s"] * len(arguments))
    explain = b"EXPLAIN (FORMAT JSON) EXECUTE hot" + (b"(" + marks + b")" if arguments else b"")
    row = psycopg.ClientCursor(conn).execute(explain, arguments).fetchone()
    assert row is not None
    found: list[dict[str, Any]] = []
    left = [row["QUERY PLAN"][0]["Plan"]]
    while left:
        found.append(left.pop())
        left += found[-1].get("Plans", [])
    return found


@pytest.mark.parametrize("mode", MODES)
def test_25_claim_plan_uses_index(aged: Ledger, mode: str) -> None:
    """No statement of a tick reads a big table from end to end, whoever plans it and whatever the statistics say."""
    values = parameters(aged)
    scans: dict[str, set[str]] = {}
    used: set[str] = set()
    for name, forbidden in HOT.items():
        ledger, _, statement = name.partition(".")
        ends = {"ends": [b"e"] * RUNNING} if name == "tasks.complete" else {}  # of hashes here, of ranges elsewhere
        plan = plan_of(aged, LEDGERS[ledger][statement], {**values, **ends}, MODES[mode])
        if read := scanned(plan) & (EVERYWHERE if mode == "as the Dispatcher" else forbidden):
            scans[name] = read
        used |= {node["Index Name"] for node in plan if "Index Name" in node}
    assert scans == {}
    assert {"tasks_ready", "tasks_running", "tasks_pkey", "ranges_undone", "versions_by_start", "outbox_ready"} <= used


@pytest.mark.parametrize(
    ("name", "index"), [("tasks.claim", "tasks_ready"), ("evaluations.claim", "evaluations_by_rule")]
)
def test_25_ranges_and_evaluations_are_claimed_by_an_index_of_their_own(aged: Ledger, name: str, index: str) -> None:
    """The evaluations of this ledger are due before its ranges: who claims ranges must not step over them."""
    ledger, _, statement = name.partition(".")
    plan = plan_of(aged, LEDGERS[ledger][statement], parameters(aged), None)
    used = {node["Index Name"] for node in plan if "Index Name" in node and node.get("Relation Name") == "tasks"}
    assert index in used
    assert used <= {index, "tasks_pkey"}
    (row,) = aged.rows(b"SELECT pg_get_expr(indpred, indrelid) AS only FROM pg_index WHERE indexrelid = %s::regclass",
                       f"state.{index}")  # fmt: skip
    assert ("sync" if name == "tasks.claim" else "evaluation") in row["only"]


TICK: Final = ("tasks.judge", "tasks.complete", "tasks.claim", "tasks.heartbeat", "tasks.known", "outbox.drain")


@pytest.mark.parametrize("name", TICK)
def test_25_a_tick_reads_the_rows_that_it_was_asked_for_and_no_whole_index(aged: Ledger, name: str) -> None:
    """A join by hash or by merging reads all of the queue, or all of the history, and finds the same rows."""
    assert read_whole(aged, name) <= {"tasks_running"}  # it holds what runs and nothing else


@pytest.mark.parametrize("name", TICK)
def test_25_a_plan_that_was_made_when_nothing_was_published_stays_right(ledger: Ledger, name: str) -> None:
    """It is made once and kept while the tables grow; of an empty table, reading all of it looks as good."""
    ledger.sync(job(stream("blocks", chunk_size=1, max_inflight=RUNNING)))
    ledger.claim(slots=RUNNING)
    analyse(ledger.conn)
    assert read_whole(ledger, name) <= {"tasks_running"}


def read_whole(ledger: Ledger, name: str) -> set[str]:
    """Return the indexes of big tables that a statement of a tick reads from end to end, as the Dispatcher plans it."""
    module, _, statement = name.partition(".")
    ends = {"ends": [b"e"] * RUNNING} if name == "tasks.complete" else {}
    plan = plan_of(ledger, LEDGERS[module][statement], {**parameters(ledger), **ends}, None)
    looked_up = [node for node in plan if node.get("Relation Name") in EVERYWHERE and "Scan" in node["Node Type"]]
    assert looked_up
    assert {node["Node Type"] for node in plan} & {"Hash Join", "Merge Join"} == set()
    return {node["Index Name"] for node in looked_up if not {"Index Cond", "TID Cond"} & node.keys()}


def test_25_status_reads_no_history_of_versions_and_attempts(aged: Ledger) -> None:
    assert not scanned(plan_of(aged, jobs.SQL["status"], parameters(aged), MODES["custom"])) & STATUS


def scanned(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}


def test_a_tick_stays_fast_over_a_long_history(aged: Ledger) -> None:
    with aged.conn.transaction(force_rollback=True):
        started = time.monotonic()
        tasks.fence(aged.conn, aged.epoch, 60)
        aged.drain_once()
        aged.plan()
        assert time.monotonic() - started < 1.0


def test_the_ledger_is_as_large_as_it_claims(aged: Ledger) -> None:
    rows = aged.rows(b"SELECT state, count(*) AS tasks FROM state.tasks GROUP BY state")
    counts = {str(row["state"]): row["tasks"] for row in rows}
    evaluated = EVALUATED // 2
    assert counts == {"succeeded": DONE + evaluated, "queued": READY + evaluated, "running": RUNNING}


def test_each_statement_of_a_file_has_a_name_of_its_own() -> None:
    for ledger in sorted(path.stem for path in Path(db.__file__).parent.glob("sql/*.sql")):
        found = statements(ledger)
        assert found
        assert all(body.strip().endswith(b";") for body in found.values())
