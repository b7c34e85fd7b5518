"""One Dispatcher's term: take over, adopt, then tick until it is stopped or fenced. One event loop owns all of it.

Ray is not needed here: what touches it is passed in. Blocking ledger calls run in one thread beside the loop, so that
status answers at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from actors.crew import Crew
from actors.dispatcher import Dispatcher, Inbox, Orders
from actors.handles import WorkerHandle
from actors.orders import Evaluated
from actors.runtime import EVALUATOR_PREFIX
from trace_ray.contracts import HeadRequest, WorkerId
from trace_ray.errors import DatabaseUnavailable, FencedError, TraceError

logger = logging.getLogger(__name__)

TICK_S = 0.25  # a wake-up is a hint; this is how long a lost one costs
GATHER_S = 0.005  # what comes back within a moment of the first result shares its tick: one commit instead of several
LEAD_RETRY_S = 0.5
DATABASE_RETRY_S = 1.0
UPKEEP_DELAY_S = 60.0  # a Dispatcher that dies at once must not list a bucket each time
UPKEEP_S = 3600.0
PLACES_S = 10.0  # nodes come and go by the minute

Record = Callable[[Orders], None]


@dataclass(frozen=True, slots=True)
class DispatcherStatus:
    """What the Dispatcher says of itself: swapped as a whole after each tick. `last_error` is one sentence or None.

    `members` are those of all crews. `stopped`: its term was ended by order, and it will not lead again.
    """

    epoch: int
    leading: bool
    ticks: int
    members: tuple[Mapping[str, object], ...]
    last_error: str | None
    stopped: bool = False

    @property
    def workers(self) -> list[Mapping[str, object]]:
        """Those that sync ranges."""
        return [one for one in self.members if not _evaluates(one)]

    @property
    def evaluators(self) -> list[Mapping[str, object]]:
        """Those that run alert rules; there are none before the first rule is enabled."""
        return [one for one in self.members if _evaluates(one)]


def _evaluates(member: Mapping[str, object]) -> bool:
    return str(member["worker_id"]).startswith(EVALUATOR_PREFIX)


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What alerts need beside the ledger: `begin` starts what sinks and delivers events, `end` stops it.

    What `begin` returns wakes the sink, and returns at once. `crew` shares its `wake` with that of the ranges; it has
    as many places as `places` says, which may block.
    """

    crew: Crew
    begin: Callable[[], Callable[[], object]]
    end: Callable[[], object]
    places: Callable[[], int]


