"""The plans of the hot statements: by index, also when most of a large table is history."""

import json
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from state import tasks
from state.db import Connection, statements
from tests.integration.state.ledger import Ledger, job, stream

TASKS = b"""
INSERT INTO state.tasks (task_id, job_id, stream_id, dataset_uuid, range_start, range_end, payload, state, finished_at)
SELECT gen_random_uuid(), t.job_id, t.stream_id, t.dataset_uuid, 10000 + n, 10001 + n, t.payload, 'succeeded', now()
FROM (SELECT * FROM state.tasks LIMIT 1) t, generate_series(1, 30000) n
"""
RANGES = b"""
INSERT INTO state.ranges (stream_id, range_start, range_end, task_id, done)
SELECT stream_id, range_start, range_end, task_id, true FROM state.tasks WHERE state = 'succeeded'
"""
ATTEMPTS = b"""
INSERT INTO state.attempts (task_id, attempt, lease_token, epoch, worker_id, started_at, ended_at, outcome)
SELECT task_id, 1, gen_random_uuid(), 1, 'w', now(), now(), 'succeeded' FROM state.tasks WHERE state = 'succeeded'
"""
VERSIONS = b"""
INSERT INTO state.dataset_versions (dataset_version, dataset_uuid, config_hash, range_start, range_end, generation,
  row_count, digest, parent_hash, end_hash, certificate, task_id, attempt, published_snapshot)
SELECT gen_random_uuid(), dataset_uuid, 'c', range_start, range_end, 0, 1, 'd', '', '', '{}', task_id, 1, 1
FROM state.tasks WHERE state = 'succeeded'
"""


@pytest.fixture
def aged(ledger: Ledger, request: pytest.FixtureRequest) -> Ledger:
    """A ledger with a long history and some work."""
    ledger.sync(job(stream("blocks", chunk_size=10, max_inflight=100)))
    with ledger.conn.transaction():
        ledger.conn.execute(b"SET LOCAL statement_timeout = '60s'")
        for history in (TASKS, RANGES, ATTEMPTS, VERSIONS):
            ledger.conn.execute(history)
    if request.param:
        ledger.conn.execute(b"ANALYZE state.tasks, state.ranges, state.attempts, state.dataset_versions")
    return ledger


def scanned(conn: Connection, statement: bytes, parameters: dict[str, object]) -> set[str]:
    """Return the tables that a statement reads from end to end."""
    row = conn.execute(b"EXPLAIN (FORMAT JSON) " + statement, parameters).fetchone()
    assert row is not None
    found: set[str] = set()
    nodes = [row["QUERY PLAN"][0]["Plan"]]
    assert "Index" in json.dumps(nodes)
    while nodes:
        node = nodes.pop()
        if node["Node Type"] == "Seq Scan":
            found.add(node["Relation Name"])
        nodes += node.get("Plans", [])
    return found


@pytest.mark.parametrize("aged", [True, False], indirect=True, ids=["analysed", "not analysed"])
def test_25_claim_plan_uses_index(aged: Ledger) -> None:
    picked = [row["task_id"] for row in aged.rows(b"SELECT task_id FROM state.tasks WHERE state = 'queued' LIMIT 64")]
    count = len(picked)
    hashes, texts, tokens = [b""] * count, ["{}"] * count, [uuid4() for _ in picked]
    parameters = dict[str, object](
        epoch=aged.epoch, want=512, now=None, ttl=timedelta(seconds=60), tasks=picked, slots=texts, tokens=tokens,
        alone=2, more=32, datasets=tokens, span_starts=[0] * count, span_ends=[9] * count, attempts=[1] * count,
        versions=tokens, rows=[1] * count, digests=texts, parents=hashes, ends=hashes,
        certificates=[Jsonb({})] * count, seconds=[Jsonb({})] * count, infra=[False] * count,
        retryable=[True] * count, errors=texts, max_attempts=3, max_infra=3,
        base=timedelta(seconds=1), cap=timedelta(seconds=9),
    )  # fmt: skip
    for name in ("claim", "neighbours", "heartbeat", "judge", "complete", "fail", "reap"):
        read = scanned(aged.conn, tasks.SQL[name], parameters)
        assert not read & {"tasks", "dataset_versions", "attempts", "ranges"}, name


@pytest.mark.parametrize("aged", [False], indirect=True)
def test_a_tick_stays_fast_over_a_long_history(aged: Ledger) -> None:
    started = time.monotonic()
    aged.drain_once()
    aged.plan()
    assert time.monotonic() - started < 1.0


def test_each_statement_of_a_file_has_a_name_of_its_own() -> None:
    for ledger in ("jobs", "tasks", "datasets", "outbox", "buffer", "views"):
        found = statements(ledger)
        assert len(found) > 1
        assert all(body.strip().endswith(b";") for body in found.values())
