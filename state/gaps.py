"""Which blocks are missing, and why. Pure: sorted block ranges in, sorted pieces out."""

from collections.abc import Sequence
from typing import TypeVar

from trace_ray.contracts import BlockRange
from trace_ray.reports import Missing, MissingReason

T = TypeVar("T")


def missing(gaps: Sequence[BlockRange], known: Sequence[Missing], withdrawn: Sequence[Missing]) -> tuple[Missing, ...]:
    """Explain every block of `gaps` once, in order.

    Args:
        gaps: Blocks that should be published and are not.
        known: Planned ranges that are queued, running or dead; they do not overlap.
        withdrawn: Versions that were taken out of sight; they explain what no planned range does.
    """
    explained, rest = cut(gaps, [(one.blocks, one) for one in known])
    replaced, rest = cut(rest, [(one.blocks, one) for one in withdrawn])
    found = [Missing(blocks, one.reason, one.detail) for blocks, one in [*explained, *replaced]]
    found += [Missing(blocks, MissingReason.NEVER_PLANNED, None) for blocks in rest]
    return tuple(sorted(found, key=lambda one: one.blocks))


def cut(
    pieces: Sequence[BlockRange], covers: Sequence[tuple[BlockRange, T]]
) -> tuple[list[tuple[BlockRange, T]], list[BlockRange]]:
    """Split pieces into the parts under a cover, each with it, and the rest. Both are sorted and disjoint."""
    inside: list[tuple[BlockRange, T]] = []
    outside: list[BlockRange] = []
    place = 0
    for piece in pieces:
        reached = piece.start
        while place < len(covers) and covers[place][0].end <= piece.start:
            place += 1
        at = place
        while at < len(covers) and covers[at][0].start < piece.end:
            blocks, cover = covers[at]
            start, end = max(reached, blocks.start), min(piece.end, blocks.end)
            if start > reached:
                outside.append(BlockRange(reached, start))
            inside.append((BlockRange(start, end), cover))
            reached = end
            at += 1
        if reached < piece.end:
            outside.append(BlockRange(reached, piece.end))
    return inside, outside


def without(span: BlockRange, taken: Sequence[BlockRange]) -> list[BlockRange]:
    """Return the blocks of a span that no range has taken; `taken` is sorted and disjoint."""
    return cut([span], [(blocks, None) for blocks in taken])[1]


def chunks(blocks: BlockRange, size: int) -> list[BlockRange]:
    """Cut a range into consecutive ones of at most `size` blocks."""
    return [BlockRange(start, min(start + size, blocks.end)) for start in range(blocks.start, blocks.end, size)]
