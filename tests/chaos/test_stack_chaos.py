"""The short form of the chaos run on a whole stack; `make chaos` runs it for as long as you like."""

import pytest

from tests.chaos import stack_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SECONDS = 34.0
SEED = 22  # S3, both engines, and the first freezes are those of a worker and of the Dispatcher
PROMISED = (
    "worker killed",
    "Dispatcher killed",
    "worker stopped longer than a lease",
    "Dispatcher stopped longer than a lease",
    "backends ended",
    "Postgres crashed",
    "staging disk full",
)
RANGES = 200


def test_a_stack_that_is_hurt_everywhere_loses_nothing_and_doubles_nothing() -> None:
    report = stack_run.run(SECONDS, SEED, loud=True)
    print(stack_run.table(report))
    assert report.problems == []
    assert report.verdict.ranges >= RANGES
    assert [kind for kind in PROMISED if not report.faults.get(kind)] == []
    assert sum(kind.startswith("rpc ") for kind in report.faults) >= 6
    assert sum(kind.startswith("store ") for kind in report.faults) >= 2
    assert sum(report.ghosts_refused.values()) > 0
