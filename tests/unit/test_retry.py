"""Back-off, and what of an error may travel into the ledger."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_ray import retry
from trace_ray.contracts import AttemptKey, LeaseToken, TaskId
from trace_ray.errors import DiskFull, PublicationTooLarge, SourceLied, SourceUnavailable, StoreUnavailable
from trace_ray.retry import RetryPolicy

KEY = AttemptKey(TaskId(uuid4()), 1, LeaseToken(uuid4()))
POLICY = RetryPolicy(base_s=1.0, cap_s=30.0, max_attempts=3, max_infra_failures=20)


@given(failures=st.integers(1, 10_000), jitter=st.floats(*retry.JITTER))
def test_the_delay_doubles_up_to_its_cap(failures: int, jitter: float) -> None:
    delay = retry.delay_s(failures, POLICY, jitter=jitter)
    assert delay == min(30.0, 2.0 ** min(failures - 1, 30)) * jitter


def test_only_a_provider_that_cannot_be_reached_is_told_as_such() -> None:
    errors = (SourceUnavailable("no answer"), SourceLied("short"), PublicationTooLarge("large"), ValueError("other"))
    assert [retry.failure(KEY, error, provider=None).unreachable for error in errors] == [True, False, False, False]


@pytest.mark.parametrize(("error", "retryable"), [(SourceLied("short"), True), (PublicationTooLarge("large"), False)])
def test_our_own_errors_keep_their_words_and_say_whether_to_try_again(error: Exception, retryable: bool) -> None:
    failed = retry.failure(KEY, error, provider="standard/0")
    assert (failed.kind, failed.message, failed.retryable) == (type(error).__name__, str(error), retryable)
    assert failed.provider == "standard/0"


def test_a_foreign_error_is_named_and_its_text_stays_behind() -> None:
    failed = retry.failure(KEY, ValueError("https://node.example/secret"), provider=None)
    assert failed.retryable
    assert "secret" not in failed.message
    assert "ValueError" in failed.message


def test_what_our_own_side_failed_at_is_told_apart() -> None:
    errors = (StoreUnavailable("503"), DiskFull("full"), SourceUnavailable("no answer"), SourceLied("short"))
    assert [retry.failure(KEY, error, provider=None).infra for error in errors] == [True, True, False, False]
