"""The Dispatcher's side of evaluations: leases them out with all that a worker needs, and takes their ends in."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from actors.orders import Evaluated, EvaluationGroup
from state import bundles, capabilities, evaluations, rules
from state.db import Connection
from state.tasks import Settlement
from trace_ray import tokens
from trace_ray.alerts import EvaluationLease, OutcomeKind
from trace_ray.config import BUFFER_MAX_DELIVERIES, CAPABILITY_EXTRA_S
from trace_ray.contracts import AttemptKey, Epoch, Failure, WorkerId
from trace_ray.errors import BundleRejected, FencedError, NotFound, RefusedInput
from trace_ray.outcomes import failure
from trace_ray.retry import RetryPolicy
from trace_ray.token_keys import KeyRing

logger = logging.getLogger(__name__)


class Evaluations:
    """Leases and ends of evaluations. The caller owns the transaction and has fenced it."""

    def __init__(self, ring: Callable[[], KeyRing], *, lease_s: float, policy: RetryPolicy) -> None:
        """Args: ring: the keys of capability tokens, as they are now."""
        self._ring = ring
        self._lease_s = lease_s
        self._policy = policy

    def wanted(self, conn: Connection) -> bool:
        """Say whether any rule is enabled."""
        return rules.any_enabled(conn)

    def lease(self, conn: Connection, epoch: Epoch, slots: Sequence[WorkerId]) -> list[EvaluationGroup]:
        """Lease due evaluations, one per slot. One whose bundle or data may not be used any more fails at once."""
        groups: list[EvaluationGroup] = []
        failures: list[Failure] = []
        for one in evaluations.claim_evaluations(conn, epoch, slots, ttl_s=self._lease_s):
            try:
                groups.append(_equip(conn, one, self._ring()))
            except BundleRejected as error:
                failures.append(_failure(one, OutcomeKind.BUNDLE_REJECTED, f"{error.code}: {error}"))
            except (NotFound, RefusedInput) as error:
                failures.append(_failure(one, OutcomeKind.QUERY_DENIED, str(error)))
            except FencedError as error:
                failures.append(_failure(one, OutcomeKind.LOST_LEASE, str(error)))
        if failures:
            evaluations.fail_evaluations(conn, epoch, failures, policy=self._policy)
            logger.warning("evaluations refused", extra={"count": len(failures), "first": failures[0].message})
        return groups

    def withdraw(self, conn: Connection, epoch: Epoch, running: Sequence[AttemptKey]) -> list[AttemptKey]:
        """Return which of the attempts that run are to be stopped, as `state.evaluations.withdraw` says."""
        return evaluations.withdraw(conn, epoch, running)

    def settle(self, conn: Connection, epoch: Epoch, ended: Sequence[Evaluated]) -> list[Settlement]:
        """Commit the ends of attempts; one settlement each, in order."""
        failures = [one.failure for one in ended if one.failure is not None]
        failed = iter(evaluations.fail_evaluations(conn, epoch, failures, policy=self._policy) if failures else ())
        return [next(failed) if one.failure is not None else self._complete(conn, epoch, one) for one in ended]

    def _complete(self, conn: Connection, epoch: Epoch, one: Evaluated) -> Settlement:
        return evaluations.complete_evaluation(
            conn, epoch, one.attempt, one.batch, max_deliveries=BUFFER_MAX_DELIVERIES, seconds=one.seconds
        )


def _equip(conn: Connection, one: EvaluationLease, ring: KeyRing) -> EvaluationGroup:
    rule, evaluation = one.rule, one.evaluation
    bundle = bundles.usable(conn, rule.org_id, rule.bundle)
    grant = capabilities.grant_for_task(conn, evaluation.task_id, one.attempt, rule.datasets, evaluation.as_of)
    token = tokens.sign_capability(
        ring,
        grant=grant,
        task_id=evaluation.task_id,
        attempt=one.attempt,
        now=datetime.now(UTC),
        lifetime_s=rule.timeout_s + CAPABILITY_EXTRA_S,
    )
    seen = tuple(replace(dataset, files=()) for dataset in grant.datasets)
    return EvaluationGroup(one, bundle, seen, token)


def _failure(one: EvaluationLease, outcome: OutcomeKind, detail: str) -> Failure:
    found = failure(one.key, outcome, detail)
    if found is None:
        raise ValueError("a success is no failure")
    return found
