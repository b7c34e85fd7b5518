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
from actors.runtime import WorkerHandle
from trace_ray.contracts import HeadRequest, WorkerId
from trace_ray.errors import DatabaseUnavailable, FencedError, TraceError

logger = logging.getLogger(__name__)

TICK_S = 0.25  # a wake-up is a hint; this is how long a lost one costs
GATHER_S = 0.005  # what comes back within a moment of the first result shares its tick: one commit instead of several
LEAD_RETRY_S = 0.5
DATABASE_RETRY_S = 1.0
UPKEEP_DELAY_S = 60.0  # a Dispatcher that dies at once must not list a bucket each time
UPKEEP_S = 3600.0

Record = Callable[[Orders], None]


@dataclass(frozen=True, slots=True)
class DispatcherStatus:
    """What the Dispatcher says of itself: swapped as a whole after each tick. `last_error` is one sentence or None.

    `stopped`: its term was ended by order, and it will not lead again.
    """

    epoch: int
    leading: bool
    ticks: int
    workers: tuple[Mapping[str, object], ...]
    last_error: str | None
    stopped: bool = False


class Term:
    """The loop around a `Dispatcher` and its `Crew`."""

    def __init__(
        self,
        core: Dispatcher,
        crew: Crew,
        *,
        living: Callable[[], Mapping[WorkerId, WorkerHandle]],
        record: Record,
        upkeep: Callable[[], object] | None = None,
    ) -> None:
        self._core = core
        self._crew = crew
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
        finally:
            self.ended.set()

    async def stop(self, *, drain_s: float) -> None:
        """Lease nothing more, wait for what runs, then end the workers and resign. Safe to call twice."""
        self._stopping = True
        self._crew.wake.set()
        await self.ended.wait()
        until = time.monotonic() + drain_s
        inbox = self._crew.collect()
        while self._crew.busy() and time.monotonic() < until:
            self._crew.put_back(await self._commit(inbox))
            await self._pause()
            inbox = self._crew.collect()
        left = self._crew.dismiss()
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
        held, silent = await self._crew.adopt(self._living())
        keys = {one.worker_id: [*one.running, *(outcome.attempt for outcome in one.finished)] for one in held}
        adopted = await asyncio.to_thread(self._core.recover, keys, silent)
        self._crew.keep(held, adopted)
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
        await asyncio.to_thread(self._core.recover, *self._crew.holds())
        self._doubtful = False
        logger.info("term goes on", extra={"epoch": self._core.epoch})

    async def _one_tick(self) -> None:
        inbox = self._crew.collect()
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
        self._crew.settled(orders.settled)
        self._crew.place(orders.groups)
        for request in orders.heads:
            self._ask_head(request)
        if orders.groups or orders.planned:
            self._crew.wake.set()
        self._ticks += 1
        self._record(orders)
        self._tell(None)

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
        self.status = DispatcherStatus(
            int(self._core.epoch), error is None, self._ticks, tuple(self._crew.status()), error
        )
