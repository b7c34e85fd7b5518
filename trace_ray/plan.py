"""Plans which block ranges to schedule next. Pure: no database, no clock. Ranges are end-exclusive."""

from typing import assert_never

from trace_ray.contracts import BlockRange, FixedTarget, FollowHead


def target_end(mode: FixedTarget | FollowHead, head: int | None) -> int | None:
    """Return the first block that must not be planned yet, or None while the head is unknown.

    A fixed target beyond the head waits: blocks that do not exist are never planned, so nothing is published short.
    """
    if head is None:
        return None
    match mode:
        case FixedTarget():
            return max(mode.from_block, min(mode.to_block, head + 1))
        case FollowHead():
            return max(mode.from_block, head + 1 - mode.tail_lag)
        case _:
            assert_never(mode)


def next_ranges(next_block: int, *, end: int, chunk_size: int, open_ranges: int, max_inflight: int) -> list[BlockRange]:
    """Return consecutive ranges from `next_block` on, the last one cut at `end`.

    Args:
        next_block: The cursor: first block not yet scheduled.
        end: First block that must not be scheduled.
        open_ranges: Ranges that are scheduled and neither done nor dead; they count against `max_inflight`.
    """
    room = max_inflight - open_ranges
    ranges: list[BlockRange] = []
    while len(ranges) < room and next_block < end:
        blocks = BlockRange(next_block, min(next_block + chunk_size, end))
        ranges.append(blocks)
        next_block = blocks.end
    return ranges
