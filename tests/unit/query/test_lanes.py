"""Which question makes way for which: decided from times alone."""

from dataclasses import dataclass

import pytest

from query import lanes
from query.lanes import CPU_S, EXPECTED, PLACE_S

NOW = 100.0


@dataclass(frozen=True)
class Holder:
    """A question that has held its place for `held` seconds."""

    held: float
    cpu_s: float = 0.0
    long: bool = False
    expected: bool = False
    displaced: bool = False

    @property
    def leased_at(self) -> float:
        return NOW - self.held


@pytest.mark.parametrize(
    ("one", "long"),
    [
        (Holder(0.0), False),
        (Holder(PLACE_S - 0.01), False),
        (Holder(PLACE_S), True),
        (Holder(CPU_S, cpu_s=CPU_S), True),
        (Holder(CPU_S, cpu_s=CPU_S / 2), False),
        (Holder(-20.0, cpu_s=CPU_S), False),  # its process is starting
        (Holder(0.0, long=True), True),
        (Holder(PLACE_S * EXPECTED, expected=True), True),
        (Holder(PLACE_S * EXPECTED - 0.01, expected=True), False),
        (Holder(CPU_S * EXPECTED, cpu_s=CPU_S * EXPECTED, expected=True), True),
        (Holder(CPU_S * EXPECTED, cpu_s=CPU_S * EXPECTED / 2, expected=True), False),
    ],
)
def test_question_is_long_by_its_cpu_or_by_its_place(one: Holder, long: bool) -> None:
    assert lanes.is_long(one, NOW) is long


def test_what_was_expected_of_a_question_does_not_make_it_long_for_all() -> None:
    one = Holder(PLACE_S - 0.01, expected=True)
    assert (lanes.is_long(one, NOW), lanes.is_long_for_all(one, NOW)) == (True, False)
    assert lanes.is_long_for_all(Holder(PLACE_S, expected=True), NOW)


def test_short_question_may_run_wherever_there_is_a_place() -> None:
    running = [Holder(9.0)] * 3
    assert lanes.has_room(running, size=4, kept=0, long=False, now=NOW)
    assert not lanes.has_room([*running, Holder(0.0)], size=4, kept=0, long=False, now=NOW)


def test_long_question_waits_until_few_of_its_kind_run() -> None:
    assert lanes.has_room([Holder(9.0), Holder(0.1)], size=4, kept=0, long=True, now=NOW)
    assert not lanes.has_room([Holder(9.0), Holder(9.0)], size=4, kept=0, long=True, now=NOW)
    assert not lanes.has_room([Holder(0.0, long=True), Holder(9.0)], size=4, kept=0, long=True, now=NOW)


def test_beside_the_long_ones_and_the_kept_places_one_is_left_for_all() -> None:
    assert [lanes.most_kept(size) for size in (1, 2, 3, 4, 5, 8)] == [0, 0, 1, 1, 2, 2]


def test_places_that_are_kept_for_others_stay_free() -> None:
    assert not lanes.has_room([Holder(0.1)] * 3, size=4, kept=1, long=False, now=NOW)
    assert lanes.has_room([Holder(0.1)] * 2, size=4, kept=1, long=False, now=NOW)
    running = [Holder(3.0), Holder(4.0), Holder(1.0)]
    assert lanes.victims(running, waiting=1, size=4, kept=0, now=NOW) == []
    assert lanes.victims(running, waiting=1, size=4, kept=1, now=NOW) == [Holder(1.0)]


def test_nobody_makes_way_while_nobody_waits() -> None:
    assert lanes.victims([Holder(9.0)] * 4, waiting=0, size=4, kept=0, now=NOW) == []


def test_the_long_ones_that_lost_the_least_make_way_down_to_half_of_the_places() -> None:
    running = [Holder(3.0), Holder(9.0), Holder(1.0), Holder(2.0)]
    assert lanes.victims(running, waiting=1, size=4, kept=0, now=NOW) == [Holder(1.0)]
    assert lanes.victims(running, waiting=7, size=4, kept=0, now=NOW) == [Holder(1.0), Holder(2.0)]


def test_short_ones_and_half_of_the_places_are_left_alone() -> None:
    assert lanes.victims([Holder(0.1)] * 2 + [Holder(9.0)] * 2, waiting=5, size=4, kept=0, now=NOW) == []
    assert lanes.victims([Holder(9.0)], waiting=5, size=1, kept=0, now=NOW) == []


def test_question_makes_way_only_once() -> None:
    again = Holder(0.5, long=True)
    running = [Holder(3.0), again, Holder(4.0), Holder(5.0)]
    assert lanes.victims(running, waiting=9, size=4, kept=0, now=NOW) == [Holder(3.0), Holder(4.0)]


def test_free_places_and_those_that_become_free_are_counted() -> None:
    leaving = Holder(1.0, displaced=True)
    running = [leaving, Holder(2.0), Holder(3.0), Holder(4.0)]
    assert lanes.victims(running, waiting=1, size=4, kept=0, now=NOW) == []
    assert lanes.victims(running, waiting=2, size=4, kept=0, now=NOW) == [Holder(2.0)]
    assert lanes.victims(running, waiting=2, size=6, kept=0, now=NOW) == []


def test_next_look_is_when_a_question_may_have_become_long() -> None:
    assert lanes.next_look([], NOW) is None
    assert lanes.next_look([Holder(9.0), Holder(0.0, long=True)], NOW) is None
    assert lanes.next_look([Holder(0.0)], NOW) == pytest.approx(CPU_S / 2)
    assert lanes.next_look([Holder(PLACE_S - 0.01), Holder(0.0)], NOW) == pytest.approx(0.01)
    assert lanes.next_look([Holder(0.0, expected=True), Holder(0.0)], NOW) == pytest.approx(CPU_S * EXPECTED / 2)
    assert lanes.next_look([Holder(-20.0)], NOW) == pytest.approx(20.0 + CPU_S / 2)
