"""The verdicts that the service holds: by organisation, text and relations, the newest ones, without the text."""

from uuid import UUID

import pyarrow as pa
import pytest

from query.cut import fitting
from query.verdict import Verdict
from query.verdicts import Asked, Judged, Verdicts
from trace_ray.contracts import DEFAULT_ORG, OrgId

VERDICT = Verdict(frozenset({"a"}), frozenset(), {"a": ()})
ASKED = Asked(DEFAULT_ORG, "select 1", ("a", "b"))


def test_repeated_statement_finds_its_verdict() -> None:
    verdicts = Verdicts()
    assert verdicts.get(ASKED) is None
    assert verdicts.put(ASKED, VERDICT) == Judged("select 1", VERDICT)
    assert verdicts.get(Asked(DEFAULT_ORG, "select 1", ("b", "a"))) == Judged("select 1", VERDICT)


@pytest.mark.parametrize(
    "other",
    [
        Asked(OrgId(UUID(int=9)), "select 1", ("a", "b")),
        Asked(DEFAULT_ORG, "select 2", ("a", "b")),
        Asked(DEFAULT_ORG, "select 1", ("a",)),
        Asked(DEFAULT_ORG, "select 1", ("ab",)),
        Asked(DEFAULT_ORG, "select 1a", ("b",)),
        Asked(DEFAULT_ORG, "select \ud800", ()),
    ],
)
def test_any_difference_needs_a_verdict_of_its_own(other: Asked) -> None:
    verdicts = Verdicts()
    verdicts.put(ASKED, VERDICT)
    assert verdicts.get(other) is None


def test_verdict_used_longest_ago_is_dropped() -> None:
    verdicts = Verdicts(limit=2)
    first, second, third = (Asked(DEFAULT_ORG, f"select {number}", ()) for number in range(3))
    verdicts.put(first, VERDICT)
    verdicts.put(second, VERDICT)
    assert verdicts.get(first) is not None
    verdicts.put(third, VERDICT)
    assert (verdicts.get(second), verdicts.get(first) is None) == (None, False)


def test_no_text_is_shown() -> None:
    assert "select" not in repr(ASKED) + repr(Judged("select 1", VERDICT))


@pytest.mark.parametrize(("room", "rows"), [(0, 0), (7, 0), (8, 1), (79, 9), (80, 10), (81, 10)])
def test_as_many_rows_are_taken_as_fit(room: int, rows: int) -> None:
    assert fitting(pa.table({"n": pa.array(range(10), pa.int64())}), room) == rows
