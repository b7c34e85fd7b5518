"""Leases: exclusive, grouped by range, one per slot, and only of what may run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from state import jobs, tasks
from tests.integration.state.ledger import (
    CHAIN,
    NO_WAIT,
    POLICY,
    POOL,
    Ledger,
    block_hash,
    failure,
    job,
    publication,
    stream,
)
from trace_ray.contracts import BlockRange, LeaseGroup, WorkerId


def test_tasks_of_one_range_go_to_one_worker_in_one_group(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "transactions", "logs"))
    first, second = ledger.claim(slots=2)
    assert [lease.task.dataset_key for lease in first.leases] == ["blocks", "logs", "transactions"]
    assert (first.blocks, second.blocks) == (BlockRange(0, 100), BlockRange(100, 200))
    workers = ledger.rows(b"SELECT DISTINCT range_start, worker_id FROM state.tasks WHERE state = 'running'")
    assert len(workers) == 2


def test_the_groups_go_to_the_slots_in_order(ledger: Ledger) -> None:
    ledger.sync(job())
    with ledger.conn.transaction():
        groups = tasks.claim(ledger.conn, ledger.epoch, [WorkerId("a"), WorkerId("b"), WorkerId("a")], ttl_s=9.0)
    assert [(group.worker_id, group.blocks.start, group.ttl_s) for group in groups] == [
        ("a", 0, 9.0),
        ("b", 100, 9.0),
        ("a", 200, 9.0),
    ]


def test_streams_of_other_pools_or_ranges_are_leased_apart(ledger: Ledger) -> None:
    logs = stream("logs", chunk_size=50)
    ledger.sync(job(stream("blocks"), replace(stream("transactions"), rpc_pool="archive"), logs, to_block=100))
    groups = ledger.claim(slots=9)
    assert sorted((group.rpc_pool, group.blocks.start, len(group.leases)) for group in groups) == [
        ("archive", 0, 1),
        (POOL, 0, 1),
        (POOL, 0, 1),
        (POOL, 50, 1),
    ]


def test_a_joint_call_that_keeps_failing_is_tried_one_by_one(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=100))
    for _ in range(2):
        (group,) = ledger.claim(slots=4)
        assert len(group.leases) == 2
        ledger.fail(*map(failure, group.leases))
    assert [len(group.leases) for group in ledger.claim(slots=4)] == [1, 1]


def test_failed_tasks_of_one_range_come_back_together(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=100))
    (group,) = ledger.claim()
    ledger.fail(*map(failure, group.leases), policy=POLICY)
    assert ledger.claim() == []
    with ledger.conn.transaction():
        late = datetime.now(UTC) + timedelta(seconds=60)
        (again,) = tasks.claim(ledger.conn, ledger.epoch, [WorkerId("w")], ttl_s=60, now=late)
    assert [lease.attempt for lease in again.leases] == [2, 2]


def test_nothing_is_leased_of_paused_jobs_and_of_pools_that_give_no_head(ledger: Ledger) -> None:
    known = ledger.sync(job())
    jobs.pause(ledger.conn, known.org_id, known.name)
    assert ledger.claim() == []
    jobs.resume(ledger.conn, known.org_id, known.name)
    jobs.record_head_error(ledger.conn, ledger.epoch, POOL, CHAIN, "no answer")
    assert ledger.claim() == []
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 5000)
    assert len(ledger.claim()) == 1


def test_another_pool_moves_what_is_queued(ledger: Ledger) -> None:
    known = ledger.sync(job())
    moved = replace(known, streams=(replace(stream("blocks"), rpc_pool="archive"),))
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, moved)
    assert ledger.claim()[0].rpc_pool == "archive"


def test_a_lease_says_what_its_published_neighbours_demand(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=300))
    groups = {group.blocks.start: group for group in ledger.claim(slots=3)}
    outer = [publication(lease) for start in (0, 200) for lease in groups[start].leases]
    ledger.complete(*outer)
    ledger.fail(*map(failure, groups[100].leases))
    (middle,) = ledger.claim()
    for lease in middle.leases:
        assert (lease.parent_hash, lease.child_parent_hash) == (block_hash(99), block_hash(199))


def test_a_heartbeat_renews_only_what_is_held(ledger: Ledger) -> None:
    ledger.sync(job())
    held, gone = ledger.lease(), ledger.lease(ttl_s=-1)
    tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
    renewed = tasks.heartbeat(ledger.conn, ledger.epoch, [held.key, gone.key], ttl_s=500)
    assert renewed == [held.key]
    left = ledger.one(b"SELECT lease_expires_at - now() > interval '400 s' FROM state.tasks WHERE state = 'running'")
    assert left is True


def test_a_fresh_lease_is_not_written_again_by_a_heartbeat(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease(ttl_s=60)
    before = ledger.one(b"SELECT lease_expires_at FROM state.tasks WHERE state = 'running'")
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [lease.key], ttl_s=60) == [lease.key]
    assert ledger.one(b"SELECT lease_expires_at FROM state.tasks WHERE state = 'running'") == before


def test_a_cancelled_range_is_not_leased_again_and_takes_no_room(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=2)))
    running = ledger.lease()
    queued = ledger.rows(b"SELECT task_id FROM state.tasks WHERE state = 'queued'")
    assert tasks.cancel(ledger.conn, [running.task.task_id, *(row["task_id"] for row in queued)]) == 2
    assert ledger.claim(slots=9) == []
    assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 0
    assert tasks.heartbeat(ledger.conn, ledger.epoch, [running.key], ttl_s=500) == []
    assert ledger.plan() == 2
    assert [group.blocks.start for group in ledger.claim(slots=9)] == [200, 300]


def test_no_slot_no_lease(ledger: Ledger) -> None:
    ledger.sync(job())
    groups: list[LeaseGroup] = tasks.claim(ledger.conn, ledger.epoch, [], ttl_s=60)
    assert groups == []
