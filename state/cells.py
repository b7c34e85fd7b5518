"""Which blocks an evaluation has: the parts that one version of each of a rule's datasets covers. Pure.

A cell is the intersection of exactly one visible version per dataset, where it is not empty. Versions of one dataset do
not overlap, so cells do not overlap, and together they are the blocks that all datasets cover. Versions planned for are
handed over once each, when they are published; the cells of a version are those that it is a part of.

No block is lost, whatever the order, the sizes and the batches of publications: a block that all datasets cover lies in
one cell, that of the versions that hold it. When the event of the last published of these is handled, the others are
visible, so the cell is found. None is evaluated twice: a cell, and so the evaluation's id, is made from its versions
alone, so whoever finds it again finds the same id. A replacement is another version: its cells are others.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from trace_ray.contracts import BlockRange, VersionId


@dataclass(frozen=True, slots=True)
class Span:
    """A visible version and its blocks."""

    version: VersionId
    blocks: BlockRange


@dataclass(frozen=True, slots=True)
class Cell:
    """Blocks that one version of each dataset covers; `inputs` is the digest of the ids of these versions."""

    blocks: BlockRange
    inputs: str


def cells(datasets: Sequence[Sequence[Span]], published: Collection[VersionId] | None = None) -> list[Cell]:
    """Return the cells in order of their blocks.

    Args:
        datasets: For each dataset of a rule its visible versions, sorted; none where nothing is published.
        published: Only cells with one of these versions; None: all of them.
    """
    found: list[Cell] = []
    places = [0] * len(datasets)
    while all(place < len(spans) for place, spans in zip(places, datasets, strict=True)):
        members = [spans[place] for place, spans in zip(places, datasets, strict=True)]
        start, end = max(one.blocks.start for one in members), min(one.blocks.end for one in members)
        if start < end and (published is None or any(one.version in published for one in members)):
            found.append(Cell(BlockRange(start, end), inputs_of(one.version for one in members)))
        for number, one in enumerate(members):
            places[number] += one.blocks.end == end
    return found


def inputs_of(versions: Iterable[VersionId]) -> str:
    """Return the digest of the ids of versions, in whatever order they come."""
    ids = sorted(one.bytes for one in versions)  # the order of a rule's datasets makes no difference
    return hashlib.sha256(b"".join(ids)).hexdigest()
