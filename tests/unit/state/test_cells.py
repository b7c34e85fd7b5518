"""Which blocks evaluations have: every covered block in one cell, whatever the order of publications."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.cells import Cell, Span, cells
from trace_ray.contracts import BlockRange, VersionId

END = 12


def spans(dataset: int, *cuts: int, gaps: Sequence[int] = ()) -> list[Span]:
    """Return versions between neighbouring cuts, without those whose position is a gap."""
    ranges = [BlockRange(start, end) for start, end in pairwise(cuts)]
    return [
        Span(VersionId(UUID(int=dataset * 1000 + place)), blocks)
        for place, blocks in enumerate(ranges)
        if place not in gaps
    ]


def blocks_of(found: Sequence[Cell]) -> list[tuple[int, int]]:
    return [(one.blocks.start, one.blocks.end) for one in found]


def test_a_cell_is_what_one_version_of_each_dataset_covers() -> None:
    found = cells([spans(1, 0, 4, 8), spans(2, 0, 2, 6, 10)])
    assert blocks_of(found) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert len({one.inputs for one in found}) == 4


def test_versions_of_one_dataset_are_its_cells() -> None:
    assert blocks_of(cells([spans(1, 0, 4, 8)])) == [(0, 4), (4, 8)]


def test_without_coverage_of_one_dataset_there_is_no_cell() -> None:
    assert cells([spans(1, 0, 4), []]) == []
    assert cells([spans(1, 0, 4), spans(2, 4, 8)]) == []


def test_only_cells_of_published_versions_are_returned() -> None:
    one, two = spans(1, 0, 4, 8), spans(2, 0, 2, 6, 10)
    assert blocks_of(cells([one, two], {two[1].version})) == [(2, 4), (4, 6)]
    assert cells([one, two], set()) == []


def test_the_order_of_the_datasets_makes_no_difference() -> None:
    one, two = spans(1, 0, 4, 8), spans(2, 0, 2, 6, 10)
    assert cells([one, two]) == cells([two, one])


def test_other_versions_of_the_same_blocks_are_other_inputs() -> None:
    (before,) = cells([spans(1, 0, 4), spans(2, 0, 4)])
    (after,) = cells([spans(1, 0, 4), spans(3, 0, 4)])
    assert before.blocks == after.blocks
    assert before.inputs != after.inputs


@st.composite
def coverages(draw: st.DrawFn) -> list[list[Span]]:
    found: list[list[Span]] = []
    for dataset in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.sets(st.integers(0, END), min_size=2)))
        gaps = draw(st.sets(st.integers(0, len(cuts) - 2), max_size=2))
        found.append(spans(dataset + 1, *cuts, gaps=sorted(gaps)))
    return found


@given(coverages())
def test_cells_are_exactly_the_common_blocks_each_once(datasets: list[list[Span]]) -> None:
    common = [
        block for block in range(END) if all(any(block in one.blocks for one in versions) for versions in datasets)
    ]
    assert [block for one in cells(datasets) for block in range(one.blocks.start, one.blocks.end)] == common


@given(coverages(), st.randoms(use_true_random=False))
def test_every_order_and_batching_of_publications_finds_each_cell(datasets: list[list[Span]], chance: Random) -> None:
    """What is found step by step, also when events are handled late and together, is what is found at the end."""
    left = [(place, span) for place, versions in enumerate(datasets) for span in versions]
    chance.shuffle(left)
    seen: list[list[Span]] = [[] for _ in datasets]
    found: set[Cell] = set()
    late: list[VersionId] = []
    while left or late:
        for _ in range(min(len(left), chance.randint(1, 3))):
            place, span = left.pop()
            seen[place] = sorted([*seen[place], span], key=lambda one: one.blocks)
            late.append(span.version)
        size = chance.randint(0, 3) if left else len(late)
        handled, late = late[:size], late[size:]
        found |= set(cells(seen, handled))
    assert found == set(cells(datasets))


@pytest.mark.parametrize("published", [None, {VersionId(UUID(int=1))}])
def test_no_dataset_at_all_is_an_error_of_the_caller(published: set[VersionId] | None) -> None:
    with pytest.raises(ValueError):
        cells([], published)
