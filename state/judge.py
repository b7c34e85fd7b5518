"""Whether an attempt may finish, and whether what it offers may be published. Pure: rows in, a reason out."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from trace_ray.contracts import AttemptKey, BlockRange, Certificate, DatasetUuid, Publication, dataset_version_id


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

    _accepted: dict[DatasetUuid, "_Accepted"] = field(default_factory=dict[DatasetUuid, "_Accepted"])

    def unfit(self, publication: Publication, place: Place, *, sound: bool | None = None) -> Reason | None:
        """Return why the offer may not be published, or None and remember it as published.

        Args:
            sound: What `coherent` said of it, if it was asked before.
        """
        if not (coherent(publication) if sound is None else sound) or not _matches(publication, place):
            return Reason.MISMATCH
        if place.covered_generation is not None and place.covered_generation >= place.generation:
            return Reason.OVERLAP
        accepted = self._accepted.get(place.dataset_uuid)
        if accepted is None:
            accepted = self._accepted[place.dataset_uuid] = _Accepted()
        blocks, proof = place.blocks, publication.certificate
        if accepted.overlaps(blocks):
            return Reason.OVERLAP
        before = accepted.ends.get(blocks.start, place.before_hash)
        after = accepted.parents.get(blocks.end, place.after_hash)
        if before not in (None, proof.parent_hash) or after not in (None, proof.end_hash):
            return Reason.BROKEN_CHAIN
        accepted.add(blocks, proof)
        return None


@dataclass(slots=True)
class _Accepted:
    """What a batch has accepted of one dataset: hashes by the block where they are demanded, and the ranges."""

    ends: dict[int, bytes] = field(default_factory=dict[int, bytes])
    parents: dict[int, bytes] = field(default_factory=dict[int, bytes])
    taken: list[BlockRange] = field(default_factory=list[BlockRange])
    reached: int = 0

    def add(self, blocks: BlockRange, proof: Certificate) -> None:
        self.ends[blocks.end] = proof.end_hash
        self.parents[blocks.start] = proof.parent_hash
        self.taken.append(blocks)
        self.reached = max(blocks.end, self.reached)

    def overlaps(self, blocks: BlockRange) -> bool:
        """Say whether an accepted publication covers some of the blocks."""
        return blocks.start < self.reached and any(blocks.overlaps(one) for one in self.taken)


def coherent(publication: Publication) -> bool:
    """Say whether what a publication says of itself fits together; it needs no ledger for that."""
    blocks = publication.blocks
    return (
        publication.dataset_version
        == dataset_version_id(publication.dataset_uuid, publication.config_hash, blocks, publication.generation)
        and publication.rows == sum(file.rows for file in publication.files)
        and all(_inside(file.min_block, file.max_block, blocks) for file in publication.files)
    )


def _matches(publication: Publication, place: Place) -> bool:
    return (
        publication.dataset_uuid == place.dataset_uuid
        and publication.chain_id == place.chain_id
        and publication.dataset_key == place.dataset_key
        and publication.config_hash == place.config_hash
        and publication.blocks == place.blocks
        and publication.generation == place.generation
    )


def _inside(first: int, last: int, blocks: BlockRange) -> bool:
    return first in blocks and last in blocks
