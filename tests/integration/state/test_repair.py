"""Exactly the missing ranges are planned again, and coverage says why they are missing."""

from dataclasses import replace

import pytest

from state import datasets, repair, tasks
from tests.integration.state.ledger import Ledger, failure, job, publication
from trace_ray.contracts import DEFAULT_ORG, BlockRange, OrgId, VersionId
from trace_ray.errors import NotFound
from trace_ray.reports import Coverage


def coverage(ledger: Ledger, name: str = "devnet_blocks") -> Coverage:
    return datasets.coverage(ledger.conn, DEFAULT_ORG, name)


def reasons(ledger: Ledger) -> list[tuple[int, int, str]]:
    return [(one.blocks.start, one.blocks.end, str(one.reason)) for one in coverage(ledger).missing]


def mend(ledger: Ledger, name: str = "devnet") -> list[repair.Repaired]:
    with ledger.conn.transaction():
        return repair.repair(ledger.conn, DEFAULT_ORG, name)


def versions(ledger: Ledger, *starts: int) -> list[VersionId]:
    return [one.dataset_version for one in coverage(ledger).versions if one.blocks.start in starts]


def test_coverage_names_every_missing_range_with_its_reason(ledger: Ledger) -> None:
    ledger.sync(job(to_block=1000))  # four ranges of 100 may be open
    dead, running, done = ledger.lease(), ledger.lease(), ledger.lease()
    ledger.fail(failure(dead, retryable=False, message="the provider lied"))
    ledger.complete(publication(done))
    assert reasons(ledger) == [
        (0, 100, "dead"),
        (100, 200, "running"),
        (300, 400, "queued"),
        (400, 1000, "never_planned"),
    ]
    assert running.task.blocks == BlockRange(100, 200)
    assert coverage(ledger).missing[0].detail == "the provider lied"


def test_a_cancelled_range_counts_as_dead_and_nothing_is_missing_in_a_past_snapshot(ledger: Ledger) -> None:
    ledger.sync(job(to_block=200))
    tasks.cancel(ledger.conn, [ledger.lease().task.task_id])
    ledger.drain()
    assert reasons(ledger) == [(0, 100, "dead")]
    assert datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks", 1).missing == ()


def test_a_complete_dataset_misses_nothing_and_a_repair_plans_nothing(ledger: Ledger) -> None:
    ledger.sync(job(to_block=300))
    ledger.drain()
    assert reasons(ledger) == []
    assert [one.ranges for one in mend(ledger)] == [0]
    assert ledger.drain() == []


def test_dead_ranges_are_put_back_and_the_others_left_alone(ledger: Ledger) -> None:
    ledger.sync(job(to_block=400))
    dead, running = ledger.lease(), ledger.lease()
    ledger.fail(failure(dead, retryable=False))
    (report,) = mend(ledger)
    assert (report.put_back, report.regenerated, report.never_planned) == ((dead.task.blocks,), (), ())
    assert [one.ranges for one in mend(ledger)] == [0]
    queued = [lease for group in ledger.claim(slots=4) for lease in group.leases]
    assert [lease.attempt for lease in queued if lease.task.task_id == dead.task.task_id] == [2]
    assert ledger.complete(publication(running))[0].accepted


def test_a_withdrawn_version_is_a_gap_until_its_next_generation_is_published(ledger: Ledger) -> None:
    ledger.sync(job(to_block=300))
    ledger.drain()
    before = coverage(ledger).snapshot
    assert repair.withdraw(ledger.conn, versions(ledger, 100), reason="its object is lost") == 1
    assert repair.withdraw(ledger.conn, versions(ledger, 100), reason="again") == 0
    assert reasons(ledger) == [(100, 200, "replaced")]
    assert coverage(ledger).missing[0].detail == "its object is lost"
    assert coverage(ledger).snapshot == before + 1
    (report,) = mend(ledger)
    assert report.regenerated == (BlockRange(100, 200),)
    assert reasons(ledger) == [(100, 200, "queued")]
    assert [one.ranges for one in mend(ledger)] == [0]
    (lease,) = ledger.drain()
    assert (lease.generation, lease.attempt) == (1, 1)
    assert reasons(ledger) == []
    old = datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_blocks", before)
    assert old.gaps == ()  # who reads as of the old snapshot sees what it saw


def test_a_range_may_be_repaired_again_and_again(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    ledger.drain()
    for generation in (1, 2, 3):
        repair.withdraw(ledger.conn, versions(ledger, 0), reason="lost")
        mend(ledger)
        (lease,) = ledger.drain()
        assert lease.generation == generation
    assert reasons(ledger) == []
    counted = ledger.one(b"SELECT count(*) FROM state.attempts WHERE outcome = 'succeeded'")
    assert counted == ledger.one(b"SELECT count(*) FROM state.tasks WHERE state = 'succeeded'") == 4


def test_blocks_that_lost_their_range_are_planned_in_chunks(ledger: Ledger) -> None:
    ledger.sync(job(to_block=1000))
    ledger.drain()
    repair.withdraw(ledger.conn, versions(ledger, 200, 300), reason="lost")
    ledger.conn.execute(b"DELETE FROM state.ranges WHERE range_start IN (200, 300)")
    ledger.conn.execute(b"UPDATE state.dataset_versions SET withdrawn = NULL")
    assert reasons(ledger) == [(200, 400, "never_planned")]
    ledger.conn.execute(b"UPDATE state.streams SET chunk_size = 80")
    (report,) = mend(ledger)
    assert report.never_planned == (BlockRange(200, 280), BlockRange(280, 360), BlockRange(360, 400))
    assert len(ledger.drain()) == 3
    assert reasons(ledger) == []


def test_a_repair_waits_for_a_planner_and_doubles_nothing(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=1000))
    mend(ledger)
    ledger.drain()
    assert reasons(ledger) == []
    row = ledger.rows(
        b"SELECT count(*) AS ranges, count(DISTINCT range_start) AS starts FROM state.ranges GROUP BY stream_id"
    )
    assert row == [{"ranges": 10, "starts": 10}] * 2


def test_a_range_whose_next_generation_differs_from_its_neighbours_is_refused(ledger: Ledger) -> None:
    ledger.sync(job(to_block=300))
    ledger.drain()
    repair.withdraw(ledger.conn, versions(ledger, 100), reason="lost")
    mend(ledger)
    offer = publication(ledger.lease())
    forged = replace(offer, certificate=replace(offer.certificate, parent_hash=b"\1" * 32))
    assert ledger.complete(forged)[0].reason == "broken_chain"


def test_only_the_own_organisations_jobs_can_be_repaired(ledger: Ledger) -> None:
    ledger.sync(job(to_block=300))
    with pytest.raises(NotFound):
        mend(ledger, "other")
    with pytest.raises(NotFound):
        repair.repair(ledger.conn, OrgId(ledger.lease().task.task_id), "devnet")


def test_registered_objects_are_told_by_their_prefix(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=200))
    offers = [publication(lease) for lease in ledger.drain()]
    found = repair.registered(ledger.conn, DEFAULT_ORG, "devnet")
    assert sorted(one.key for objects in found.values() for one in objects) == sorted(
        file.key for offer in offers for file in offer.files
    )
    assert all(one.key.startswith(prefix) for prefix, objects in found.items() for one in objects)
