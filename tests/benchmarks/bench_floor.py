"""What this server can do at all: the rows of a round trip as plain statements, without a rule. Run by `bench_queues`.

`same`: the rows that a round trip of the ledger writes, in the ledger's own tables with their indexes. `least`: four
writes of small rows, in tables with nothing but their primary keys, for each round trip that remembers who held what: a
lease, an attempt, its end, and what it published. Neither checks an attempt, a token, an epoch or a hash, nothing comes
from Python but the number of the batch, and one transaction does a whole batch.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Final

from state.db import Connection, connect
from tests.benchmarks.bench_queues_ours import Ledger

BATCH: Final = (
    b"SELECT task_id, range_start, range_end, stream_id, dataset_uuid FROM floor WHERE batch = %(batch)s::int"
)
PREPARE: Final = (
    b"CREATE UNLOGGED TABLE floor AS SELECT task_id, stream_id, dataset_uuid, range_start, range_end,"
    b" ((row_number() OVER (ORDER BY seq) - 1) / %(size)s::int)::int AS batch FROM state.tasks",
    b"CREATE INDEX ON floor (batch)",
    b"ANALYZE",
)
CLAIM: Final = (
    b"UPDATE state.tasks t SET state = 'running', attempt = 1, lease_token = t.task_id, worker_id = 'w/0.0',"
    b" lease_expires_at = now(), lease_epoch = 1 FROM (" + BATCH + b") b WHERE t.task_id = b.task_id",
    b"INSERT INTO state.attempts (task_id, attempt, lease_token, epoch, worker_id, started_at)"
    b" SELECT task_id, 1, task_id, 1, 'w/0.0', now() FROM (" + BATCH + b") b",
)
FINISH: Final = (
    b"UPDATE state.tasks t SET state = 'succeeded', lease_token = NULL, lease_expires_at = NULL, finished_at = now()"
    b" FROM (" + BATCH + b") b WHERE t.task_id = b.task_id",
    b"UPDATE state.attempts a SET outcome = 'succeeded', ended_at = now(), seconds = '{}'"
    b" FROM (" + BATCH + b") b WHERE a.task_id = b.task_id AND a.attempt = 1",
    b"UPDATE state.ranges r SET done = true FROM (" + BATCH + b") b"
    b" WHERE r.stream_id = b.stream_id AND r.range_start = b.range_start",
    b"INSERT INTO state.dataset_versions (dataset_version, dataset_uuid, config_hash, range_start, range_end,"
    b" generation, row_count, digest, parent_hash, end_hash, certificate, task_id, attempt, published_snapshot)"
    b" SELECT task_id, dataset_uuid, repeat('c', 64), range_start, range_end, 0, 1, repeat('d', 64),"
    b" '\\x%(hash)b', '\\x%(hash)b', '{}', task_id, 1, 1 FROM (".replace(b"%(hash)b", b"00" * 32)
    + BATCH
    + b") b",
    b"INSERT INTO state.dataset_files (dataset_version, position, key, bytes, row_count, digest, min_block, max_block)"
    b" SELECT task_id, 0, repeat('k', 150), 1, 1, repeat('d', 64), range_start, range_end FROM (" + BATCH + b") b",
    b"INSERT INTO state.outbox (topic, idempotency_key, payload)"
    b" SELECT 'dataset.published', 'published/' || task_id, '{}' FROM (" + BATCH + b") b",
)
DRAIN: Final = (
    b"DELETE FROM state.outbox o USING (" + BATCH + b") b WHERE o.idempotency_key = 'published/' || b.task_id",
)

LEAST: Final = (
    b"CREATE TABLE least_tasks (id bigint PRIMARY KEY, token bigint, done boolean) WITH (fillfactor = 30)",
    b"CREATE TABLE least_attempts (id bigint PRIMARY KEY, token bigint)",
    b"CREATE TABLE least_versions (id bigint PRIMARY KEY, digest bytea)",
    b"INSERT INTO least_tasks SELECT n, NULL, false FROM generate_series(1, %(ranges)s::int) n",
    b"ANALYZE",
)
IDS: Final = b"BETWEEN %(batch)s::int * %(size)s::int + 1 AND (%(batch)s::int + 1) * %(size)s::int"
SERIES: Final = b"generate_series(%(batch)s::int * %(size)s::int + 1, (%(batch)s::int + 1) * %(size)s::int) n"
LEAST_CLAIM: Final = (
    b"UPDATE least_tasks SET token = id WHERE id " + IDS,
    b"INSERT INTO least_attempts SELECT n, n FROM " + SERIES,
)
LEAST_FINISH: Final = (
    b"UPDATE least_tasks SET done = true WHERE id " + IDS,
    b"INSERT INTO least_versions SELECT n, '\\x%(hash)b' FROM ".replace(b"%(hash)b", b"00" * 32) + SERIES,
)


def same(url: str, ranges: int, size: int) -> float:
    """Round trips a second with the rows of the ledger."""
    ledger, _ = Ledger.planned(url, ranges)
    ledger.database.close()
    with connect(url, application_name="trace-bench") as conn:
        for statement in PREPARE:
            conn.execute(statement, {"size": size})
        return ranges / _batches(conn, (CLAIM, FINISH, DRAIN), ranges // size, size)


def least(url: str, ranges: int, size: int) -> float:
    """Round trips a second with four small rows."""
    with connect(url, application_name="trace-bench") as conn:
        for statement in LEAST:
            conn.execute(statement, {"ranges": ranges})
        return ranges / _batches(conn, (LEAST_CLAIM, LEAST_FINISH), ranges // size, size)


def _batches(conn: Connection, stages: Sequence[Sequence[bytes]], batches: int, size: int) -> float:
    """Do each stage of each batch, as ticks do: the last stage of an old batch with the first one of a new one."""
    began = time.perf_counter()
    for tick in range(batches + len(stages) - 1):
        with conn.pipeline(), conn.transaction():
            for behind, statements in enumerate(stages):
                if 0 <= tick - behind < batches:
                    for statement in statements:
                        conn.execute(statement, {"batch": tick - behind, "size": size})
    return time.perf_counter() - began


def main() -> None:
    what, url, ranges, size = sys.argv[1:]
    floor = {"same": same, "least": least}[what]
    print(json.dumps(floor(url, int(ranges) // int(size) * int(size), int(size))))


if __name__ == "__main__":
    main()
