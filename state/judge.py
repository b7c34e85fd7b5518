"""Whether an attempt may finish, and whether what it offers may be published. Pure: rows in, a reason out."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from trace_ray.contracts import AttemptKey, BlockRange, DatasetUuid, Publication, dataset_version_id


class Reason(StrEnum):
    """Why the ledger did not take an outcome. The last three also count as a failed attempt."""

    STALE_ATTEMPT = "stale_attempt"
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - the name of a refusal, not a secret
    ALREADY_DONE = "already_done"  # this very attempt was accepted before: success for who asks again
    CANCELLED = "cancelled"
    DEAD = "dead"
    NOT_FOUND = "not_found"
    MISMATCH = "mismatch"
    OVERLAP = "overlap"
    BROKEN_CHAIN = "broken_chain"


FAILURES = {
    Reason.MISMATCH: "the publication is not of the leased task",
    Reason.OVERLAP: "blocks of the range are published already, by another range or with other content",
    Reason.BROKEN_CHAIN: "the range does not join the hash chain of its published neighbours",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of an attempt: `attempt_token` is that of the asked one, `lease_token` the valid one."""

    state: str
    attempt: int
    lease_token: UUID | None
    attempt_token: UUID | None


@dataclass(frozen=True, slots=True)
class Place:
    """The task of a publication, and what is published around it; None where nothing is."""

    generation: int
    dataset_uuid: DatasetUuid
    blocks: BlockRange
    chain_id: int
    dataset_key: str
    config_hash: str
    before_hash: bytes | None
    after_hash: bytes | None
    covered_generation: int | None


def stale(known: Known | None, key: AttemptKey) -> Reason | None:
    """Return why the attempt may not finish its task, or None when it holds the task."""
    if known is None:
        return Reason.NOT_FOUND
    genuine = known.attempt_token == key.lease_token
    if known.state == "succeeded" and known.attempt == key.attempt and genuine:
        return Reason.ALREADY_DONE
    if known.state == "cancelled":
        return Reason.CANCELLED
    if known.attempt != key.attempt:
        return Reason.STALE_ATTEMPT
    if not genuine:
        return Reason.WRONG_TOKEN
    if known.state == "dead":
        return Reason.DEAD
    if known.lease_token != key.lease_token:  # failed or freed since: the token died with the lease
        return Reason.STALE_ATTEMPT
    return None


@dataclass(slots=True)
class Batch:
    """Judges the publications of one transaction one after another: each accepted one is a neighbour of the next.

    They may come in any order; that of their blocks is the fastest.
    """

    _ends: dict[tuple[DatasetUuid, int], bytes] = field(default_factory=dict[tuple[DatasetUuid, int], bytes])
    _parents: dict[tuple[DatasetUuid, int], bytes] = field(default_factory=dict[tuple[DatasetUuid, int], bytes])
    _taken: dict[DatasetUuid, list[BlockRange]] = field(default_factory=dict[DatasetUuid, list[BlockRange]])
    _reached: dict[DatasetUuid, int] = field(default_factory=dict[DatasetUuid, int])

    def unfit(self, publication: Publication, place: Place) -> Reason | None:
        """Return why the offer may not be published, or None and remember it as published."""
        if not _matches(publication, place):
            return Reason.MISMATCH
        if place.covered_generation is not None and place.covered_generation >= place.generation:
            return Reason.OVERLAP
        dataset, blocks, proof = place.dataset_uuid, place.blocks, publication.certificate
        if self._overlaps(dataset, blocks):
            return Reason.OVERLAP
        before = self._ends.get((dataset, blocks.start), place.before_hash)
        after = self._parents.get((dataset, blocks.end), place.after_hash)
        if before not in (None, proof.parent_hash) or after not in (None, proof.end_hash):
            return Reason.BROKEN_CHAIN
        self._ends[dataset, blocks.end] = proof.end_hash
        self._parents[dataset, blocks.start] = proof.parent_hash
        self._taken.setdefault(dataset, []).append(blocks)
        self._reached[dataset] = max(blocks.end, self._reached.get(dataset, 0))
        return None

    def _overlaps(self, dataset: DatasetUuid, blocks: BlockRange) -> bool:
        """Say whether an accepted publication of this batch covers some of the blocks."""
        if blocks.start >= self._reached.get(dataset, 0):
            return False
        return any(blocks.overlaps(one) for one in self._taken[dataset])


def _matches(publication: Publication, place: Place) -> bool:
    return (
        publication.dataset_uuid == place.dataset_uuid
        and publication.chain_id == place.chain_id
        and publication.dataset_key == place.dataset_key
        and publication.config_hash == place.config_hash
        and publication.blocks == place.blocks
        and publication.generation == place.generation
        and publication.dataset_version
        == dataset_version_id(place.dataset_uuid, place.config_hash, place.blocks, place.generation)
        and publication.rows == sum(file.rows for file in publication.files)
        and all(_inside(file.min_block, file.max_block, place.blocks) for file in publication.files)
    )


def _inside(first: int, last: int, blocks: BlockRange) -> bool:
    return first in blocks and last in blocks
