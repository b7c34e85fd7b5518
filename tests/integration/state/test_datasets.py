"""The registry: what a snapshot shows never changes, and gaps are named by block."""

from uuid import UUID

import pytest

from state import datasets, jobs
from tests.integration.state.ledger import CHAIN, POOL, Ledger, certificate, failure, job, publication, stream
from trace_ray.contracts import DEFAULT_ORG, BlockRange, FixedTarget, Grant, Lease, OrgId
from trace_ray.errors import NotFound


def pin(ledger: Ledger, *names: str, as_of: int | None = None) -> Grant:
    return datasets.pin(ledger.conn, DEFAULT_ORG, names or None, as_of)


def starts(grant: Grant, name: str) -> list[int]:
    (dataset,) = [one for one in grant.datasets if one.name == name]
    return [file.min_block for file in dataset.files]


def replace_range(ledger: Ledger, lease: Lease) -> None:
    """Publish the next generation of a range."""
    ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL, generation = generation + 1, run_at = 'epoch'"
        b" WHERE task_id = %s::uuid",
        (lease.task.task_id,),
    )
    assert ledger.complete(publication(ledger.lease(), content="new"))[0].accepted


def test_a_pin_shows_a_snapshot_for_ever(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=300))
    first, second, third = (ledger.lease() for _ in range(3))
    ledger.complete(publication(first))
    one = pin(ledger)
    ledger.complete(publication(second))
    two = pin(ledger)
    replace_range(ledger, first)
    ledger.complete(publication(third))
    four = pin(ledger)
    assert [grant.datasets[0].snapshot for grant in (one, two, four)] == [1, 2, 4]
    assert pin(ledger, as_of=1) == one
    assert pin(ledger, as_of=2) == two
    assert pin(ledger, as_of=4) == four
    assert starts(pin(ledger, as_of=0), "devnet_blocks") == []
    assert starts(pin(ledger, as_of=3), "devnet_blocks") == [0, 100]
    old, new = (pin(ledger, as_of=number).datasets[0].files[0].key for number in (2, 3))
    assert old != new


def test_a_pin_as_of_a_snapshot_is_the_same_while_publishing_goes_on(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=1000))
    first = ledger.lease()
    ledger.complete(publication(first))
    replace_range(ledger, first)
    old, pinned = pin(ledger, as_of=1), pin(ledger)
    waiting = [lease for group in ledger.claim(slots=3) for lease in group.leases]
    assert len(waiting) > 2
    for lease in waiting:
        ledger.complete(publication(lease))
        assert pin(ledger, as_of=1) == old
        assert pin(ledger, as_of=2) == pinned
    (before,), (after,) = (
        [file for one in grant.datasets for file in one.files if file.min_block == 0] for grant in (old, pinned)
    )
    assert (before.min_block, before.max_block) == (after.min_block, after.max_block)
    assert before.key != after.key


def test_one_number_fixes_all_datasets_at_the_same_instant(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=200))
    first, second = ledger.claim(slots=2)
    ledger.complete(publication(first.leases[0]))
    ledger.complete(publication(first.leases[1]))
    ledger.complete(publication(second.leases[0]))
    both = pin(ledger)
    assert {one.name: one.snapshot for one in both.datasets} == {"devnet_blocks": 3, "devnet_logs": 2}
    ledger.complete(publication(second.leases[1]))
    newest = max(one.snapshot for one in both.datasets)
    assert pin(ledger, as_of=newest) == both
    assert starts(pin(ledger, as_of=newest), "devnet_logs") == [0]
    assert starts(pin(ledger), "devnet_logs") == [0, 100]


def test_a_pin_names_gaps_inside_what_is_published(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=500))
    leases = {group.blocks.start: group.leases[0] for group in ledger.claim(slots=4)}
    ledger.complete(publication(leases[100]), publication(leases[300]))
    (dataset,) = pin(ledger).datasets
    assert (dataset.from_block, dataset.to_block) == (0, 400)
    assert dataset.gaps == (BlockRange(0, 100), BlockRange(200, 300))
    assert sum(file.rows for file in dataset.files) == 2000


