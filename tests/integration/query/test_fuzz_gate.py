"""The short form of `python -m tests.fuzz`: texts like SQL against the gate, each held to a second opinion."""

from pathlib import Path

import pytest

from tests.fuzz import batch
from tests.fuzz.naive import objections
from tests.query_corpus.corpus import RELATIONS, benign, hostile


def test_gate_refuses_or_agrees_with_the_second_opinion(tmp_path: Path) -> None:
    """Nothing but SqlRejected is raised, and nothing unreviewed or not granted is accepted."""
    tally = batch.run(7, 1_500, tmp_path / "text")
    assert tally.verdicts["accepted"] > 50
    assert {"parse", "relation", "function", "table_function", "not_select"} <= set(tally.verdicts)


@pytest.mark.parametrize("verdict", ["relation", "function", "table_function", "not_select", "parameters"])
def test_the_second_opinion_objects_to_the_hostile_corpus(verdict: str) -> None:
    """Else it could not find a hole; scopes it does not know."""
    statements = [statement for statement in hostile() if statement.verdict == verdict]
    missed = [statement.sql for statement in statements if not objections(statement.sql, RELATIONS)]
    assert len(missed) <= len(statements) // 10, missed


def test_the_second_opinion_agrees_to_the_benign_corpus() -> None:
    assert [sql for sql in benign() if objections(sql, RELATIONS)] == []
