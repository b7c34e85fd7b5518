"""The crew without Ray: real workers in threads behind handles that can be silent, dead or of another build."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from actors import crew as crew_module
from actors.crew import Crew
from actors.dispatcher import Inbox
from tests.unit.actors.handles import NEW, Handle
from tests.unit.actors.leases import group
from trace_ray.contracts import LeaseGroup, WorkerId

FIRST = WorkerId("cryo/0.0")
SECOND = WorkerId("cryo/0.1")


@dataclass
class Pool:
    """A crew and the handles it was given; `broken` makes the next spawns fail."""

    size: int = 1
    broken: int = 0
    per_call: int = 1
    spawned: dict[WorkerId, Handle] = field(default_factory=dict[WorkerId, Handle])

    def __post_init__(self) -> None:
        self.crew = Crew(
            self._spawn,
            self._kill,
            size=self.size,
            slots=2,
            silence_s=2.0,
            attempt_s=60.0,
            build=NEW,
            per_call=self.per_call,
        )

    def _spawn(self, worker_id: WorkerId) -> Handle:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("Ray is starting")
        self.spawned[worker_id] = Handle(worker_id)
        return self.spawned[worker_id]

    def _kill(self, handle: object) -> None:
        assert isinstance(handle, Handle)
        handle.killed = True

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.crew.dismiss()  # also ends the probes, which a cancelled wait in Python 3.11 may not

    async def until(self, condition: Callable[[Inbox], bool]) -> Inbox:
        """Collect until the condition holds; what came in meanwhile is kept together."""
        inbox = self.crew.collect()
        for _ in range(1000):
            if condition(inbox):
                return inbox
            await asyncio.sleep(0.01)
            self.crew.put_back(inbox)
            inbox = self.crew.collect()
        raise AssertionError(f"never: {inbox}")


def start_running(handle: Handle, one: LeaseGroup) -> threading.Thread:
    """Give a worker work that an earlier Dispatcher sent."""
    thread = threading.Thread(target=handle.worker.run, args=([one],), daemon=True)
    thread.start()
    while not handle.worker.held().running:
        pass
    return thread


def test_what_a_worker_held_while_it_was_silent_arrives_when_it_answers_again() -> None:
    async def scene() -> None:
        handle = Handle(FIRST, silent=True)
        async with Pool() as pool:
            finished, running = group(FIRST), group(FIRST)
            handle.go.set()
            handle.worker.run([finished])
            handle.go.clear()
            thread = start_running(handle, running)
            held, silent = await pool.crew.adopt({FIRST: handle})
            assert (held, silent) == ([], [FIRST])
            handle.silent = False
            inbox = await pool.until(lambda inbox: bool(inbox.outcomes and inbox.alive))
            assert [outcome.attempt for outcome in inbox.outcomes] == [finished.leases[0].key]
            assert inbox.alive == (running.leases[0].key,)  # its lease is renewed
            handle.go.set()
            inbox = await pool.until(lambda inbox: bool(inbox.outcomes))
            assert [outcome.attempt for outcome in inbox.outcomes] == [running.leases[0].key]
            thread.join()

    asyncio.run(scene())


def test_an_outcome_is_told_once_and_forgotten_once_it_is_committed() -> None:
    async def scene() -> None:
        async with Pool() as pool:
            pool.crew.start()
            await pool.until(lambda inbox: bool(inbox.slots))
            one, handle = group(FIRST), pool.spawned[FIRST]
            handle.go.set()
            pool.crew.place([one])
            inbox = await pool.until(lambda inbox: bool(inbox.outcomes))
            assert len(handle.worker.held().finished) == 1  # kept until the ledger has it
            pool.crew.settled([outcome.attempt for outcome in inbox.outcomes])
            await pool.until(lambda _: not handle.worker.held().finished)
            await asyncio.sleep(0.5)
            assert not pool.crew.collect().outcomes

    asyncio.run(scene())


def test_short_ranges_share_a_call_and_occupy_one_slot() -> None:
    async def scene() -> None:
        async with Pool(per_call=3) as pool:
            pool.crew.start()
            inbox = await pool.until(lambda inbox: bool(inbox.slots))
            assert len(inbox.slots) == 6  # two slots, three ranges each
            groups = [group(FIRST) for _ in range(4)]
            pool.crew.place(groups)
            inbox = await pool.until(lambda inbox: len(inbox.alive) == 4)
            assert not inbox.slots
            assert pool.crew.status()[0]["busy_slots"] == 2  # a call of three and a call of one
            pool.spawned[FIRST].go.set()
            inbox = await pool.until(lambda inbox: len(inbox.outcomes) == 4)
            assert {outcome.attempt for outcome in inbox.outcomes} == {one.leases[0].key for one in groups}

    asyncio.run(scene())


def test_a_worker_of_another_build_finishes_its_ranges_and_is_replaced() -> None:
    async def scene() -> None:
        handle = Handle(FIRST, build="1+old")
        async with Pool() as pool:
            running = group(FIRST)
            thread = start_running(handle, running)
            held, silent = await pool.crew.adopt({FIRST: handle})
            assert not silent
            pool.crew.keep(held, held[0].running)
            pool.crew.start()
            await asyncio.sleep(0.6)
            inbox = pool.crew.collect()
            assert not inbox.slots  # no new lease for old code
            assert inbox.alive == (running.leases[0].key,)
            assert not handle.killed
            handle.go.set()
            inbox = await pool.until(lambda inbox: bool(inbox.outcomes))
            assert not handle.killed  # its outcome is not in the ledger yet
            pool.crew.settled([outcome.attempt for outcome in inbox.outcomes])
            inbox = await pool.until(lambda inbox: SECOND in inbox.slots)
            assert handle.killed
            assert not inbox.dead  # it held nothing: no lease was freed
            thread.join()

    asyncio.run(scene())


def test_a_place_of_the_pool_survives_a_spawn_that_fails() -> None:
    async def scene() -> None:
        async with Pool(broken=2) as pool:
            pool.crew.start()
            inbox = await pool.until(lambda inbox: bool(inbox.slots))
            assert inbox.slots == (WorkerId("cryo/0.2"),) * 2

    asyncio.run(scene())


def test_a_worker_that_died_between_two_steps_of_a_take_over_is_left_out() -> None:
    async def scene() -> None:
        handle = Handle(FIRST)
        async with Pool() as pool:
            held, _ = await pool.crew.adopt({FIRST: handle})
            pool.crew.dismiss()
            pool.crew.keep(held, [])
            assert not pool.crew.busy()

    asyncio.run(scene())


def test_a_frozen_dispatcher_does_not_bury_workers_for_its_own_silence() -> None:
    async def scene() -> None:
        async with Pool() as pool:
            pool.crew.start()
            await pool.until(lambda inbox: bool(inbox.slots))
            handle = pool.spawned[FIRST]
            crew_module.time.sleep(2.5)  # the loop stands still longer than a worker may be silent
            handle.silent = True  # and the first probe afterwards is lost
            await asyncio.sleep(0.25)
            handle.silent = False
            await pool.until(lambda inbox: bool(inbox.slots))
            assert not handle.killed

    asyncio.run(scene())


def test_a_crew_follows_the_number_of_its_places() -> None:
    second, third = WorkerId("cryo/1.0"), WorkerId("cryo/2.0")

    async def scene() -> None:
        async with Pool() as pool:
            pool.crew.start()
            pool.crew.resize(3)
            await pool.until(lambda inbox: set(inbox.slots) == {FIRST, second, third})
            gone = pool.spawned[third]
            pool.crew.place([group(third)])
            pool.crew.resize(2)
            assert set(pool.crew.collect().slots) == {FIRST, second}
            gone.go.set()
            inbox = await pool.until(lambda inbox: bool(inbox.outcomes))
            assert not gone.killed, "its outcome is not committed yet"
            pool.crew.settled([outcome.attempt for outcome in inbox.outcomes])
            await pool.until(lambda _: gone.killed)
            assert [row["worker_id"] for row in pool.crew.status()] == [FIRST, second]
            pool.crew.resize(3)
            await pool.until(lambda inbox: set(inbox.slots) == {FIRST, second, third})
            assert pool.spawned[third] is not gone

    asyncio.run(scene())
