"""What the Ray dashboard and Prometheus show. Tags are closed sets: never a task, a block or a URL.

Of the sync only the Dispatcher records: workers return their timings with each publication; a respawn adds no series.
"""

from collections import Counter as Count

from ray.util.metrics import Counter, Gauge, Histogram

from actors.dispatcher import Orders
from trace_ray.access import AuditRow

SECONDS = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]


class Metrics:
    """The Dispatcher's series; names start with `trace_`, Ray adds its own prefix."""

    def __init__(self) -> None:
        labels = ("chain", "dataset")
        self._ranges = Counter("trace_ranges_published", "Ranges published", labels)
        self._blocks = Counter("trace_blocks_published", "Blocks published", labels)
        self._rows = Counter("trace_rows_published", "Rows published", labels)
        self._bytes = Counter("trace_bytes_published", "Parquet bytes published", labels)
        self._failures = Counter("trace_attempts_failed", "Attempts that failed, by kind of error", ("kind",))
        self._refusals = Counter("trace_outcomes_refused", "Outcomes that the ledger refused", ("reason",))
        self._planned = Counter("trace_ranges_planned", "Ranges planned")
        self._reaped = Counter("trace_leases_reaped", "Leases taken back after they expired")
        self._leased = Gauge("trace_leases_placed", "Leases placed by the last tick")
        self._stage = Histogram("trace_stage_seconds", "Seconds of one stage of a range", SECONDS, ("stage",))

    def record(self, orders: Orders) -> None:
        """Count what one tick did."""
        for publication in orders.published:
            tags = {"chain": str(publication.chain_id), "dataset": publication.dataset_key}
            self._ranges.inc(1, tags)
            self._blocks.inc(len(publication.blocks), tags)
            if publication.rows:
                self._rows.inc(publication.rows, tags)
            self._bytes.inc(sum(file.bytes for file in publication.files), tags)
            for stage, seconds in publication.seconds.items():
                self._stage.observe(seconds, {"stage": stage})
        for kind, count in Count(failure.kind for failure in orders.failed).items():
            self._failures.inc(count, {"kind": kind})
        for reason, count in Count(refusal.reason for refusal in orders.refused).items():
            self._refusals.inc(count, {"reason": reason})
        if orders.planned:
            self._planned.inc(orders.planned)
        if orders.reaped:
            self._reaped.inc(orders.reaped)
        self._leased.set(sum(len(group.leases) for group in orders.groups))


class QueryMetrics:
    """The series of one replica of the query service."""

    def __init__(self) -> None:
        self._queries = Counter("trace_queries", "Questions, by how they ended", ("code",))
        self._refusals = Counter("trace_query_refusals", "Statements that the gate refused", ("reason",))
        self._kills = Counter("trace_query_kills", "Query processes that were killed or died")
        self._bytes = Counter("trace_query_bytes_scanned", "Sizes of the files that questions selected")
        self._rows = Counter("trace_query_rows", "Rows answered")
        self._seconds = Histogram("trace_query_seconds", "Seconds from request to answer", SECONDS, ("code",))

    def record(self, entry: AuditRow) -> None:
        """Count how one question ended."""
        self._queries.inc(1, {"code": entry.outcome})
        self._seconds.observe(entry.seconds, {"code": entry.outcome})
        if entry.reason:
            self._refusals.inc(1, {"reason": entry.reason})
        if entry.killed:
            self._kills.inc(1)
        if entry.bytes_read:
            self._bytes.inc(entry.bytes_read)
        if entry.rows:
            self._rows.inc(entry.rows)
