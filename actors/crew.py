"""The pool of workers as the Dispatcher sees it: who lives, which slots are free, what is on its way.

Owned by one event loop. Knows no ledger: what the calls bring back collects here until the next tick takes it. The
awaited call is the signal of death; a probe per worker finds hung ones and carries acknowledgements.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import cast

from actors import wire
from actors.dispatcher import HeadAnswer, Inbox
from actors.handles import WorkerHandle
from actors.member import Member
from actors.orders import Group, Result
from actors.runtime import (
    WORKER_PREFIX,
    Spawn,
    WorkerDied,
    WorkerSilent,
    answer,
    build_of,
    worker_name,
    worker_place,
)
from actors.worker import Held
from trace_ray.contracts import AttemptKey, HeadRequest, WorkerId
from trace_ray.retry import RetryPolicy, delay_s

logger = logging.getLogger(__name__)

PROBE_S = 5.0  # one small call per worker; below 1 % of its capacity. Short leases are probed more often
ADOPTED_PROBE_S = 0.25  # an adopted attempt has no awaited call, so its outcome is asked for
START_S = 60.0  # a cold worker process imports Ray and pyarrow; a loaded laptop took 12 s
ANSWER_S = 5.0  # `held` answers from memory in its own thread group
RESPAWN = RetryPolicy(base_s=0.1, cap_s=30.0, max_attempts=4, max_infra_failures=4)


class Crew:
    """Places leases on workers and collects what comes back.

    `silence_s` is how long a worker may stay silent before it is killed and replaced: by then its leases have expired.
    `attempt_s` is how long an attempt's lease is renewed: one that has not ended by then hangs. `build` names the code
    of this process: living workers of another one are replaced. A slot is one call at a worker, which runs `per_call`
    groups one after another and answers for all of them at once: one, so that a slow range holds back no other, unless
    ranges are so short that the calls cost more than they do. `prefix` begins the names of its workers; `wake` is set
    when something came in, and may be shared with another crew.
    """

    def __init__(
        self,
        spawn: Spawn,
        kill: Callable[[WorkerHandle], None],
        *,
        size: int,
        slots: int,
        silence_s: float,
        attempt_s: float,
        build: str,
        per_call: int = 1,
        prefix: str = WORKER_PREFIX,
        wake: asyncio.Event | None = None,
    ) -> None:
        self._spawn = spawn
        self._kill = kill
        self._size = size
        self._slots = slots
        self._silence_s = silence_s
        self._attempt_s = attempt_s
        self._build = build
        self._per_call = per_call
        self._prefix = prefix
        self._probe_s = min(PROBE_S, silence_s / 12)
        self._members: dict[WorkerId, Member] = {}
        self._inbox = Inbox()
        self._deaths: dict[int, int] = {}
        self._sequence = 0
        self._background: set[asyncio.Task[None]] = set()
        self.wake = wake or asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------------------

    async def adopt(self, living: Mapping[WorkerId, WorkerHandle]) -> tuple[list[Held], list[WorkerId]]:
        """Take over the workers of an earlier Dispatcher: what each holds, and which of them gave no answer."""
        answers = await asyncio.gather(
            *(
                self._meet(worker_id, handle)
                for worker_id, handle in living.items()
                if worker_id.startswith(self._prefix)
            )
        )
        held = [one for one in answers if one is not None]
        silent = [worker_id for worker_id in self._members if worker_id not in {one.worker_id for one in held}]
        return held, silent

    async def _meet(self, worker_id: WorkerId, handle: WorkerHandle) -> Held | None:
        held: Held | None = None
        member = Member(worker_id, handle, heard_at=time.monotonic())
        try:
            member.same_build = await build_of(handle, timeout_s=ANSWER_S) == self._build
            member.retiring = not member.same_build
            held = cast(Held, await answer(handle.held.remote(()), timeout_s=ANSWER_S))
        except WorkerDied:
            return None
        except WorkerSilent:  # its first answer to a probe tells what it holds
            logger.warning("worker is silent", extra={"worker_id": worker_id})
        member.ready = held is not None
        self._members[worker_id] = member
        self._watch(worker_id)
        return held

    def keep(self, held: Iterable[Held], adopted: Collection[AttemptKey]) -> None:
        """Wait for the adopted attempts, and hand finished ones to the next tick."""
        for one in held:
            member = self._members.get(one.worker_id)
            if member is None:  # it died since it answered, which frees its leases
                continue
            member.adopted = {key: time.monotonic() for key in one.running if key in adopted}
            self._receive(member, [outcome for outcome in one.finished if outcome.attempt not in member.delivered])

    def start(self) -> None:
        """Fill every empty place of the pool with a new worker."""
        places = {worker_place(worker_id)[0] for worker_id in self._members}
        for index in range(self._size):
            if index not in places:
                self._background_task(self._hire(worker_name(index, 0, self._prefix)))

    def resize(self, size: int) -> None:
        """Have so many places from now on: new ones are filled, and who is beyond the last goes once it is idle."""
        before, self._size = self._size, size
        members = {worker_place(worker_id)[0]: member for worker_id, member in self._members.items()}
        for index, member in members.items():
            member.retiring = index >= size or not member.same_build
        for index in range(before, size):
            if index not in members:
                self._background_task(self._hire(worker_name(index, 0, self._prefix)))

    def dismiss(self) -> tuple[WorkerId, ...]:
        """End every worker and return their names, whose leases are to be freed."""
        for task in self._background:
            task.cancel()
        gone = tuple(self._members)
        for member in self._members.values():
            self._kill(member.handle)
        self._members.clear()
        return gone

    def holds(self) -> tuple[dict[WorkerId, list[AttemptKey]], list[WorkerId]]:
        """Return every attempt that a worker has or has answered, by worker; and the workers of which nobody knows."""
        held = {
            member.worker_id: [*member.attempts(since=0.0), *member.delivered]
            for member in self._members.values()
            if member.ready
        }
        return held, [worker_id for worker_id in self._members if worker_id not in held]

    def busy(self) -> bool:
        return any(member.busy_slots() for member in self._members.values())

    async def _hire(self, worker_id: WorkerId) -> None:
        if worker_place(worker_id)[0] >= self._size:  # its place is gone
            return
        try:
            member = Member(worker_id, self._spawn(worker_id), same_build=True)
        except Exception:  # Ray may be starting again; a place of the pool must not be lost for it
            logger.exception("worker cannot be started")
            self._fill_place(worker_id)
            return
        self._members[worker_id] = member
        try:
            await answer(member.handle.held.remote(()), timeout_s=START_S)
        except (WorkerDied, WorkerSilent):
            self._bury(worker_id)
            return
        member.ready, member.heard_at = True, time.monotonic()
        self._watch(worker_id)
        self.wake.set()

    def _bury(self, worker_id: WorkerId) -> None:
        """Free the leases of a dead worker and hire its replacement, with back-off when it dies again and again."""
        member = self._members.pop(worker_id, None)
        if member is None:
            return
        self._inbox = self._merge(dead=(worker_id,))
        self._fill_place(worker_id)
        logger.warning("worker died", extra={"worker_id": worker_id})
        self.wake.set()
        self._kill(member.handle)

    def _fill_place(self, worker_id: WorkerId) -> None:
        index, generation = worker_place(worker_id)
        self._deaths[index] = self._deaths.get(index, 0) + 1
        self._background_task(self._replace(worker_name(index, generation + 1, self._prefix), self._deaths[index]))

    async def _retire(self, member: Member) -> None:
        """Replace an idle worker of another build, or whose place is gone. It holds nothing, so no lease is freed."""
        index, generation = worker_place(member.worker_id)
        del self._members[member.worker_id]
        self._kill(member.handle)
        logger.info("worker retired", extra={"worker_id": member.worker_id})
        await self._hire(worker_name(index, generation + 1, self._prefix))

    async def _replace(self, worker_id: WorkerId, deaths: int) -> None:
        await asyncio.sleep(delay_s(deaths, RESPAWN, jitter=1.0))
        await self._hire(worker_id)

    # --- work -----------------------------------------------------------------------------------------------------

    def collect(self) -> Inbox:
        """Return what came in since the last call, with the attempts to renew and the slots that are free now."""
        now = time.monotonic()
        ready = [member for member in self._members.values() if member.ready]
        heard = [member for member in ready if now - member.heard_at < self._silence_s / 4]
        alive = tuple(key for member in heard for key in member.attempts(since=now - self._attempt_s))
        free = [  # dealt out by turns
            [member.worker_id] * (self._slots - member.busy_slots()) * self._per_call
            for member in heard
            if not member.retiring
        ]
        slots = tuple(worker_id for turn in zip_longest(*free) for worker_id in turn if worker_id is not None)
        inbox = self._merge(alive=alive, slots=slots)
        self._inbox = Inbox()
        return inbox

    def put_back(self, inbox: Inbox) -> None:
        """Keep what a failed tick could not commit; giving it again is safe."""
        self._inbox = self._merge(outcomes=inbox.outcomes, heads=inbox.heads, dead=inbox.dead)

    def settled(self, keys: Iterable[AttemptKey]) -> None:
        """Tell workers with the next probe that these outcomes are committed."""
        gone = set(keys)
        for member in self._members.values():
            member.committed |= member.delivered & gone

    def place(self, groups: Iterable[Group]) -> None:
        """Send groups to their workers. One that died meanwhile is reported dead again, which frees the leases."""
        of_worker: dict[WorkerId, list[Group]] = {}
        for group in groups:
            of_worker.setdefault(group.worker_id, []).append(group)
        for worker_id, its_groups in of_worker.items():
            member = self._members.get(worker_id)
            if member is None:
                self._inbox = self._merge(dead=(worker_id,))
                continue
            for start in range(0, len(its_groups), self._per_call):
                self._sequence += 1
                call = tuple(its_groups[start : start + self._per_call])
                member.sent[self._sequence] = frozenset(lease.key for group in call for lease in group.leases)
                member.sent_at[self._sequence] = time.monotonic()
                self._background_task(self._drive(member, self._sequence, call))

    def withdraw(self, keys: Collection[AttemptKey]) -> None:
        """Have attempts stopped that hold no lease any more. A call that is lost is made again by the next look."""
        for member in self._members.values():
            its = [key for key in member.attempts(since=0.0) if key in keys]
            if its and member.same_build:  # another one may know no such call, and gets no more leases
                self._background_task(self._stop(member, its))

    def poll_head(self, request: HeadRequest) -> bool:
        """Ask some ready worker for a head; False when none is ready."""
        ready = [member for member in self._members.values() if member.ready]
        if not ready:
            return False
        self._sequence += 1
        self._background_task(self._ask_head(ready[self._sequence % len(ready)], request))
        return True

    async def _drive(self, member: Member, number: int, groups: Sequence[Group]) -> None:
        try:
            outcomes = wire.outcomes(await answer(member.handle.run.remote(wire.pack(groups))))
        except WorkerDied:
            self._bury(member.worker_id)
        except WorkerSilent:  # perhaps it works on: its outcome is asked for like an adopted one
            member.adopted |= dict.fromkeys(member.sent[number], member.sent_at[number])
        else:
            member.heard_at = time.monotonic()
            self._deaths.pop(worker_place(member.worker_id)[0], None)
            self._receive(member, outcomes)
        finally:
            member.sent.pop(number, None)
            member.sent_at.pop(number, None)
            self.wake.set()

    async def _stop(self, member: Member, keys: Sequence[AttemptKey]) -> None:
        with contextlib.suppress(WorkerDied, WorkerSilent):  # its probe will tell
            await answer(member.handle.withdraw.remote(wire.pack(keys)), timeout_s=ANSWER_S)

    async def _ask_head(self, member: Member, request: HeadRequest) -> None:
        try:
            head = cast(HeadAnswer, await answer(member.handle.head.remote(request), timeout_s=START_S))
        except (WorkerDied, WorkerSilent):
            head = HeadAnswer(request.rpc_pool, request.chain_id, None, "no worker could ask for it")
        self._inbox = self._merge(heads=(head,))
        self.wake.set()

    # --- probing --------------------------------------------------------------------------------------------------

    def _watch(self, worker_id: WorkerId) -> None:
        self._background_task(self._probe(worker_id))

    async def _probe(self, worker_id: WorkerId) -> None:
        missing_since: float | None = None  # asked in vain since; this process may itself have been frozen before
        while (member := self._members.get(worker_id)) is not None:
            await asyncio.sleep(ADOPTED_PROBE_S if member.adopted or member.retiring else self._probe_s)
            committed = tuple(member.committed)
            try:
                told = wire.pack(committed) if member.same_build else committed  # another one may know no such message
                held = cast(Held, await answer(member.handle.held.remote(told), timeout_s=ANSWER_S))
            except WorkerDied:
                self._bury(worker_id)
                return
            except WorkerSilent:
                missing_since = missing_since or time.monotonic()
                if time.monotonic() - missing_since > self._silence_s:
                    self._bury(worker_id)
                    return
                continue
            missing_since = None
            member.ready, member.heard_at = True, time.monotonic()
            member.delivered.difference_update(committed)
            member.committed.difference_update(committed)
            self._take(member, held)
            if self._hangs(member):
                logger.warning("worker hangs", extra={"worker_id": worker_id})
                self._bury(worker_id)
                return
            if member.retiring and member.is_done():
                self._background_task(self._retire(member))
                return

    def _hangs(self, member: Member) -> bool:
        """Say whether an attempt has outlived its lease for good: only the end of its process frees the slot."""
        oldest = min([*member.sent_at.values(), *member.adopted.values()], default=None)
        return oldest is not None and time.monotonic() - oldest > self._attempt_s + self._silence_s

    def _take(self, member: Member, held: Held) -> None:
        """Take what no awaited call will bring: of adopted attempts, and of a worker that was silent at first."""
        known = member.delivered | member.committed
        done = [one for one in held.finished if one.attempt not in known and not member.expects(one.attempt)]
        running = [key for key in held.running if not member.expects(key)]
        now = time.monotonic()
        member.adopted = {key: member.adopted.get(key, now) for key in running}
        if done:
            self._receive(member, done)
            self.wake.set()

    # --- small things ---------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, object]]:
        """Return one row per worker: name, readiness, busy slots, seconds since it was heard."""
        now = time.monotonic()
        return [
            {
                "worker_id": member.worker_id,
                "ready": member.ready,
                "busy_slots": member.busy_slots(),
                "silent_seconds": round(now - member.heard_at, 1) if member.ready else None,
            }
            for member in self._members.values()
        ]

    def _receive(self, member: Member, outcomes: Iterable[Result]) -> None:
        arrived = tuple(outcomes)
        member.delivered.update(outcome.attempt for outcome in arrived)
        self._inbox = self._merge(outcomes=arrived)

    def _merge(
        self,
        *,
        outcomes: tuple[Result, ...] = (),
        heads: tuple[HeadAnswer, ...] = (),
        dead: tuple[WorkerId, ...] = (),
        alive: tuple[AttemptKey, ...] = (),
        slots: tuple[WorkerId, ...] = (),
    ) -> Inbox:
        old = self._inbox
        return Inbox(old.outcomes + outcomes, old.heads + heads, old.dead + dead, old.alive + alive, old.slots + slots)

    def _background_task(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