def test_coverage_counts_planned_blocks_as_gaps_until_they_are_published(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=500))
    leases = {group.blocks.start: group.leases[0] for group in ledger.claim(slots=4)}
    ledger.complete(publication(leases[0]), publication(leases[200]))
    ledger.fail(failure(leases[300], retryable=False))
    now = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks")
    assert (now.from_block, now.to_block, now.snapshot) == (0, 400, 2)
    assert (now.blocks, now.rows, now.files, now.bytes) == (200, 2000, 2, 2000)
    assert now.gaps == (BlockRange(100, 200), BlockRange(300, 400))
    assert [version.blocks for version in now.versions] == [BlockRange(0, 100), BlockRange(200, 300)]
    assert now.versions[0].certificate == certificate(BlockRange(0, 100))
    then = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks", snapshot=1)
    assert (then.to_block, then.gaps, then.blocks, len(then.versions)) == (100, (), 100, 1)


def test_a_replaced_version_is_counted_once(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    lease = ledger.lease()
    ledger.complete(publication(lease))
    replace_range(ledger, lease)
    now = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks")
    assert (now.rows, now.files, now.blocks, len(now.versions)) == (1000, 1, 100, 1)


def test_jobs_share_a_dataset_and_the_blocks_between_them_are_a_gap(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=100))
    ledger.sync(job("blocks", name="second", mode=FixedTarget(200, 300)))
    ledger.drain()
    now = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks")
    assert (now.from_block, now.to_block, now.gaps) == (0, 300, (BlockRange(100, 200),))


def test_the_listing_names_every_dataset_also_empty_ones(ledger: Ledger) -> None:
    assert datasets.listing(ledger.conn, DEFAULT_ORG) == []
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job(stream("blocks"), stream("logs", max_inflight=1)))
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 5000)
    empty = datasets.listing(ledger.conn, DEFAULT_ORG)
    assert [(one.dataset, one.from_block, one.to_block, one.gaps, one.files) for one in empty] == [
        ("devnet_blocks", 0, 0, (), 0),
        ("devnet_logs", 0, 0, (), 0),
    ]
    assert [one.files for one in pin(ledger).datasets] == [(), ()]
    ledger.drain()
    blocks, logs = datasets.listing(ledger.conn, DEFAULT_ORG)
    assert (blocks.blocks, logs.blocks, blocks.gaps, logs.gaps) == (1000, 1000, (), ())


def test_unknown_datasets_and_snapshots_are_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="there is no dataset devnet_blocks: apply a job file first"):
        pin(ledger, "devnet_blocks")
    ledger.sync(job("blocks", "logs"))
    with pytest.raises(NotFound) as missing:
        pin(ledger, "devnet_blocks", "typo", "other", "nul\0")
    assert missing.value.problems == [
        "there is no dataset nul\0: choose one of devnet_blocks, devnet_logs",
        "there is no dataset other: choose one of devnet_blocks, devnet_logs",
        "there is no dataset typo: choose one of devnet_blocks, devnet_logs",
    ]
    for snapshot in (1, -1):
        with pytest.raises(NotFound) as unknown:
            pin(ledger, as_of=snapshot)
        assert unknown.value.problems == [
            f"there is no snapshot {snapshot}: the newest is 0; leave it out to read the newest"
        ]
    with pytest.raises(NotFound):
        datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks", snapshot=-1)


def test_a_pin_holds_only_what_was_asked_for_and_only_the_own_organisation(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    assert [one.name for one in pin(ledger, "devnet_logs").datasets] == ["devnet_logs"]
    stranger = OrgId(UUID(int=7))
    assert datasets.pin(ledger.conn, stranger, None, None).datasets == ()
    with pytest.raises(NotFound):
        datasets.pin(ledger.conn, stranger, ["devnet_logs"], None)
