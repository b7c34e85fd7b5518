"""Attempt and error -> what the ledger should do. Pure: the ledger counts attempts, this module sorts errors."""

from dataclasses import dataclass

from trace_ray.contracts import AttemptKey, Failure
from trace_ray.errors import InfraError, SourceUnavailable, TraceError, TransientError

JITTER = (0.5, 1.5)  # factor on each delay, so that failed ranges do not come back together


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Budgets and back-off of one ledger. `max_attempts` counts bad ranges, `max_infra_failures` lost workers."""

    base_s: float
    cap_s: float
    max_attempts: int
    max_infra_failures: int


def delay_s(failures: int, policy: RetryPolicy, *, jitter: float) -> float:
    """Return the wait after `failures` (from 1) failures in a row: doubling, capped, times `jitter`."""
    return min(policy.cap_s, policy.base_s * 2 ** min(failures - 1, 30)) * jitter


def failure(attempt: AttemptKey, error: Exception, *, provider: str | None) -> Failure:
    """Turn an error into a failed outcome.

    Only our own messages travel: another library's text may quote a URL, so it stays in the worker's log.
    """
    kind = type(error).__name__
    if isinstance(error, TraceError):
        retryable, unreachable = isinstance(error, TransientError), isinstance(error, SourceUnavailable)
        return Failure(attempt, kind, str(error), retryable, provider, unreachable, isinstance(error, InfraError))
    return Failure(attempt, kind, f"unexpected {kind}: see the worker's log", True, provider)
