"""A whole sync in the test's process: the real ledger, dispatcher core, worker, engine and object store, without Ray.

What Ray adds (processes, death, adoption) is tested in `tests/acceptance`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from actors.ingest import Ingester, Limits
from actors.orders import Result
from actors.worker import Worker
from state import datasets, jobs
from state.db import Database
from trace_ray.contracts import DEFAULT_ORG, BlockRange, FixedTarget, Grant, Job, Receipts, Stream, WorkerId
from trace_ray.extract.engine import Engine
from trace_ray.pool_settings import RpcPool
from trace_ray.reports import JobStatus
from trace_ray.retry import RetryPolicy
from trace_ray.storage import ObjectStore

WORKER = WorkerId("cryo/0.0")
FAST = Timing(lease_s=30.0, leader_s=30.0, policy=RetryPolicy(0.01, 0.05, 3, 20))


def job(
    *,
    end: int,
    start: int = 0,
    name: str = "devnet",
    chain_id: int = 31337,
    datasets: tuple[str, ...] = ("blocks", "transactions", "logs"),
    chunk_size: int = 20,
    max_inflight: int = 8,
    receipts: Receipts = Receipts.ETHEREUM,
) -> Job:
    """Return a job over `[start, end)`, one stream per dataset, of pool `standard`."""
    streams = tuple(Stream(key, key, "standard", chunk_size, max_inflight, f"{name}_{key}") for key in datasets)
    mode = FixedTarget(start, end)
    return Job(DEFAULT_ORG, name, chain_id, name, True, mode, receipts, streams, f"{mode}{streams}")


@dataclass
class Line:
    """One stack in a process. `url` may be changed between ticks: the provider of pool `standard`."""

    database: Database
    engine: Engine
    store: ObjectStore
    staging: Path
    url: str
    range_s: float = 60.0

    def __post_init__(self) -> None:
        pools: Callable[[], Mapping[str, RpcPool]] = lambda: {"standard": RpcPool((self.url,), None)}  # noqa: E731
        limits = Limits(range_s=self.range_s, share=1.0)
        self.ingester = Ingester(self.engine, self.store, pools, self.staging, limits)
        self.worker = Worker(WORKER, self.ingester.run)
        self.core = Dispatcher(self.database, holder="test/test/1", timing=FAST)
        assert self.core.lead()
        self.outcomes: list[Result] = []

    def apply(self, wanted: Job) -> None:
        with self.database.transaction() as conn:
            jobs.apply(conn, wanted)

    def tick(self) -> int:
        """One tick, and all that follows from it; return how many leases were run."""
        heads: list[HeadAnswer] = getattr(self, "_heads", [])
        outcomes: list[Result] = getattr(self, "_outcomes", [])
        orders = self.core.tick(
            Inbox(outcomes=tuple(outcomes), heads=tuple(heads), slots=(WORKER, WORKER)), now=time.monotonic()
        )
        self._heads = [self.ingester.answer_head(request) for request in orders.heads]
        self._outcomes = self.worker.run(orders.groups)
        self.worker.held(tuple(outcome.attempt for outcome in outcomes))
        self.outcomes += self._outcomes
        return sum(len(group.leases) for group in orders.groups)

    def run(self, name: str = "devnet", *, until: Callable[[JobStatus], bool], timeout_s: float = 60.0) -> JobStatus:
        """Tick until a condition of the job's status holds."""
        give_up = time.monotonic() + timeout_s
        while True:
            self.tick()
            status = self.status(name)
            if until(status):
                return status
            if time.monotonic() > give_up:
                raise TimeoutError(f"{status}")
            time.sleep(0.01)

    def status(self, name: str = "devnet") -> JobStatus:
        with self.database.transaction() as conn:
            return jobs.status(conn, DEFAULT_ORG, name)[0]

    def grant(self, *names: str) -> Grant:
        with self.database.transaction() as conn:
            return datasets.pin(conn, DEFAULT_ORG, names or None, None)

    def table(self, name: str, scratch: Path) -> pa.Table:
        """Return every published row of a dataset, read from the object store, ordered as published."""
        files = sorted(self.grant(name).datasets[0].files, key=lambda file: file.min_block)
        tables: list[pa.Table] = []
        for number, file in enumerate(files):
            path = scratch / f"{name}-{number}.parquet"
            self.store.get(file.key, path)
            tables.append(pq.read_table(path))
        return pa.concat_tables(tables)


def spans(found: Grant) -> list[BlockRange]:
    """Return the block spans of the files of a grant's first dataset."""
    return [BlockRange(file.min_block, file.max_block + 1) for file in found.datasets[0].files]
