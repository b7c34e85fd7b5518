"""A short run of chaos on the ledger; `make chaos` makes longer ones."""

import pytest

from tests.chaos import ledger_run


@pytest.mark.slow
def test_a_ledger_survives_chaos() -> None:
    report = ledger_run.run(15.0, seed=1)
    assert report.problems == [], "\n".join([ledger_run.table(report), *report.problems])
    assert (report.figures["lost"], report.figures["duplicated"]) == (0, 0)


def test_a_run_that_was_too_kind_proves_nothing() -> None:
    enough = {name: round(least * 60) for name, least in ledger_run.LEAST.items()}
    assert ledger_run.shortages(enough, 60.0) == []
    (missed,) = ledger_run.shortages({**enough, "expired": 0}, 60.0)
    assert missed.startswith("expired: 0 in 60 s")
