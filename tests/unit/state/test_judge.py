"""Who may finish an attempt, and what may be published. No database."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from state.judge import FAILURES, Batch, Known, Place, Reason, stale
from tests.integration.state.ledger import CHAIN, block_hash, publication
from trace_ray import manifest
from trace_ray.contracts import (
    DEFAULT_ORG,
    AttemptKey,
    BlockRange,
    Lease,
    LeaseToken,
    Publication,
    Receipts,
    Task,
    TaskId,
    VersionId,
    dataset_uuid,
    job_id,
    task_id,
)

KEY = AttemptKey(TaskId(uuid4()), 2, LeaseToken(uuid4()))
HELD = Known("running", 2, KEY.lease_token, KEY.lease_token)


def lease(start: int, end: int) -> Lease:
    blocks, job, uuid = (
        BlockRange(start, end),
        job_id(DEFAULT_ORG, "devnet"),
        dataset_uuid(DEFAULT_ORG, CHAIN, "blocks"),
    )
    task = Task(
        task_id=task_id(job, "blocks", blocks),
        job_id=job,
        chain_id=CHAIN,
        dataset_key="blocks",
        dataset_uuid=uuid,
        cryo_dataset_name="blocks",
        rpc_pool="standard",
        blocks=blocks,
        config_hash=manifest.config_hash(uuid, "blocks"),
    )
    return Lease(task, 1, LeaseToken(uuid4()), 0, Receipts.ETHEREUM)


def offer(start: int, end: int) -> tuple[Publication, Place]:
    held = lease(start, end)
    task = held.task
    place = Place(0, task.dataset_uuid, task.blocks, CHAIN, "blocks", task.config_hash, None, None, None)
    return publication(held), place


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (HELD, None),
        (replace(HELD, state="queued"), None),
        (None, Reason.NOT_FOUND),
        (replace(HELD, attempt=3), Reason.STALE_ATTEMPT),
        (replace(HELD, attempt=1, attempt_token=None), Reason.STALE_ATTEMPT),
        (replace(HELD, lease_token=None), Reason.STALE_ATTEMPT),
        (replace(HELD, attempt_token=UUID(int=1)), Reason.WRONG_TOKEN),
        (replace(HELD, state="succeeded", lease_token=None), Reason.ALREADY_DONE),
        (replace(HELD, state="succeeded", attempt=3), Reason.STALE_ATTEMPT),
        (replace(HELD, state="succeeded", attempt_token=UUID(int=1)), Reason.WRONG_TOKEN),
        (replace(HELD, state="cancelled", lease_token=None), Reason.CANCELLED),
        (replace(HELD, state="dead", lease_token=None), Reason.DEAD),
        (replace(HELD, state="dead", attempt=3), Reason.STALE_ATTEMPT),
    ],
)
def test_only_the_current_attempt_with_its_token_may_finish(known: Known | None, reason: Reason | None) -> None:
    assert stale(known, KEY) == reason


def test_an_offer_that_fits_is_accepted() -> None:
    assert Batch().unfit(*offer(100, 200)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_uuid": dataset_uuid(DEFAULT_ORG, CHAIN, "logs")},
        {"chain_id": CHAIN + 1},
        {"dataset_key": "logs"},
        {"config_hash": "other"},
        {"blocks": BlockRange(100, 201)},
        {"generation": 1},
        {"dataset_version": VersionId(UUID(int=1))},
        {"rows": 999},
        {"files": ()},
        {"files": (replace(offer(100, 200)[0].files[0], min_block=99),)},
        {"files": (replace(offer(100, 200)[0].files[0], max_block=200),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_offer_that_is_not_of_its_task_is_a_mismatch(change: dict[str, Any]) -> None:
    publication, place = offer(100, 200)
    assert Batch().unfit(replace(publication, **change), place) is Reason.MISMATCH


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (block_hash(99), block_hash(199), None),
        (block_hash(98), None, Reason.BROKEN_CHAIN),
        (None, block_hash(200), Reason.BROKEN_CHAIN),
        (b"", None, Reason.BROKEN_CHAIN),
    ],
)
def test_an_offer_must_join_its_published_neighbours(
    before: bytes | None, after: bytes | None, reason: Reason | None
) -> None:
    publication, place = offer(100, 200)
    assert Batch().unfit(publication, replace(place, before_hash=before, after_hash=after)) == reason


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_offers_of_one_batch_are_each_others_neighbours(order: tuple[int, int]) -> None:
    left, right = offer(0, 100), offer(100, 200)
    fork = replace(right[0], certificate=replace(right[0].certificate, parent_hash=block_hash(-7)))
    offers = [left, (fork, right[1])]
    batch = Batch()
    assert [batch.unfit(*offers[place]) for place in order] == [None, Reason.BROKEN_CHAIN]


def test_published_blocks_are_not_published_again_unless_by_a_later_generation() -> None:
    publication, place = offer(0, 100)
    assert Batch().unfit(publication, replace(place, covered_generation=0)) is Reason.OVERLAP
    again = replace(lease(0, 100), generation=1)
    assert Batch().unfit(_publish(again), replace(place, covered_generation=0, generation=1)) is None
    assert Batch().unfit(_publish(again), replace(place, covered_generation=1, generation=1)) is Reason.OVERLAP


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_offers_of_one_batch_do_not_cover_the_same_blocks(order: tuple[int, int]) -> None:
    offers = [offer(100, 200), offer(150, 250)]
    batch = Batch()
    assert [batch.unfit(*offers[which]) for which in order] == [None, Reason.OVERLAP]


def _publish(held: Lease) -> Publication:
    return publication(held)


def test_what_counts_as_a_failed_attempt_has_a_sentence_for_people() -> None:
    assert set(FAILURES) == {Reason.MISMATCH, Reason.OVERLAP, Reason.BROKEN_CHAIN}
