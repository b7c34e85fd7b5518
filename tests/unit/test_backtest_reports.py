"""What two versions of a bundle make of the same blocks."""

from dataclasses import replace

from tests.bundles import NOW, make
from trace_ray.alerts import OutcomeKind
from trace_ray.backtest_reports import Ended, Seen, Tried, difference, distinct
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.contracts import DEFAULT_ORG, BlockRange

FIRST, SECOND = BlockRange(0, 10), BlockRange(10, 20)


def seen(key: str, block: int = 0, content: bytes = b"") -> Seen:
    return Seen(key, block, content)


def ended(blocks: BlockRange, *events: Seen) -> Ended:
    return Ended(blocks, OutcomeKind.OK, "the handler returned", "", 0.1, events)


def test_events_are_compared_by_key_and_then_by_content() -> None:
    here = [ended(FIRST, seen("a"), seen("b", 1, b"1")), ended(SECOND, seen("c", 11))]
    there = [ended(FIRST, seen("b", 1, b"2"), seen("a")), ended(SECOND, seen("d", 12))]
    found = difference(here, there)
    assert found.only_here == (seen("c", 11),)
    assert found.only_there == (seen("d", 12),)
    assert found.changed == ((seen("b", 1, b"1"), seen("b", 1, b"2")),)


def test_blocks_where_one_of_them_failed_are_left_out() -> None:
    failed = replace(ended(SECOND), outcome=OutcomeKind.TIMEOUT)
    here = [ended(FIRST, seen("a")), ended(SECOND, seen("c"))]
    assert difference(here, [ended(FIRST, seen("a")), failed]) == difference([], [])
    assert difference([ended(FIRST, seen("a")), failed], here) == difference([], [])
    assert difference(here, [ended(FIRST, seen("a"))]).only_here == ()


def test_of_one_key_the_first_content_counts() -> None:
    here = [ended(FIRST, seen("a", 1, b"1")), ended(SECOND, seen("a", 11, b"2"))]
    assert distinct(here) == {"a": seen("a", 1, b"1")}


def test_failures_of_a_version_are_those_that_are_not_ok() -> None:
    made = make()
    bundle = PushedBundle(
        DEFAULT_ORG, made.digest, "alarm", "1.0", Language.PYTHON, "handler.handler", len(made.zip), made.envelope,
        "key", NOW, None,
    )  # fmt: skip
    failed = replace(ended(SECOND), outcome=OutcomeKind.USER_ERROR)
    assert Tried(bundle, (ended(FIRST), failed)).failed == [failed]
