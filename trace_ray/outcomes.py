"""How an invocation ended -> what the ledger should count. Pure."""

from typing import Final

from trace_ray.alerts import OutcomeKind
from trace_ray.contracts import AttemptKey, Failure

MAX_ATTEMPTS: Final = 2  # of an evaluation whose bundle runs into a limit or dies: the second time is no accident

FATAL: Final = frozenset(  # the same bundle on the same blocks ends so every time
    (
        OutcomeKind.BUNDLE_REJECTED,
        OutcomeKind.INIT_ERROR,
        OutcomeKind.USER_ERROR,
        OutcomeKind.BAD_OUTPUT,
        OutcomeKind.OUTPUT_LIMIT,
        OutcomeKind.QUERY_DENIED,
    )
)
OURS: Final = frozenset(  # the bundle is not to blame, so it spends none of its attempts
    (
        OutcomeKind.SANDBOX_UNAVAILABLE,
        OutcomeKind.QUERY_UNAVAILABLE,
        OutcomeKind.HOST_OOM,
        OutcomeKind.BUNDLE_FETCH,
        OutcomeKind.LOST_LEASE,
    )
)


def failure(attempt: AttemptKey, outcome: OutcomeKind, detail: str) -> Failure | None:
    """Return what the ledger counts against an attempt, or None when it succeeded.

    What is in neither list (time, cpu, memory, a crash) may be the machine's fault once: it is tried again.

    Args:
        detail: For people: which limit or error it was, without control characters and host paths.
    """
    if outcome is OutcomeKind.OK:
        return None
    message = f"{outcome.value}: {detail}" if detail else outcome.value
    return Failure(attempt, outcome.value, message, retryable=outcome not in FATAL, infra=outcome in OURS)