class Term:
    """The loop around a `Dispatcher` and its crews: one for ranges, and one for evaluations once a rule wants it."""

    def __init__(
        self,
        core: Dispatcher,
        crew: Crew,
        *,
        evaluators: Evaluators | None = None,
        living: Callable[[], Mapping[WorkerId, WorkerHandle]],
        record: Record,
        upkeep: Callable[[], object] | None = None,
    ) -> None:
        self._core = core
        self._crew = crew
        self._evaluators = evaluators
        self._wake_sink: Callable[[], object] | None = None  # once a rule wants evaluations
        self._spreading: asyncio.Task[None] | None = None
        self._crews = (crew, evaluators.crew) if evaluators else (crew,)
        self._living = living
        self._record = record
        self._upkeep = upkeep
        self._asked: set[tuple[str, int]] = set()
        self._stopping = False
        self._doubtful = False
        self._ticks = 0
        self.ended = asyncio.Event()
        self.status = DispatcherStatus(0, False, 0, (), None)

    def nudge(self) -> None:
        """Tick now instead of in a moment."""
        self._crew.wake.set()

    async def run(self) -> None:
        """Serve until `stop`. Raises FencedError when another Dispatcher leads."""
        try:
            await self._take_over()
            tending = asyncio.create_task(self._tend())
            try:
                while not self._stopping:
                    await self._one_tick()
                    await self._pause()
            finally:
                tending.cancel()
                if self._spreading:
                    self._spreading.cancel()
        finally:
            self.ended.set()

    async def stop(self, *, drain_s: float) -> None:
        """Lease nothing more, wait for what runs, then end the workers and resign. Safe to call twice."""
        self._stopping = True
        self._crew.wake.set()
        await self.ended.wait()
        until = time.monotonic() + drain_s
        inbox = self._collect()
        while any(crew.busy() for crew in self._crews) and time.monotonic() < until:
            self._crew.put_back(await self._commit(inbox))
            await self._pause()
            inbox = self._collect()
        left = tuple(worker_id for crew in self._crews for worker_id in crew.dismiss())
        if self._evaluators:
            await asyncio.to_thread(self._evaluators.end)
        await self._commit(Inbox(outcomes=inbox.outcomes, dead=inbox.dead + left))
        try:
            await asyncio.to_thread(self._core.resign)
        except (DatabaseUnavailable, FencedError):
            logger.info("resigned by silence")  # the term expires, or another Dispatcher leads already
        self.status = DispatcherStatus(int(self._core.epoch), False, self._ticks, (), None, stopped=True)

    # --- steps ----------------------------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        while not self._stopping:
            try:
                if await asyncio.to_thread(self._core.lead):
                    break
            except DatabaseUnavailable as error:
                self._tell(str(error))
            await asyncio.sleep(LEAD_RETRY_S)
        living = self._living()
        answers = [await crew.adopt(living) for crew in self._crews]
        held = [one for found, _ in answers for one in found]
        silent = [worker_id for _, found in answers for worker_id in found]
        keys = {one.worker_id: [*one.running, *(outcome.attempt for outcome in one.finished)] for one in held}
        adopted = await asyncio.to_thread(self._core.recover, keys, silent)
        for crew, (found, _) in zip(self._crews, answers, strict=True):
            crew.keep(found, adopted)
        self._crew.start()
        logger.info("term began", extra={"epoch": self._core.epoch, "adopted": len(adopted), "workers": len(held)})

    async def _tend(self) -> None:
        """Do the upkeep now and then, beside the ticks."""
        if self._upkeep is None:
            return
        await asyncio.sleep(UPKEEP_DELAY_S)
        while True:
            try:
                await asyncio.to_thread(self._upkeep)
            except TraceError as error:
                logger.warning("upkeep left undone", extra={"reason": str(error)})
            except Exception:
                logger.exception("upkeep failed")
            await asyncio.sleep(UPKEEP_S)

    async def _lead_again(self) -> None:
        """Settle what a broken transaction left open: were its leases committed? A new epoch frees those nobody holds.

        Raises:
            FencedError: another Dispatcher leads meanwhile.
        """
        if not await asyncio.to_thread(self._core.lead):
            raise FencedError("another Dispatcher leads")
        held, silent = self._crew.holds()
        if self._evaluators:
            more, unheard = self._evaluators.crew.holds()
            held, silent = held | more, silent + unheard
        await asyncio.to_thread(self._core.recover, held, silent)
        self._doubtful = False
        logger.info("term goes on", extra={"epoch": self._core.epoch})

    async def _one_tick(self) -> None:
        inbox = self._collect()
        try:
            if self._doubtful:
                await self._lead_again()
            orders = await asyncio.to_thread(self._core.tick, inbox, now=time.monotonic())
        except FencedError:
            raise
        except DatabaseUnavailable as error:
            self._doubtful = True
            self._crew.put_back(inbox)
            self._tell(str(error))
            await asyncio.sleep(DATABASE_RETRY_S)
            return
        except Exception as error:  # the loop must survive a bug in one step; the ledger was rolled back
            self._crew.put_back(replace(inbox, heads=()))  # an answer that the ledger cannot take is asked for anew
            self._asked.clear()
            self._tell(str(error) if isinstance(error, TraceError) else type(error).__name__)
            logger.exception("tick failed")
            await asyncio.sleep(DATABASE_RETRY_S)
            return
        self._follow(orders, inbox)

    def _follow(self, orders: Orders, inbox: Inbox) -> None:
        self._asked -= {(answer.rpc_pool, answer.chain_id) for answer in inbox.heads}
        for crew in self._crews:
            crew.settled(orders.settled)
        self._crew.place(orders.groups)
        if self._evaluators:
            self._evaluators.crew.withdraw(orders.withdrawn)
            self._evaluators.crew.place(orders.evaluations)
            self._evaluate(wanted=orders.evaluating)
        for request in orders.heads:
            self._ask_head(request)
        if self._wake_sink and any(isinstance(one, Evaluated) and one.batch for one in inbox.outcomes):
            self._wake_sink()
        # what a tick has published, the next one queues for the rules
        if orders.groups or orders.planned or orders.evaluations or (orders.published and self._wake_sink):
            self._crew.wake.set()
        self._ticks += 1
        self._record(orders)
        self._tell(None)

    def _collect(self) -> Inbox:
        """Return what came in at all crews."""
        inbox = self._crew.collect()
        if self._evaluators is None:
            return inbox
        other = self._evaluators.crew.collect()
        return Inbox(
            outcomes=inbox.outcomes + other.outcomes,
            heads=inbox.heads,
            dead=inbox.dead + other.dead,
            alive=inbox.alive + other.alive,
            slots=inbox.slots,
            evaluators=other.slots,
            evaluating=other.alive,
        )

    def _evaluate(self, *, wanted: bool | None) -> None:
        """Begin with alerts when the first rule wants it. They stay: a rule that is paused may go on."""
        if wanted and self._evaluators and not self._wake_sink:
            self._wake_sink = self._evaluators.begin()
            self._evaluators.crew.start()
            self._spreading = asyncio.create_task(self._spread(self._evaluators))

    async def _spread(self, evaluators: Evaluators) -> None:
        """Follow the nodes that come and go."""
        while True:
            try:
                evaluators.crew.resize(await asyncio.to_thread(evaluators.places))
            except Exception:  # Ray may be starting again
                logger.exception("nodes cannot be counted")
            await asyncio.sleep(PLACES_S)

    def _ask_head(self, request: HeadRequest) -> None:
        key = (request.rpc_pool, request.chain_id)
        if key not in self._asked and self._crew.poll_head(request):
            self._asked.add(key)

    async def _commit(self, inbox: Inbox) -> Inbox:
        """Commit results without leasing; return what could not be committed."""
        bare = Inbox(outcomes=inbox.outcomes, dead=inbox.dead, alive=inbox.alive)
        try:
            await asyncio.to_thread(self._core.settle, bare)
        except DatabaseUnavailable as error:
            self._tell(str(error))
            return bare
        except FencedError:
            logger.info("another Dispatcher leads")  # its ledger takes what the workers hold
        return Inbox()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._crew.wake.wait(), TICK_S)
            await asyncio.sleep(GATHER_S)
        except TimeoutError:
            return
        finally:
            self._crew.wake.clear()

    def _tell(self, error: str | None) -> None:
        members = tuple(one for crew in self._crews for one in crew.status())
        self.status = DispatcherStatus(int(self._core.epoch), error is None, self._ticks, members, error)
