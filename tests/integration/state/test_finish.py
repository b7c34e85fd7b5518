"""Ends of attempts: fenced, exactly once in effect, all or nothing, and within their budgets."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from state import tasks
from tests.integration.state.effects import EVERYTHING, NOTHING, ONE, effects
from tests.integration.state.ledger import (
    NO_WAIT,
    POLICY,
    Ledger,
    block_hash,
    certificate,
    failure,
    job,
    publication,
    stream,
)
from trace_ray.contracts import AttemptKey, BlockRange, DatasetUuid, LeaseToken, Publication, TaskId, VersionId


def test_a_completion_brings_everything_about_once(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    (done,) = ledger.complete(publication(lease))
    assert (done.attempt, done.accepted, done.reason) == (lease.key, True, None)
    assert effects(ledger) == ONE


def test_an_unknown_task_is_not_found(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    stranger = AttemptKey(TaskId(uuid4()), 1, LeaseToken(uuid4()))
    assert ledger.complete(replace(publication(lease), attempt=stranger))[0].reason == "not_found"
    assert ledger.fail(replace(failure(lease), attempt=stranger))[0].reason == "not_found"


def test_the_same_outcome_twice_in_one_batch_counts_once(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    (group,) = ledger.claim()
    good, bad = group.leases
    assert [one.accepted for one in ledger.complete(publication(good), publication(good))] == [True, True]
    ledger.fail(failure(bad), failure(bad))
    assert effects(ledger) == ONE
    assert ledger.one(b"SELECT task_failures FROM state.tasks WHERE task_id = %s::uuid", bad.task.task_id) == 1


# --- what does not fit --------------------------------------------------------------------------------------------


def misfits(offer: Publication) -> list[Publication]:
    shifted = BlockRange(offer.blocks.start + 1, offer.blocks.end + 1)
    outside = replace(offer.files[0], max_block=offer.blocks.end)
    return [
        replace(offer, dataset_key="logs"),
        replace(offer, chain_id=1),
        replace(offer, dataset_uuid=DatasetUuid(UUID(int=1))),
        replace(offer, config_hash="other"),
        replace(offer, blocks=shifted),
        replace(offer, generation=1),
        replace(offer, dataset_version=VersionId(UUID(int=1))),
        replace(offer, rows=offer.rows + 1),
        replace(offer, files=(outside,)),
    ]


@pytest.mark.parametrize("which", range(9))
def test_a_publication_that_differs_from_its_task_is_a_failed_attempt(ledger: Ledger, which: int) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    (refused,) = ledger.complete(misfits(publication(lease))[which])
    assert (refused.accepted, refused.reason) == (False, "mismatch")
    assert effects(ledger) == NOTHING
    (task,) = ledger.rows(b"SELECT state, task_failures, error FROM state.tasks WHERE attempt = 1")
    assert (task["state"], task["task_failures"]) == ("queued", 1)


def test_two_neighbours_in_one_batch_are_accepted(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=300))
    leases = [lease for group in ledger.claim(slots=3) for lease in group.leases]
    done = ledger.complete(*map(publication, reversed(leases)))
    assert [one.accepted for one in done] == [True] * 6
    assert [one.attempt for one in done] == [lease.key for lease in reversed(leases)]
    assert sorted(row["s"] for row in ledger.rows(b"SELECT published_snapshot AS s FROM state.dataset_versions")) == [
        *range(1, 7)
    ]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("liar", [0, 100, 200])
def test_a_range_that_breaks_the_hash_chain_is_not_published(ledger: Ledger, liar: int, together: bool) -> None:
    ledger.sync(job(to_block=300))
    offers = {group.blocks.start: publication(group.leases[0]) for group in ledger.claim(slots=3)}
    proof = replace(certificate(offers[liar].blocks), parent_hash=block_hash(-5), end_hash=block_hash(-6))
    offers[liar] = replace(offers[liar], certificate=proof)
    honest = [offer for start, offer in offers.items() if start != liar]
    if together:
        settled = {one.attempt: one for one in ledger.complete(*offers.values())}
        refused = [one for one in settled.values() if one.reason == "broken_chain"]
        assert len(refused) >= 1
        # which of two contradicting ranges lied is not known: the first in order stays, and never both of a pair
        assert effects(ledger)["versions"] == 3 - len(refused)
        assert [one.reason for one in settled.values()].count(None) + len(refused) == 3
    else:
        assert all(one.accepted for one in ledger.complete(*honest))
        (one,) = ledger.complete(offers[liar])
        assert (one.accepted, one.reason) == (False, "broken_chain")
        assert effects(ledger)["versions"] == 2
        state = ledger.one(b"SELECT state FROM state.tasks WHERE task_id = %s::uuid", offers[liar].attempt.task_id)
        assert state == "queued"


def test_blocks_that_are_published_already_are_refused(ledger: Ledger) -> None:
    ledger.sync(job())
    first = ledger.lease()
    ledger.complete(publication(first))
    ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL WHERE task_id = %s::uuid", (first.task.task_id,)
    )
    again = next(lease for group in ledger.claim(slots=9) for lease in group.leases if lease.attempt == 2)
    (refused,) = ledger.complete(publication(again, content="other"))
    assert refused.reason == "overlap"
    assert effects(ledger)["versions"] == 1


def test_a_later_generation_replaces_the_earlier_one_from_its_snapshot_on(ledger: Ledger) -> None:
    ledger.sync(job())
    first = ledger.lease()
    ledger.complete(publication(first))
    ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL, generation = 1 WHERE task_id = %s::uuid",
        (first.task.task_id,),
    )
    again = next(lease for group in ledger.claim(slots=9) for lease in group.leases if lease.attempt == 2)
    assert again.generation == 1
    assert ledger.complete(publication(again))[0].accepted
    rows = ledger.rows(
        b"SELECT generation, published_snapshot, replaced_snapshot FROM state.dataset_versions ORDER BY generation"
    )
    assert [tuple(row.values()) for row in rows] == [(0, 1, 2), (1, 2, None)]


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_fatal_failure_is_dead_at_once_and_late_replies_are_refused(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    ledger.fail(failure(lease, retryable=False))
    assert ledger.complete(publication(lease))[0].reason == "dead"
    assert ledger.fail(failure(lease))[0].reason == "dead"
    assert effects(ledger) == NOTHING


def test_a_failed_attempt_cannot_complete_afterwards(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    ledger.fail(failure(lease), policy=POLICY)
    assert ledger.complete(publication(lease))[0].reason == "stale_attempt"
    assert effects(ledger) == NOTHING


def test_a_failure_after_success_changes_nothing(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    ledger.complete(publication(lease))
    before = ledger.rows(EVERYTHING)
    assert ledger.fail(failure(lease))[0].reason == "already_done"
    assert ledger.rows(EVERYTHING) == before


def test_a_cancelled_task_ends_for_good(ledger: Ledger) -> None:
    ledger.sync(job())
    lease = ledger.lease()
    assert tasks.cancel(ledger.conn, [lease.task.task_id]) == 1
    assert tasks.cancel(ledger.conn, [lease.task.task_id]) == 0
    assert ledger.complete(publication(lease))[0].reason == "cancelled"
    assert effects(ledger) == NOTHING


def test_a_message_from_outside_cannot_stop_the_ledger(ledger: Ledger) -> None:
    ledger.sync(job())
    strange = "nul \0, literal \\u0000, half a pair \ud800, quote '"
    assert ledger.fail(failure(ledger.lease(), message=strange))[0].accepted
    stored = ledger.one(b"SELECT error ->> 'message' FROM state.tasks WHERE error IS NOT NULL")
    assert stored == "nul , literal \\u0000, half a pair ?, quote '"


def test_ranges_of_several_streams_do_not_hold_each_other_up(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks"), stream("logs"), to_block=100))
    (group,) = ledger.claim()
    good, bad = group.leases
    assert ledger.complete(publication(good))[0].accepted
    assert ledger.fail(failure(bad))[0].accepted
    assert [lease.task.dataset_key for lease in ledger.claim()[0].leases] == [bad.task.dataset_key]


def test_what_our_own_side_failed_at_spends_no_attempt_of_the_range(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    for failures in range(1, NO_WAIT.max_infra_failures + 1):
        lease = ledger.lease()
        ledger.fail(replace(failure(lease, message="the object store does not answer"), infra=True))
        row = ledger.rows(b"SELECT state, task_failures, infra_failures FROM state.tasks")[0]
        assert (row["task_failures"], row["infra_failures"]) == (0, failures)
        assert row["state"] == ("dead" if failures == NO_WAIT.max_infra_failures else "queued")


def test_both_budgets_count_apart(ledger: Ledger) -> None:
    ledger.sync(job(to_block=100))
    for infra in (True, False, True, False):
        ledger.fail(replace(failure(ledger.lease()), infra=infra))
    row = ledger.rows(b"SELECT state, task_failures, infra_failures FROM state.tasks")[0]
    assert (row["state"], row["task_failures"], row["infra_failures"]) == ("queued", 2, 2)
