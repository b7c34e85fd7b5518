"""Lease groups that no ledger made."""

from itertools import count
from uuid import uuid4

from trace_ray.contracts import (
    BlockRange,
    DatasetUuid,
    JobId,
    Lease,
    LeaseGroup,
    LeaseToken,
    Receipts,
    Task,
    TaskId,
    WorkerId,
)

_starts = count(0, 10)


def group(worker_id: WorkerId) -> LeaseGroup:
    """Return a group of one lease on a range of its own."""
    start = next(_starts)
    task = Task(
        task_id=TaskId(uuid4()),
        job_id=JobId(uuid4()),
        chain_id=31337,
        dataset_key="blocks",
        dataset_uuid=DatasetUuid(uuid4()),
        cryo_dataset_name="blocks",
        rpc_pool="standard",
        blocks=BlockRange(start, start + 10),
        config_hash="c",
    )
    return LeaseGroup(worker_id, (Lease(task, 1, LeaseToken(uuid4()), 0, Receipts.ETHEREUM),), 60.0)
