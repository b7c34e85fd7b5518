"""Planning, retrying and naming: decisions from values alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_ray import plan
from trace_ray.contracts import BlockRange, FixedTarget, FollowHead


@given(
    start=st.integers(0, 1_000), length=st.integers(0, 500), chunk=st.integers(1, 50), open_ranges=st.integers(0, 8),
    room=st.integers(1, 8),
)  # fmt: skip
def test_ranges_follow_the_cursor_without_a_gap_and_respect_max_inflight(
    start: int, length: int, chunk: int, open_ranges: int, room: int
) -> None:
    end = start + length
    ranges = plan.next_ranges(start, end=end, chunk_size=chunk, open_ranges=open_ranges, max_inflight=room)
    assert len(ranges) <= max(0, room - open_ranges)
    cursor = start
    for blocks in ranges:
        assert blocks.start == cursor
        assert 0 < len(blocks) <= chunk
        cursor = blocks.end
    assert cursor <= end
    if len(ranges) < room - open_ranges:
        assert cursor == end


def test_a_fixed_target_is_never_planned_beyond_the_head() -> None:
    mode = FixedTarget(10, 100)
    assert plan.target_end(mode, 49) == 50
    assert plan.target_end(mode, 200) == 100
    assert plan.target_end(mode, 3) == 10


def test_a_following_job_stays_its_lag_behind_the_head() -> None:
    mode = FollowHead(10, tail_lag=64, head_poll_interval_s=12, max_head_age_s=300)
    assert plan.target_end(mode, 1_000) == 937
    assert plan.target_end(mode, 20) == 10


@pytest.mark.parametrize("mode", [FixedTarget(0, 10), FollowHead(0, 1, 12, 300)])
def test_nothing_is_planned_while_the_head_is_unknown(mode: FixedTarget | FollowHead) -> None:
    assert plan.target_end(mode, None) is None


def test_a_block_range_is_end_exclusive_and_never_empty() -> None:
    blocks = BlockRange(5, 8)
    assert (len(blocks), 5 in blocks, 8 in blocks, str(blocks)) == (3, True, False, "[5, 8)")
    assert blocks.overlaps(BlockRange(7, 9))
    assert not blocks.overlaps(BlockRange(8, 9))
    for start, end in ((5, 5), (6, 5), (-1, 5)):
        with pytest.raises(ValueError, match="is not a block range"):
            BlockRange(start, end)
