"""Events a second through the sink, against a plain COPY of the same rows into a table of the same shape.

Run it alone: `python -m tests.benchmarks.bench_sink [--quick]`. An embedded Postgres with fsync on, objects
on a disk; one sink, without deliveries. It fetches, checks the digest, parses, validates, keeps and acknowledges; COPY
gets rows that are ready, once into a table with the same indexes and once into one without any. Rounds go by turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from actors.sink import Sink, Sunk
from state.db import Connection, Database, connect
from tests import pg
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, stream
from trace_ray.alerts import EvaluationLease
from trace_ray.storage import ObjectStore, open_store

TARGET = 10_000.0  # events a second
ROUNDS = 3
COLUMNS = b"""event_id, org_id, rule_id, rule, task_id, attempt, severity, mode, dedupe_key, event_time, chain_id,
  block_number, block_hash, tx_hash, payload, created_at, retracted_at"""


def batch(lease: EvaluationLease, events: int) -> bytes:
    """Transfers, as a bundle would emit them: 480 bytes each."""
    start, size = lease.evaluation.blocks.start, len(lease.evaluation.blocks)
    lines = [
        json.dumps(
            {
                "alert_definition_id": str(lease.rule.rule_id),
                "dedupe_key": f"transfer:{start + number % size:064x}:{number}",
                "event_time": "2026-01-31T12:00:00Z",
                "chain_id": lease.evaluation.chain_id,
                "block_number": start + number % size,
                "block_hash": f"0x{start + number % size:064x}",
                "tx_hash": f"0x{number:064x}",
                "payload": {"from": f"0x{number:040x}", "to": f"0x{start:040x}", "value": str(10**18 + number)},
            }
        ).encode()
        for number in range(events)
    ]
    return b"\n".join(lines) + b"\n"


def fill(ledger: Ledger, store: ObjectStore, scratch: Path, *, leases: list[EvaluationLease], events: int) -> None:
    """Store the batches of running evaluations and put them into the queue."""
    for lease in leases:
        data = batch(lease, events)
        made = replace(watching.batch(lease, data))
        path = scratch / "made"
        path.write_bytes(data)
        store.put(path, made.batch_uri)
        assert watching.complete(ledger, lease, made).accepted


def nowhere(*_: object) -> None:
    """Deliveries have a benchmark of their own."""


def sink_rate(sink: Sink, expected: int) -> float:
    began = time.perf_counter()
    sunk = Sunk()
    while sunk.new < expected:
        one = sink.run_once()
        assert one.messages, "the queue ran empty too early"
        sunk += one
    assert (sunk.new, sunk.rejected, sunk.postponed) == (expected, 0, 0)
    return expected / (time.perf_counter() - began)


def copy_rate(conn: Connection, table: bytes, rows: bytes, expected: int) -> float:
    """Return the rows a second of one COPY, its commit included."""
    conn.execute(b"TRUNCATE " + table)
    began = time.perf_counter()
    with (
        conn.transaction(),
        conn.cursor().copy(b"COPY " + table + b" (" + COLUMNS + b") FROM STDIN (FORMAT binary)") as to,
    ):
        to.write(rows)
    took = time.perf_counter() - began
    (count,) = conn.execute(b"SELECT count(*) AS rows FROM " + table)
    assert count["rows"] == expected
    return expected / took


def run(url: str, directory: Path, *, batches: int, events: int) -> tuple[list[float], list[float], list[float]]:
    """Return the rates of each round: the sink, COPY with the same indexes, COPY without any."""
    store = open_store(f"file://{directory}/objects", data_dir=directory)
    state, data = (Database(url, application_name="trace-bench") for _ in range(2))
    sink = Sink(state=state, data=data, store=store, scratch=directory, route=nowhere)
    rates: tuple[list[float], list[float], list[float]] = ([], [], [])
    with connect(url, application_name="trace-bench") as conn:
        conn.execute(b"SET statement_timeout = 0")
        conn.execute(b"CREATE TABLE public.indexed (LIKE data.alert_events INCLUDING ALL)")
        conn.execute(b"CREATE TABLE public.bare (LIKE data.alert_events)")
        ledger = Ledger.lead(conn)
        ledger.sync(job(stream("blocks", chunk_size=100, max_inflight=9999), to_block=100 * batches * ROUNDS))
        watching.watch(ledger, watching.rule())
        ledger.drain()
        while watching.drain(ledger, 500):
            pass
        for _ in range(ROUNDS):
            conn.execute(b"TRUNCATE data.alert_events CASCADE")
            fill(ledger, store, directory, leases=watching.claim(ledger, batches), events=events)
            rates[0].append(sink_rate(sink, batches * events))
            rows = _copied(conn)
            for place, table in ((1, b"public.indexed"), (2, b"public.bare")):
                rates[place].append(copy_rate(conn, table, rows, batches * events))
    for database in (state, data):
        database.close()
    return rates


def _copied(conn: Connection) -> bytes:
    with conn.cursor().copy(b"COPY data.alert_events (" + COLUMNS + b") TO STDOUT (FORMAT binary)") as out:
        return b"".join(bytes(part) for part in out)


def table(rates: tuple[list[float], list[float], list[float]], *, batches: int, events: int) -> str:
    """Return the medians, in Markdown."""
    sink, indexed, bare = (statistics.median(one) for one in rates)
    verdict = "reached" if sink >= TARGET else "missed"
    return "\n".join(
        [
            "| way into the table | events/s | the sink against it |",
            "|---|---|---|",
            f"| **the sink** (wanted {TARGET:,.0f}: {verdict}) | **{sink:,.0f}** | |",
            f"| COPY of the same rows, same indexes | {indexed:,.0f} | {sink / indexed:.2f} |",
            f"| COPY of the same rows, no index | {bare:,.0f} | {sink / bare:.2f} |",
            "",
            f"{batches} batches of {events:,} events, medians of {ROUNDS} rounds.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_sink")
    parser.add_argument("--quick", action="store_true", help="a short form, for trying out")
    batches, events = (4, 500) if parser.parse_args().quick else (20, 2_000)
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        Path(name).chmod(0o755)
        server = pg.server(Path(name) / "postgres")
        try:
            rates = run(pg.fresh_database(server), Path(name), batches=batches, events=events)
        finally:
            server.stop()
    print(table(rates, batches=batches, events=events), end="")


if __name__ == "__main__":
    main()
