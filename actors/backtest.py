"""Runs a bundle over blocks that are published already, and keeps nothing: no lease, no event, no delivery.

The sandbox, the limits, the checks of what is emitted and the blocks of each evaluation are those of a live rule. Only
the questions of the handler take a shorter way (`actors.direct`).
"""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from actors import evaluate, evaluating
from actors.direct import DirectDoor
from actors.evaluate import Assignment
from actors.questions import Processes, open_pool
from actors.sandbox.invoker import Ask, RuntimeInvoker
from actors.sandbox.store import BundleStore
from actors.sandbox.supervisor import open_supervisor
from trace_ray import drafts
from trace_ray.alerts import Evaluation, OutcomeKind, Rule
from trace_ray.backtest_reports import Ended, Seen
from trace_ray.bundle.pushed import UsableBundle
from trace_ray.config import TASK_QUERY_S, Settings
from trace_ray.contracts import Grant
from trace_ray.errors import TraceError
from trace_ray.outcomes import FATAL, MAX_ATTEMPTS
from trace_ray.storage import open_store

MOST_FAILED: Final = 10  # a bundle that fails so often is broken: no evaluation is started any more
MOST_EVENTS: Final = 1_000_000  # their keys are held in memory


class TooManyEvents(TraceError):
    """The evaluations emit more events than are held. One sentence."""


@dataclass(frozen=True, slots=True)
class Backtest:
    """Runs rules over evaluations, several at a time. Made by `opened`."""

    invoker: RuntimeInvoker
    bundles: BundleStore
    ask: Ask
    grant: Grant
    workers: int
    shown: int

    def run(
        self, rule: Rule, bundle: UsableBundle, planned: Sequence[Evaluation], progress: Callable[[int], None]
    ) -> list[Ended]:
        """Return the ends in order of their blocks; fewer than planned when ten have failed.

        Args:
            progress: Called with how many have ended.

        Raises:
            TooManyEvents
        """
        stop, ended = threading.Event(), list[Ended]()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="backtest") as pool:
            try:
                futures = [pool.submit(self._one, rule, bundle, one, stop) for one in planned]
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    ended.append(future.result())
                    progress(len(ended))
                    _check(ended, futures)
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        return sorted(ended, key=lambda one: one.blocks)

    def _one(self, rule: Rule, bundle: UsableBundle, evaluation: Evaluation, stop: threading.Event) -> Ended:
        what = Assignment(rule, evaluation, bundle, self.grant.datasets)
        ended = self._attempt(what, stop)
        for _ in range(1, MAX_ATTEMPTS):  # as the ledger would try it
            if ended.good or ended.outcome in FATAL or stop.is_set():
                break
            ended = self._attempt(what, stop)
        return ended

    def _attempt(self, what: Assignment, stop: threading.Event) -> Ended:
        invoked = evaluate.invoke(self.invoker, self.bundles, what, self.ask, stop.is_set)
        one = what.evaluation
        seconds = float(invoked.usage.get("wall_s") or 0.0)
        ended = Ended(one.blocks, invoked.outcome, invoked.detail, invoked.log, seconds)
        if not ended.good:
            return ended
        try:
            lines = b"".join(line + b"\n" for line in invoked.events)
            found = drafts.read(lines, rule_id=one.rule_id, chain_id=one.chain_id, blocks=one.blocks)
        except drafts.BadBatch as error:
            return replace(ended, outcome=OutcomeKind.BAD_OUTPUT, detail=error.reason)
        seen = tuple(Seen(draft.dedupe_key, draft.block_number, drafts.digest(draft)) for draft in found)
        return replace(ended, events=seen, drafts=tuple(found[: self.shown]))


@contextmanager
def opened(settings: Settings, grant: Grant, *, workers: int, shown: int) -> Generator[Backtest]:
    """Open the sandbox of this machine and query processes for as long as the block lasts.

    Args:
        grant: What every evaluation may read.
        workers: Evaluations at once; never more than this machine has sandboxes for.
        shown: Events of each evaluation that are kept whole.

    Raises:
        LaunchFailed, CgroupUnavailable, TreeUnavailable: no sandbox works here.
        WorkerUnavailable, DiskFull: there is no room.
    """
    sandbox = evaluating.sandbox_settings(settings)
    with ExitStack() as open_parts:
        objects = open_store(
            settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
        )
        open_parts.callback(objects.close)
        invoker = open_supervisor(sandbox)
        open_parts.callback(invoker.close)
        pool = open_parts.enter_context(open_pool(settings.data_dir / "scratch", objects))
        yield Backtest(
            invoker=invoker,
            bundles=BundleStore(sandbox.home / "bundles", objects),
            ask=DirectDoor(
                Processes(pool, objects, question_s=TASK_QUERY_S), grant, replace(pool.limits, timeout_s=TASK_QUERY_S)
            ),
            grant=grant,
            workers=min(workers, sandbox.slots),
            shown=shown,
        )


def _check(ended: Sequence[Ended], futures: Sequence[Future[Ended]]) -> None:
    if sum(len(one.events) for one in ended) > MOST_EVENTS:
        raise TooManyEvents(f"there are more than {MOST_EVENTS:,} events: narrow --from and --to")
    if sum(not one.good for one in ended) >= MOST_FAILED:
        for future in futures:
            future.cancel()
