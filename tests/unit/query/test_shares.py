"""Who has had how much of the places: decided from seconds and times alone."""

import pytest

from query.shares import ESTABLISHED, EXPECTED_S, HALF_LIFE_S, Asker, Shares
from trace_ray.contracts import DEFAULT_ORG

ANN, BOB = (DEFAULT_ORG, "ann"), (DEFAULT_ORG, "bob")


def test_what_was_held_counts_half_after_each_half_life() -> None:
    shares = Shares()
    shares.charge(ANN, 8.0, now=100.0, long=False, answered=True)
    assert shares.of(ANN, 100.0) == 8.0
    assert shares.of(ANN, 100.0 + HALF_LIFE_S) == pytest.approx(4.0)
    shares.charge(ANN, 1.0, now=100.0 + 2 * HALF_LIFE_S, long=False, answered=True)
    assert shares.of(ANN, 100.0 + 2 * HALF_LIFE_S) == pytest.approx(3.0)


def test_whoever_is_new_is_taken_for_what_the_others_are() -> None:
    shares = Shares()
    assert shares.of(ANN, 0.0) == 0.0
    shares.charge(ANN, 3.0, now=0.0, long=False, answered=True)
    assert shares.of(BOB, 0.0) == pytest.approx(3.0)
    shares.charge(BOB, 1.0, now=0.0, long=False, answered=True)
    assert shares.of(BOB, 0.0) == pytest.approx(1.0)
    assert shares.of((DEFAULT_ORG, "new"), HALF_LIFE_S) == pytest.approx(1.0)


def ask(shares: Shares, asker: Asker, times: int, now: float) -> None:
    for _ in range(times):
        shares.charge(asker, 0.5, now=now, long=False, answered=True)


def test_short_question_is_expected_of_who_has_asked_some_in_a_row() -> None:
    shares = Shares()
    assert not shares.has_short(0.0)
    ask(shares, ANN, ESTABLISHED - 1, 0.0)
    assert not shares.expects_short(ANN, 0.0)
    assert not shares.has_short(0.0)
    ask(shares, ANN, 1, 0.0)
    assert shares.expects_short(ANN, 0.0)
    assert shares.has_short(0.0)
    assert not shares.expects_short(BOB, 0.0), "nobody knows"


def test_question_without_an_answer_proves_nothing() -> None:
    shares = Shares()
    for _ in range(2 * ESTABLISHED):
        shares.charge(ANN, 0.01, now=0.0, long=False, answered=False)
    assert not shares.expects_short(ANN, 0.0)
    ask(shares, ANN, ESTABLISHED - 1, 0.0)
    shares.charge(ANN, 0.01, now=0.0, long=False, answered=False)
    assert not shares.expects_short(ANN, 0.0)
    ask(shares, ANN, 1, 0.0)
    assert shares.expects_short(ANN, 0.0), "a mistake between them is forgiven"


def test_whoever_asked_a_long_question_is_expected_to_ask_another() -> None:
    shares = Shares()
    ask(shares, ANN, ESTABLISHED, 0.0)
    shares.charge(ANN, 3.0, now=0.0, long=True, answered=True)
    assert shares.expects_long(ANN, 1.0)
    assert not shares.expects_short(ANN, 1.0)
    assert not shares.expects_long(BOB, 1.0)
    ask(shares, ANN, ESTABLISHED, EXPECTED_S / 2)
    assert not shares.expects_short(ANN, EXPECTED_S / 2)
    assert shares.expects_short(ANN, EXPECTED_S)
    at = EXPECTED_S + 1.0
    shares.charge(BOB, 1.0, now=at, long=True, answered=True)
    assert (shares.expects_long(BOB, at), shares.expects_short(ANN, at)) == (True, True)


def test_whoever_was_forgotten_begins_anew() -> None:
    shares = Shares()
    ask(shares, ANN, ESTABLISHED, 0.0)
    ask(shares, BOB, 1, 20 * HALF_LIFE_S)
    assert not shares.expects_short(ANN, 20 * HALF_LIFE_S)


def test_clock_that_does_not_move_counts_all() -> None:
    shares = Shares()
    shares.charge(ANN, 0.0, now=5.0, long=False, answered=True)
    shares.charge(BOB, 0.0, now=5.0, long=False, answered=True)
    assert len(shares) == 2


def test_whoever_has_held_nothing_for_long_is_forgotten() -> None:
    shares = Shares()
    for number in range(1000):
        shares.charge((DEFAULT_ORG, str(number)), 0.5, now=float(number), long=False, answered=True)
    assert len(shares) < 20 * HALF_LIFE_S
    assert shares.of((DEFAULT_ORG, "999"), 999.0) == 0.5
