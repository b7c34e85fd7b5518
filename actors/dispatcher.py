"""One tick of the Dispatcher: take results in, renew, reap, plan, lease out. No Ray, no loop, no clock of its own.

The ledger is the only memory. Whatever is kept here may be lost at any line; the next tick, or the next Dispatcher,
repairs. Every write presents the epoch: a Dispatcher that was paused while another took over gets `FencedError`.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from actors.evaluations import Evaluations
from actors.orders import Evaluated, EvaluationGroup, Result
from state import evaluations, jobs, outbox, retractions, tasks
from state.db import Connection, Database, pipelined
from trace_ray.config import BUFFER_MAX_DELIVERIES, OUTBOX_RETRIES
from trace_ray.contracts import (
    AttemptKey,
    Epoch,
    Failure,
    HeadRequest,
    LeaseGroup,
    Publication,
    VersionId,
    WorkerId,
)
from trace_ray.errors import DatabaseUnavailable, FencedError
from trace_ray.retry import RetryPolicy

logger = logging.getLogger(__name__)

HEADS_S = 0.25  # who asks a provider every few seconds need not look more often, and ticks may come by the millisecond
OUTBOX_BATCH = 500  # a tick must stay short; what is left drains in the next one


def _told_in_the_log(_conn: Connection, _events: Sequence[outbox.Event]) -> None:
    """Nothing else follows from these events so far; the line is written after the commit."""


def _published(conn: Connection, events: Sequence[outbox.Event]) -> None:
    """Alert rules look at what was published; what replaces blocks may take events back."""
    versions = [VersionId(UUID(event.payload["dataset_version"])) for event in events]
    with pipelined(conn):  # the first of them costs no wait of its own
        retractions.announce(conn, versions, max_deliveries=BUFFER_MAX_DELIVERIES)
        evaluations.plan_evaluations(conn, versions)


HANDLERS: Mapping[str, outbox.Handler] = {"dataset.published": _published, "task.dead": _told_in_the_log}


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the Dispatcher in seconds; defaults live in `trace_ray.config`."""

    lease_s: float
    leader_s: float
    policy: RetryPolicy


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a worker learned about a head: a block number, or a sentence that says why not."""

    rpc_pool: str
    chain_id: int
    head: int | None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Inbox:
    """What came in since the last tick. `alive`: attempts on workers that answer; `slots`: one id per free slot.

    `evaluators`: one id per free slot for evaluations; `evaluating`: those of `alive` that are attempts of evaluations.
    """

    outcomes: tuple[Result, ...] = ()
    heads: tuple[HeadAnswer, ...] = ()
    dead: tuple[WorkerId, ...] = ()
    alive: tuple[AttemptKey, ...] = ()
    slots: tuple[WorkerId, ...] = ()
    evaluators: tuple[WorkerId, ...] = ()
    evaluating: tuple[AttemptKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An outcome that the ledger did not take, and its reason."""

    attempt: AttemptKey
    reason: str


@dataclass(frozen=True, slots=True)
class Orders:
    """What follows from a tick. `settled` outcomes are committed or refused for good and can be forgotten.

    `evaluating`: some rule is enabled, so that evaluators are needed; None when that was not looked up. `withdrawn`:
    attempts of evaluations that run and hold no lease any more.
    """

    groups: tuple[LeaseGroup, ...]
    heads: tuple[HeadRequest, ...]
    settled: tuple[AttemptKey, ...]
    published: tuple[Publication, ...]
    failed: tuple[Failure, ...]
    refused: tuple[Refusal, ...]
    planned: int
    reaped: int
    evaluations: tuple[EvaluationGroup, ...] = ()
    evaluating: bool | None = None
    withdrawn: tuple[AttemptKey, ...] = ()


