"""Published versions around ranges: what their hashes demand of a range, and whether its blocks are covered already.

Ranges that touch are asked for as one span: a batch of consecutive ranges costs two look-ups, not three for each.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from state import arrays
from trace_ray.contracts import BlockRange, DatasetUuid

Extent = tuple[DatasetUuid, BlockRange]


@dataclass(frozen=True, slots=True, order=True)
class Visible:
    """A published version that nothing has replaced."""

    start: int
    end: int
    generation: int
    parent_hash: bytes
    end_hash: bytes


@dataclass(frozen=True, slots=True)
class Around:
    """What is published around a range; None where nothing is. `covered_generation`: of a version of its blocks."""

    before_hash: bytes | None
    after_hash: bytes | None
    covered_generation: int | None


@dataclass(slots=True)
class Neighbours:
    """The visible versions that touch or overlap some ranges. Those of a dataset do not overlap each other."""

    _of: defaultdict[UUID, list[Visible]] = field(default_factory=lambda: defaultdict[UUID, list[Visible]](list))
    _starts: dict[UUID, list[int]] = field(default_factory=dict[UUID, list[int]])

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[UUID, int, int, int, bytes, bytes]]) -> "Neighbours":
        """Take rows of the statement `neighbours`: dataset, start, end, generation, parent hash, end hash."""
        found = cls()
        for dataset, start, end, generation, parent_hash, end_hash in rows:
            found._of[dataset].append(Visible(start, end, generation, parent_hash, end_hash))
        for dataset, versions in found._of.items():
            versions.sort()
            found._starts[dataset] = [version.start for version in versions]
        return found

    def around(self, dataset: UUID, blocks: BlockRange) -> Around:
        """Return what is published around a range, which must be one of those that were asked for."""
        starts = self._starts.get(dataset)
        if starts is None:
            return NOTHING
        versions = self._of[dataset]
        beyond = bisect_left(starts, blocks.end)  # the first one that starts at its end, or later
        first = bisect_left(starts, blocks.start)
        before = versions[first - 1] if first else None
        after = versions[beyond] if beyond < len(versions) else None
        last = versions[beyond - 1] if beyond else None
        return Around(
            before.end_hash if before and before.end == blocks.start else None,
            after.parent_hash if after and after.start == blocks.end else None,
            last.generation if last and last.end > blocks.start else None,
        )


NOTHING = Around(None, None, None)


def spans(extents: Iterable[Extent]) -> Mapping[str, arrays.Packed]:
    """Return the parameters of the statement `neighbours` for ranges, in order of dataset and start."""
    joined: list[tuple[UUID, int, int]] = []
    for dataset, blocks in extents:
        if joined and joined[-1][0] == dataset and blocks.start <= joined[-1][2]:
            _, start, end = joined.pop()
            joined.append((dataset, start, max(end, blocks.end)))
        else:
            joined.append((dataset, blocks.start, blocks.end))
    return {
        "datasets": arrays.uuids(dataset for dataset, _, _ in joined),
        "span_starts": arrays.bigints([start for _, start, _ in joined]),
        "span_ends": arrays.bigints([end for *_, end in joined]),
    }
