"""A Dispatcher's view of the ledgers for the tests: jobs, leases, and publications that fit them."""

import hashlib
from dataclasses import dataclass

from state import jobs, tasks
from state.db import Connection, Row
from trace_ray import manifest
from trace_ray.contracts import (
    DEFAULT_ORG,
    BlockRange,
    Certificate,
    DataFile,
    Epoch,
    Failure,
    FixedTarget,
    FollowHead,
    Job,
    Lease,
    LeaseGroup,
    Level,
    Publication,
    Receipts,
    Stream,
    WorkerId,
)
from trace_ray.retry import RetryPolicy

POLICY = RetryPolicy(base_s=1.0, cap_s=30.0, max_attempts=3, max_infra_failures=3)
NO_WAIT = RetryPolicy(base_s=0.0, cap_s=0.0, max_attempts=3, max_infra_failures=3)
CHAIN = 31337
POOL = "standard"


def stream(key: str, *, chunk_size: int = 100, max_inflight: int = 4) -> Stream:
    return Stream(
        dataset_key=key,
        cryo_dataset_name=key,
        rpc_pool=POOL,
        chunk_size=chunk_size,
        max_inflight=max_inflight,
        dataset=f"devnet_{key}",
    )


def job(
    *streams: Stream | str, name: str = "devnet", to_block: int = 1000, mode: FixedTarget | FollowHead | None = None
) -> Job:
    return Job(
        org_id=DEFAULT_ORG,
        name=name,
        chain_id=CHAIN,
        chain_name="devnet",
        enabled=True,
        mode=mode or FixedTarget(0, to_block),
        receipts=Receipts.ETHEREUM,
        streams=tuple(stream(one) if isinstance(one, str) else one for one in streams or ("blocks",)),
        yaml_hash="0",
    )


def block_hash(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def certificate(blocks: BlockRange) -> Certificate:
    return Certificate(
        level=Level.RECEIPTS_ROOT,
        checks=("header_chain", "receipts_root"),
        parent_hash=block_hash(blocks.start - 1),
        end_hash=block_hash(blocks.end - 1),
        receipts=Receipts.ETHEREUM,
        engine="native",
        engine_version="1",
        engine_digest="aa",
        provider="standard#0",
    )


def publication(lease: Lease, *, content: str = "same") -> Publication:
    """What an attempt offers after it extracted its range; `content` decides the bytes."""
    blocks = lease.task.blocks
    digest = hashlib.sha256(f"{content}{lease.task.task_id}".encode()).hexdigest()
    file = DataFile(
        key=manifest.object_key(lease, digest=digest[:16]),
        bytes=1000,
        rows=len(blocks) * 10,
        digest=digest,
        min_block=blocks.start,
        max_block=blocks.end - 1,
    )
    return manifest.publication(lease, files=[file], certificate=certificate(blocks), seconds={})


def failure(lease: Lease, *, retryable: bool = True, message: str = "the provider lagged") -> Failure:
    return Failure(lease.key, "SourceLied", message, retryable, "standard#0")


@dataclass
class Ledger:
    """One term of a Dispatcher on one connection; each call is one statement or one transaction."""

    conn: Connection
    epoch: Epoch

    @classmethod
    def lead(cls, conn: Connection, holder: str = "cluster/space/1") -> "Ledger":
        epoch = tasks.take_over(conn, holder=holder, ttl_s=60)
        assert epoch is not None
        return cls(conn, epoch)

    def sync(self, one: Job, *, head: int = 10_000) -> Job:
        """Apply a job and plan what its streams have room for."""
        with self.conn.transaction():
            jobs.apply(self.conn, one)
        for pool in {each.rpc_pool for each in one.streams}:
            jobs.record_head(self.conn, self.epoch, pool, one.chain_id, head)
        self.plan()
        return one

    def plan(self) -> int:
        with self.conn.transaction():
            return jobs.plan(self.conn, self.epoch)

    def claim(self, slots: int = 1, *, ttl_s: float = 60.0, worker: str = "w/0.0") -> list[LeaseGroup]:
        with self.conn.transaction():
            return tasks.claim(self.conn, self.epoch, [WorkerId(worker)] * slots, ttl_s=ttl_s)

    def lease(self, *, ttl_s: float = 60.0, worker: str = "w/0.0") -> Lease:
        """Lease one group and return its first lease."""
        return self.claim(ttl_s=ttl_s, worker=worker)[0].leases[0]

    def complete(self, *offers: Publication) -> list[tasks.Settlement]:
        with self.conn.transaction():
            return tasks.complete(self.conn, self.epoch, offers, policy=POLICY)

    def fail(self, *failures: Failure, policy: RetryPolicy = NO_WAIT) -> list[tasks.Settlement]:
        with self.conn.transaction():
            return tasks.fail(self.conn, self.epoch, failures, policy=policy)

    def drain_once(self) -> None:
        """Complete what is queued, and plan nothing new."""
        self.complete(*(publication(lease) for group in self.claim(slots=16) for lease in group.leases))

    def drain(self) -> list[Lease]:
        """Plan, lease and complete until nothing is left; return every lease in order."""
        leases: list[Lease] = []
        while True:
            self.plan()
            done = [lease for group in self.claim(slots=16) for lease in group.leases]
            if not done:
                return leases
            self.complete(*map(publication, done))
            leases += done

    def rows(self, query: bytes, *values: object) -> list[Row]:
        return self.conn.execute(query, values).fetchall()

    def one(self, query: bytes, *values: object) -> object:
        """Return the first column of the only row."""
        (row,) = self.rows(query, *values)
        return next(iter(row.values()))