class Dispatcher:
    """The scheduler's core. One thread at a time."""

    def __init__(
        self,
        database: Database,
        *,
        holder: str,
        timing: Timing,
        build: str = "",
        evaluations: Evaluations | None = None,
    ) -> None:
        """Args: evaluations: None leases none; they are planned all the same."""
        self._database = database
        self._holder = holder
        self._timing = timing
        self._build = build
        self._evaluations = evaluations
        self._epoch = Epoch(0)
        self._renew_at = 0.0
        self._reap_at = 0.0
        self._heads_at = 0.0
        self._ticked_at: float | None = None
        self._was_late = False

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    # --- the term -------------------------------------------------------------------------------------------------

    def lead(self) -> bool:
        """Take over with a new epoch. False while another Dispatcher leads or after an ordered stop."""
        with self._database.transaction() as conn:
            epoch = tasks.take_over(conn, holder=self._holder, ttl_s=self._timing.leader_s, build=self._build)
        if epoch is None:
            return False
        self._epoch = epoch
        return True

    def resign(self) -> None:
        """Let the next Dispatcher lead at once."""
        with self._database.transaction() as conn:
            tasks.release(conn, self._epoch)

    def recover(
        self, held: Mapping[WorkerId, Sequence[AttemptKey]], silent: Collection[WorkerId]
    ) -> frozenset[AttemptKey]:
        """Adopt what living workers hold and free the other leases of older epochs, except those of silent workers."""
        with self._database.transaction() as conn:
            tasks.fence(conn, self._epoch, self._timing.leader_s)
            adopted = tasks.adopt(conn, self._epoch, held, ttl_s=self._timing.lease_s)
            tasks.free_older(conn, self._epoch, except_workers=tuple(silent), policy=self._timing.policy)
        return frozenset(adopted)

    # --- the tick -------------------------------------------------------------------------------------------------

    def tick(self, inbox: Inbox, *, now: float) -> Orders:
        """Commit what came in, then plan and lease. `now` is a monotonic instant; it paces the reaper and the renewals.

        Raises:
            FencedError: another Dispatcher leads; nothing was written.
            DatabaseUnavailable: nothing or everything was written; giving the same inbox again is safe.
        """
        beat_s = self._timing.lease_s / 4  # three renewals may be lost before a lease expires
        if self._ticked_at is not None and now - self._ticked_at > beat_s and not self._was_late:
            # this process was frozen, or the database away: workers get a beat to be heard before leases are taken
            # back, once and not for as long as every tick is slow
            self._renew_at, self._reap_at, self._was_late = now, now + beat_s, True
        self._ticked_at = now
        renew, reap = now >= self._renew_at, now >= self._reap_at
        try:
            with self._database.transaction() as conn:
                with pipelined(conn):
                    tasks.fence(conn, self._epoch, self._timing.leader_s)
                    cursors = jobs.lock_cursors(conn, self._epoch)
                    orders = self._settle(conn, inbox, reap=reap, renew=renew)
                    orders, claim, taken = self._schedule(conn, orders, cursors, inbox.slots, now)
                groups = tuple(claim.groups()) if claim else ()
                drained = outbox.handle(conn, self._epoch, taken, HANDLERS, policy=OUTBOX_RETRIES)
                orders = self._evaluate(conn, orders, inbox, now)
        except (FencedError, DatabaseUnavailable):
            raise
        except Exception:  # whatever is wrong with the schedule must not hold back results
            self.settle(inbox, reap=reap, renew=renew)
            raise
        self._renew_at = now + beat_s if renew else self._renew_at
        self._reap_at, self._was_late = (now + beat_s, False) if reap else (self._reap_at, self._was_late)
        self._heads_at = now + HEADS_S if now >= self._heads_at else self._heads_at
        _tell(drained)
        return replace(orders, groups=groups)

    def settle(self, inbox: Inbox, *, reap: bool = False, renew: bool = True) -> Orders:
        """Commit what came in and lease nothing: one transaction."""
        with self._database.transaction() as conn, pipelined(conn):
            tasks.fence(conn, self._epoch, self._timing.leader_s)
            return self._settle(conn, inbox, reap=reap, renew=renew)

    def _settle(self, conn: Connection, inbox: Inbox, *, reap: bool, renew: bool) -> Orders:
        publications = [outcome for outcome in inbox.outcomes if isinstance(outcome, Publication)]
        failures = [outcome for outcome in inbox.outcomes if isinstance(outcome, Failure)]
        evaluated = [outcome for outcome in inbox.outcomes if isinstance(outcome, Evaluated)]
        policy = self._timing.policy
        for answer in inbox.heads:
            if answer.head is not None:
                jobs.record_head(conn, self._epoch, answer.rpc_pool, answer.chain_id, answer.head)
            else:
                message = answer.message or "the provider gave no head"
                jobs.record_head_error(conn, self._epoch, answer.rpc_pool, answer.chain_id, message)
        completions = tasks.complete(conn, self._epoch, publications, policy=policy) if publications else []
        failed = tasks.fail(conn, self._epoch, failures, policy=policy) if failures else []
        ended = self._evaluations.settle(conn, self._epoch, evaluated) if evaluated and self._evaluations else []
        unreached = [failure.attempt.task_id for failure in failures if failure.unreachable]
        if unreached:
            jobs.doubt_heads(conn, self._epoch, unreached)
        if inbox.alive and renew:
            tasks.heartbeat(conn, self._epoch, inbox.alive, ttl_s=self._timing.lease_s)
        if inbox.dead:
            tasks.free(conn, self._epoch, inbox.dead, policy=policy)
        reaped = tasks.reap(conn, self._epoch, policy=policy) if reap else 0
        return Orders(
            groups=(),
            heads=(),
            settled=tuple(outcome.attempt for outcome in inbox.outcomes),
            published=tuple(
                {
                    one.attempt: one for one, done in zip(publications, completions, strict=True) if done.accepted
                }.values()  # what came twice was published once
            ),
            failed=tuple(failures),
            refused=tuple(
                Refusal(done.attempt, done.reason or "refused")
                for done in [*completions, *failed, *ended]
                if not done.accepted
            ),
            planned=0,
            reaped=reaped,
        )

    def _schedule(
        self, conn: Connection, orders: Orders, cursors: jobs.Locked, slots: Sequence[WorkerId], now: float
    ) -> tuple[Orders, tasks.Claim | None, outbox.Taken]:
        """Plan and lease, and take events out. What needs no answer is asked for before one is read."""
        doubted = any(failure.unreachable for failure in orders.failed)
        heads = jobs.heads_wanted(conn) if doubted or now >= self._heads_at else []
        planned = jobs.plan(conn, self._epoch, locked=cursors)
        claim = tasks.begin_claim(conn, self._epoch, slots, ttl_s=self._timing.lease_s) if slots else None
        taken = outbox.take(conn, self._epoch, tuple(HANDLERS), limit=OUTBOX_BATCH)
        if claim:
            claim.look_around()
        return replace(orders, heads=tuple(heads), planned=planned), claim, taken

    def _evaluate(self, conn: Connection, orders: Orders, inbox: Inbox, now: float) -> Orders:
        """Withdraw and lease out evaluations: after the events, of which new ones may have come."""
        if self._evaluations is None:
            return orders
        look, running, slots = now >= self._heads_at, inbox.evaluating, inbox.evaluators
        withdrawn = self._evaluations.withdraw(conn, self._epoch, running) if look and running else []
        leased = self._evaluations.lease(conn, self._epoch, slots) if slots else []
        wanted = self._evaluations.wanted(conn) if look else None
        return replace(orders, evaluations=tuple(leased), evaluating=wanted, withdrawn=tuple(withdrawn))


def _tell(drained: outbox.Drained) -> None:
    for event in drained.handled:
        logger.info("ledger event", extra={"topic": event.topic, "cause": event.idempotency_key})
    for one in drained.unhandled:
        logger.warning("ledger event not handled", extra={"topic": one.event.topic, "failure": one.error})
