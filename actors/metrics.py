"""What the Ray dashboard and Prometheus show. Tags are closed sets: never a task, a block or a URL.

Only the Dispatcher records: workers return their timings with each publication, so a respawn adds no series.
"""

from collections import Counter as Count

from ray.util.metrics import Counter, Gauge, Histogram

from actors.dispatcher import Orders

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
