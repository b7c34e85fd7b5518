"""The checker notices what it is there for: each invariant is broken once in a ledger that is right without that."""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from state import tasks
from state.db import connect, ensure_database
from tests import pg
from tests.chaos import checker, ledger_run
from tests.chaos.ledger_world import SINK
from tests.integration.state.ledger import NO_WAIT, Ledger, failure, job, publication
from trace_ray.lite.postgres import LocalPostgres

EVERYTHING = (*checker.ALWAYS, *checker.DRAINED, *checker.SINK, *ledger_run.OWN)
DELIVERED = """
    INSERT INTO chaos.sink (key, topic, caused) SELECT idempotency_key, topic, true FROM state.events;
    DELETE FROM state.outbox
"""
UNKNOWN_EVENT = """
    INSERT INTO state.outbox (topic, idempotency_key, payload) VALUES ('dataset.published', 'published/nothing', '{}')
"""
BROKEN: dict[str, LiteralString] = {
    "ranges_tile": "UPDATE state.ranges SET range_start = 110 WHERE range_start = 100",
    "cursor_is_last_end": "UPDATE state.cursors SET next_block = 50",
    "range_has_its_task": "DELETE FROM state.tasks WHERE range_start = 0",
    "range_follows_its_task": "UPDATE state.ranges SET done = false WHERE range_start = 0",
    "task_published_once": "DELETE FROM state.dataset_versions WHERE range_start = 0",
    "version_fits_its_task": "UPDATE state.dataset_versions SET attempt = 7 WHERE range_start = 0",
    "version_is_single": "UPDATE state.dataset_versions SET replaced_snapshot = 2 WHERE range_start = 0",
    "visible_versions_disjoint": "UPDATE state.dataset_versions SET range_end = 150 WHERE range_start = 0",
    "hash_chain": "UPDATE state.dataset_versions SET end_hash = '' WHERE range_start = 0",
    "files_of_versions": "DELETE FROM state.dataset_files WHERE min_block = 0",
    "attempts_gapless": "DELETE FROM state.attempts WHERE attempt = 1",
    "accepted_attempt_is_last": "UPDATE state.attempts SET outcome = 'failed'",
    "open_attempt_is_the_lease": "UPDATE state.attempts SET outcome = NULL, ended_at = NULL",
    "attempts_end_once": "UPDATE state.attempts SET ended_at = NULL",
    "attempts_do_not_overlap": "UPDATE state.attempts SET started_at = started_at - interval '1 h' WHERE attempt = 2",
    "tokens_are_unique": "UPDATE state.attempts SET lease_token = '00000000-0000-0000-0000-000000000000'",
    "epochs_never_fall": "UPDATE state.attempts SET epoch = 0 WHERE attempt = 2",
    "leases_of_known_epochs": "UPDATE state.attempts SET epoch = 99",
    "snapshots_gapless": "UPDATE state.snapshots SET newest = newest + 1",
    "dataset_snapshot_is_newest": "UPDATE state.datasets SET snapshot = snapshot + 1",
    "events_have_their_cause": UNKNOWN_EVENT,
    "nothing_is_open": "UPDATE state.tasks SET state = 'queued', finished_at = NULL",
    "nothing_is_lost": "UPDATE state.jobs SET to_block = 1000",
    "published_event_came_once": "DELETE FROM chaos.sink WHERE topic = 'dataset.published'",
    "dead_event_came_once": "DELETE FROM chaos.sink WHERE topic = 'task.dead'",
    "no_event_before_its_cause": "UPDATE chaos.sink SET caused = false",
    "outbox_is_empty": UNKNOWN_EVENT,
    "no_forged_failure": """UPDATE state.attempts SET error = '{"kind": "Forged"}'""",
    "done_is_visible": "UPDATE state.dataset_versions SET replaced_snapshot = 2 WHERE range_start = 0",
    "durations_not_clocks": """UPDATE state.attempts SET seconds = '{"extract": 3600}'""",
}


