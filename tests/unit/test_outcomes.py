"""What the ledger counts for each end of an invocation, as docs/reference/alerts.md says."""

from uuid import UUID

import pytest

from trace_ray import outcomes
from trace_ray.alerts import OutcomeKind
from trace_ray.contracts import AttemptKey, Failure, LeaseToken, TaskId

KEY = AttemptKey(TaskId(UUID(int=1)), 1, LeaseToken(UUID(int=2)))
FATAL = {"bundle_rejected", "init_error", "user_error", "bad_output", "output_limit", "query_denied"}
OF_THE_BUNDLE = {
    "timeout",
    "init_timeout",
    "cpu_limit",
    "memory_limit",
    "pids_limit",
    "crash",
    "exit",
    "protocol_error",
}
OURS = {"sandbox_unavailable", "query_unavailable", "host_oom", "bundle_fetch", "lost_lease"}


def test_every_outcome_is_sorted() -> None:
    assert {kind.value for kind in OutcomeKind} == FATAL | OF_THE_BUNDLE | OURS | {"ok"}


@pytest.mark.parametrize("kind", OutcomeKind)
def test_an_outcome_is_counted_by_whose_fault_it_is(kind: OutcomeKind) -> None:
    found = outcomes.failure(KEY, kind, "30 s are over")
    if kind is OutcomeKind.OK:
        assert found is None
        return
    message = f"{kind.value}: 30 s are over"
    expected = Failure(KEY, kind.value, message, retryable=kind.value not in FATAL, infra=kind.value in OURS)
    assert found == expected


def test_without_a_detail_the_outcome_speaks_for_itself() -> None:
    found = outcomes.failure(KEY, OutcomeKind.CRASH, "")
    assert found is not None
    assert found.message == "crash"
