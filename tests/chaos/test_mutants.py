"""Every rule of the ledger is missed when it is gone: schedules notice each mutant, and find nothing without one."""

from collections.abc import Iterator

import pytest

from tests.chaos import mutants
from tests.chaos.mutants import Edit, Mutant, TextMoved, edited
from trace_ray.lite.postgres import LocalPostgres


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    with mutants.server() as started:
        yield started


@pytest.mark.slow
def test_the_ledger_as_it_is_passes_every_schedule(server: LocalPostgres) -> None:
    assert mutants.by_schedules("control", (), (), server).by == ()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda one: one.name)
def test_a_missing_rule_is_noticed(mutant: Mutant, server: LocalPostgres) -> None:
    assert mutants.by_schedules(mutant.name, mutant.walls, mutant.schedules, server).killed


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    text = "-- name: one\nSELECT 1 FOR UPDATE;\n-- name: two\nSELECT 2;\n"
    edit = Edit("sql/some.sql", " FOR UPDATE", "", "one")
    assert edited(text, edit) == text.replace(" FOR UPDATE", "")
    with pytest.raises(TextMoved, match="stands 0 times, not 1"):
        edited(text, Edit("sql/some.sql", " FOR UPDATE", "", "two"))
    with pytest.raises(TextMoved, match="has no statement three"):
        edited(text, Edit("sql/some.sql", " FOR UPDATE", "", "three"))
