"""Missing blocks and their reasons, as values."""

from hypothesis import given
from hypothesis import strategies as st

from state import gaps
from trace_ray.contracts import BlockRange, by_range
from trace_ray.reports import Missing, MissingReason

QUEUED, DEAD, REPLACED, NEVER = (
    MissingReason.QUEUED,
    MissingReason.DEAD,
    MissingReason.REPLACED,
    MissingReason.NEVER_PLANNED,
)


def ranges(*pairs: tuple[int, int]) -> list[BlockRange]:
    return [BlockRange(*pair) for pair in pairs]


disjoint = st.lists(st.integers(0, 60), unique=True, max_size=12).map(
    lambda ends: [BlockRange(a, b) for a, b in zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False)]
)


def test_every_missing_block_is_explained_once() -> None:
    known = [Missing(BlockRange(0, 10), DEAD, "short"), Missing(BlockRange(20, 30), QUEUED, None)]
    withdrawn = [Missing(BlockRange(20, 30), REPLACED, "lost"), Missing(BlockRange(30, 40), REPLACED, "lost")]
    found = gaps.missing(ranges((0, 10), (15, 45)), known, withdrawn)
    assert [(one.blocks.start, one.blocks.end, one.reason, one.detail) for one in found] == [
        (0, 10, DEAD, "short"),
        (15, 20, NEVER, None),
        (20, 30, QUEUED, None),  # the repair of a withdrawn version is under way
        (30, 40, REPLACED, "lost"),
        (40, 45, NEVER, None),
    ]


@given(pieces=disjoint, covers=disjoint)
def test_a_cut_keeps_every_block_and_splits_at_the_covers(pieces: list[BlockRange], covers: list[BlockRange]) -> None:
    inside, outside = gaps.cut(pieces, [(cover, cover) for cover in covers])
    covered = {block for cover in covers for block in range(cover.start, cover.end)}
    wanted = [block for piece in pieces for block in range(piece.start, piece.end)]
    assert [block for blocks, _ in inside for block in range(blocks.start, blocks.end)] == [
        block for block in wanted if block in covered
    ]
    assert [block for blocks in outside for block in range(blocks.start, blocks.end)] == [
        block for block in wanted if block not in covered
    ]
    assert all(blocks.start in cover and blocks.end - 1 in cover for blocks, cover in inside)


@given(span=st.tuples(st.integers(0, 20), st.integers(21, 60)), taken=disjoint)
def test_what_is_left_of_a_span_and_what_was_taken_make_it_whole(
    span: tuple[int, int], taken: list[BlockRange]
) -> None:
    left = gaps.without(BlockRange(*span), taken)
    assert not any(one.overlaps(other) for one in left for other in taken)
    assert by_range([*left, *taken])[0].start <= span[0]
    whole = {block for one in [*left, *taken] for block in range(one.start, one.end)}
    assert set(range(*span)) <= whole


@given(start=st.integers(0, 100), length=st.integers(1, 100), size=st.integers(1, 40))
def test_chunks_are_consecutive_and_no_larger_than_asked(start: int, length: int, size: int) -> None:
    parts = gaps.chunks(BlockRange(start, start + length), size)
    assert by_range(parts) == (BlockRange(start, start + length),)
    assert all(len(part) <= size for part in parts)
    assert sum(map(len, parts)) == length
