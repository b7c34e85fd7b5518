"""What this server can do at all: the rows of a round trip as plain statements, without a rule. Run by `bench_queues`.

`own`: the ledger's own statements, all of a tick, in a loop on the server: what is left when Python, the connection and
every look at a value cost nothing. `same`: the rows that a round trip of the ledger writes, in the ledger's own tables
with their indexes. `least`: four writes of small rows, in tables with nothing but their primary keys, for each round
trip that remembers who held what: a lease, an attempt, its end, and what it published. The last two check no attempt,
token, epoch or hash, nothing comes from Python but the number of the batch, and one transaction does a whole batch.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Final

import orjson

from state import jobs, offers, outbox, tasks
from state.db import SESSION, Connection, connect
from tests.benchmarks.bench_queues_ours import Ledger
from tests.integration.state.ledger import certificate
from trace_ray.contracts import BlockRange

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
    b"INSERT INTO state.outbox (topic, idempotency_key, payload, versions)"
    b" SELECT 'dataset.published', 'published/' || %(batch)s::int, '{}', array_agg(task_id) FROM (" + BATCH + b") b",
)
DRAIN: Final = (b"DELETE FROM state.outbox WHERE idempotency_key = 'published/' || %(batch)s::int",)

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

# One tick after another, as `Dispatcher.tick` has them, each parameter a variable. A range's version has the id of its
# task; what else a publication says is the same for all.
LOOP: Final = """
CREATE PROCEDURE own(v_epoch bigint, v_ranges int, v_size int, v_part int) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  v_row record; v_done int := 0; v_told int := 0; v_first int; v_limit int := 500; v_more int := 32; v_alone int := 2;
  v_now timestamptz; v_ttl interval := '60 s'; v_topics text[] := '{{dataset.published,task.dead}}';
  v_slots text[] := array_fill('w/0.0'::text, ARRAY[v_size]); v_seed bytea;
  v_all_tasks uuid[] := '{{}}'; v_all_tokens uuid[] := '{{}}'; v_all_starts bigint[] := '{{}}';
  v_tasks uuid[]; v_tokens uuid[]; v_versions uuid[]; v_mins bigint[]; v_maxs bigint[]; v_datasets uuid[];
  v_span_starts bigint[]; v_span_ends bigint[]; v_dataset uuid := (SELECT dataset_uuid FROM state.datasets);
  v_attempts int[] := array_fill(1, ARRAY[v_size]); v_positions int[]; v_bytes bigint[]; v_rows bigint[];
  v_digests text[]; v_keys text[]; v_parents bytea[]; v_ends bytea[]; v_certificates jsonb[]; v_seconds jsonb[];
BEGIN
  WHILE v_told < v_ranges LOOP
    {fence}
    FOR v_row IN {lock_cursors} LOOP END LOOP;
    v_tasks := v_all_tasks; v_attempts := array_fill(1, ARRAY[cardinality(v_tasks)]);
    IF cardinality(v_tasks) > 0 THEN
      v_datasets := ARRAY[v_dataset]; v_span_starts := v_all_starts[1:1];
      v_span_ends := ARRAY[v_all_starts[cardinality(v_all_starts)] + 10];
      FOR v_row IN {judge} LOOP END LOOP;
      FOR v_row IN {neighbours} LOOP END LOOP;
    END IF;
    v_first := 1;
    WHILE v_first <= cardinality(v_all_tasks) LOOP
      v_tasks := v_all_tasks[v_first : v_first + v_part - 1]; v_tokens := v_all_tokens[v_first : v_first + v_part - 1];
      v_mins := v_all_starts[v_first : v_first + v_part - 1]; v_maxs := v_mins; v_versions := v_tasks;
      v_attempts := array_fill(1, ARRAY[cardinality(v_tasks)]); v_rows := v_attempts; v_bytes := v_attempts;
      v_positions := array_fill(0, ARRAY[cardinality(v_tasks)]);
      v_digests := array_fill(repeat('d', 64), ARRAY[cardinality(v_tasks)]);
      v_keys := array_fill(repeat('k', 150), ARRAY[cardinality(v_tasks)]);
      v_parents := array_fill(decode(repeat('00', 32), 'hex'), ARRAY[cardinality(v_tasks)]); v_ends := v_parents;
      v_certificates := array_fill('{certificate}'::jsonb, ARRAY[cardinality(v_tasks)]);
      v_seconds := array_fill('{{}}'::jsonb, ARRAY[cardinality(v_tasks)]);
      FOR v_row IN {complete} LOOP v_done := v_done + 1; END LOOP;
      {add_files};
      v_first := v_first + v_part;
    END LOOP;
    v_all_tasks := '{{}}'; v_all_tokens := '{{}}'; v_all_starts := '{{}}';
    v_seed := uuid_send(gen_random_uuid());
    FOR v_row IN {claim} LOOP
      v_all_tasks := v_all_tasks || v_row.task_id; v_all_tokens := v_all_tokens || v_row.lease_token;
      v_all_starts := v_all_starts || v_row.range_start;
    END LOOP;
    FOR v_row IN {drain} LOOP v_told := v_told + 1; END LOOP;
    IF cardinality(v_all_tasks) > 0 THEN
      v_datasets := ARRAY[v_dataset]; v_span_starts := v_all_starts[1:1];
      v_span_ends := ARRAY[v_all_starts[cardinality(v_all_starts)] + 10];
      FOR v_row IN {neighbours} LOOP END LOOP;
    END IF;
    COMMIT;
  END LOOP;
  ASSERT v_done = v_ranges;
END $$
"""


def own(url: str, ranges: int, size: int) -> float:
    """Round trips a second of the ledger's own statements without a client."""
    ledger, _ = Ledger.planned(url, ranges)
    with ledger.database.transaction() as conn:
        conn.execute(LOOP.format(**_statements()).encode(), prepare=False)
    ledger.database.close()
    with connect(url, application_name="trace-bench", settings={**SESSION, "statement_timeout": "0"}) as conn:
        began = time.perf_counter()
        conn.execute(b"CALL own(%s::bigint, %s::int, %s::int, %s::int)", (ledger.core.epoch, ranges, size, tasks.PART))
        return ranges / (time.perf_counter() - began)


def _statements() -> dict[str, str]:
    """Return the statements of a tick for the loop: a parameter `x` is its variable `v_x`."""
    found = {"lock_cursors": jobs.SQL["lock_cursors"], "drain": outbox.SQL["drain"], **tasks.SQL}
    texts = {name: re.sub(r"%\((\w+)\)[sb]", r"v_\1", text.decode()) for name, text in found.items()}
    plain = {name: text.strip().removesuffix(";") for name, text in texts.items()}
    start = plain["fence"].index("SELECT")
    fence = f"PERFORM{plain['fence'][start:].removeprefix('SELECT')};"
    sample = certificate(BlockRange(0, 10))
    return {**plain, "fence": fence, "certificate": orjson.dumps(offers.document(sample)).decode()}


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
    floor = {"own": own, "same": same, "least": least}[what]
    print(json.dumps(floor(url, int(ranges) // int(size) * int(size), int(size))))


if __name__ == "__main__":
    main()