@pytest.fixture(scope="module")
def right(postgres: LocalPostgres) -> str:
    """The name of a database where all is right: ranges that succeeded at once, after an expiry, and never."""
    url = pg.fresh_database(postgres)
    with connect(url, application_name="trace-test") as conn:
        ledger = Ledger.lead(conn)
        ledger.sync(job(to_block=400))
        ledger.claim(ttl_s=-1)
        tasks.reap(conn, ledger.epoch, policy=NO_WAIT)
        ledger = Ledger.lead(conn)
        leases = [lease for group in ledger.claim(slots=4) for lease in group.leases]
        assert [lease.attempt for lease in leases] == [1, 1, 1, 2]
        ledger.complete(*map(publication, leases[:2]), publication(leases[3]))
        ledger.fail(failure(leases[2], retryable=False))
    with psycopg.connect(url) as conn:
        conn.execute(SINK)
        conn.execute(DELIVERED)
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def copy(right: str, postgres: LocalPostgres) -> str:
    name = f"test_{secrets.token_hex(6)}"
    ensure_database(postgres.url("postgres"), name, template=right)
    return postgres.url(name)


def test_a_right_ledger_breaks_nothing(copy: str) -> None:
    assert checker.violations(copy, EVERYTHING) == []


def test_each_invariant_has_a_case_that_breaks_it() -> None:
    assert BROKEN.keys() == {one.name for one in EVERYTHING}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_invariant_is_told_by_its_name(name: str, copy: str) -> None:
    with psycopg.connect(copy) as conn:
        conn.execute(BROKEN[name])
    found = {one.name: one for one in checker.violations(copy, EVERYTHING)}
    assert name in found
    assert found[name].count >= len(found[name].rows) > 0


# --- objects ------------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """One object under whatever key it is asked for; None when it is lost."""

    data: bytes | None

    def get(self, key: str, path: Path) -> None:
        if self.data is None:
            raise FileNotFoundError(key)
        path.write_bytes(self.data)


REGISTER = """
    UPDATE state.dataset_files SET key = 'a/b.' || %(digest)s::text || '.parquet', digest = %(digest)s::text,
      bytes = %(bytes)s::bigint, row_count = 10, min_block = 10, max_block = 19
    WHERE dataset_version = (SELECT dataset_version FROM state.dataset_versions WHERE range_start = 0)
"""


def register(url: str, data: bytes) -> Disk:
    """Let the ledger have one file: blocks 10 to 19 of the range [0, 100)."""
    with psycopg.connect(url) as conn:
        conn.execute(REGISTER, {"digest": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        conn.execute("DELETE FROM state.dataset_files WHERE max_block <> 19")
    return Disk(data)


@pytest.fixture
def objects(copy: str, tmp_path: Path) -> Disk:
    pq.write_table(pa.table({"block_number": list(range(10, 20))}), tmp_path / "object")
    return register(copy, (tmp_path / "object").read_bytes())


def test_objects_that_are_as_registered_break_nothing(copy: str, objects: Disk) -> None:
    assert checker.check_objects(copy, objects) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("the blocks of an object lie where", "SET min_block = 11"),
        ("the blocks of an object lie where", "SET max_block = 100"),
        ("the size and the sha256", "SET bytes = bytes + 1"),
        ("the size and the sha256", "SET digest = repeat('0', 64)"),
        ("carries its digest", "SET key = 'a/b.parquet'"),
        ("the rows that are registered", "SET row_count = 11"),
    ],
)
def test_an_object_that_differs_is_told(rule: str, change: str, copy: str, objects: Disk) -> None:
    with psycopg.connect(copy) as conn:
        conn.execute(f"UPDATE state.dataset_files {change}".encode())
    assert any(rule in one.rule for one in checker.check_objects(copy, objects))


def test_a_lost_object_is_told(copy: str, objects: Disk) -> None:
    objects.data = None
    (lost,) = checker.check_objects(copy, objects)
    assert lost.rule == "a registered object can be read"


def test_an_object_that_is_no_parquet_is_told(copy: str) -> None:
    (torn,) = checker.check_objects(copy, register(copy, b"PAR1 and no more"))
    assert torn.rule == "an object is whole Parquet"
