"""The faults of a run, each a function of the world and a random source that returns when its fault has ended.

Tracks run beside each other, so that a kill can hit while the database is away and the provider lies.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.chaos import stack_ledger, stack_rival
from tests.chaos.stack_log import Deck
from tests.chaos.stack_processes import DISPATCHER, WORKER, Actor
from tests.chaos.stack_proxy import MODES
from tests.chaos.stack_world import LATENCY_MS, World
from trace_ray import config
from trace_ray.lite import ray_cluster

RPC_FAULTS = (
    *("429", "500", "503", "drop", "hang", "garbage", "truncated"),
    *("rpc", "rpc429", "null", "empty", "short", "fork"),
)
LIES = ("null", "empty", "short", "fork")
HOUR_S = 3600
POLL_S = 0.2
PATIENCE_S = 10.0  # a killed actor is back after some seconds

Act = Callable[[World, random.Random, threading.Event], None]


@dataclass(frozen=True)
class Track:
    """Faults that come one after another: which, and the shortest and longest pause between them, in seconds."""

    name: str
    acts: tuple[Act, ...]
    pause_s: tuple[float, float]


def tracks(world: World, *, long: bool) -> list[Track]:
    """Return what is done to this world. A second stack takes minutes of CPU, so only long runs have one."""
    disks = [full_staging] + ([full_objects] if world.objects else [])
    store = [*([store_fails] * len(MODES) if world.s3 else []), *disks]
    freezes: list[Act] = [freeze_worker, freeze_dispatcher, second_dispatcher, move_clock]
    database: list[Act] = [end_backends, end_backends, crash_postgres]
    return [
        Track("kills", (kill_worker, kill_worker, kill_dispatcher), (3.0, 6.0) if not long else (4.0, 10.0)),
        Track("freezes", (*freezes, second_stack) if long else tuple(freezes), (0.5, 2.0) if not long else (2.0, 6.0)),
        Track("database", tuple(database), (1.5, 4.0) if not long else (5.0, 20.0)),
        Track("provider", tuple(RpcFault(kind) for kind in RPC_FAULTS), (0.3, 1.0) if not long else (1.0, 6.0)),
        Track("store", tuple(store), (0.5, 2.0) if world.s3 and not long else (2.0, 6.0)),
    ]


def run_track(track: Track, world: World, rng: random.Random, over: threading.Event) -> None:
    """Deal faults until the run is over."""
    deck = Deck(track.acts, rng)
    while not over.wait(rng.uniform(*track.pause_s)):
        deck.deal()(world, rng, over)


# --- processes ----------------------------------------------------------------------------------------------------


def kill_worker(world: World, rng: random.Random, over: threading.Event) -> None:
    _kill(world, rng, over, WORKER, "worker killed")


def kill_dispatcher(world: World, rng: random.Random, over: threading.Event) -> None:
    _kill(world, rng, over, DISPATCHER, "Dispatcher killed")


def _kill(world: World, rng: random.Random, over: threading.Event, kind: str, name: str) -> None:
    victim = _pick(world, rng, over, kind)
    if victim is not None and victim.kill():
        world.log.note(name, victim.name)


def freeze_worker(world: World, rng: random.Random, over: threading.Event) -> None:
    """Longer than its leases: it comes back as a zombie."""
    victim = _pick(world, rng, over, WORKER)
    if victim is not None:
        with world.log.fault("worker stopped longer than a lease", victim.name), victim.stopped():
            over.wait(world.shape.lease_s * 1.3)


def freeze_dispatcher(world: World, rng: random.Random, over: threading.Event) -> None:
    """Longer than a lease, with nobody to take over: it must not take live work back when it wakes."""
    victim = _pick(world, rng, over, DISPATCHER)
    if victim is not None:
        with world.log.fault("Dispatcher stopped longer than a lease"), victim.stopped():
            over.wait(world.shape.lease_s * 1.2)


def move_clock(world: World, rng: random.Random, over: threading.Event) -> None:
    victim = _pick(world, rng, over, WORKER) if world.clocks.ready else None
    if victim is not None:
        # the S3 server of the tests calls a request from the past forbidden, which real ones do not
        seconds = HOUR_S if world.s3 else rng.choice((-HOUR_S, HOUR_S))
        with world.log.fault("clock of a worker an hour off", f"{victim.name} {seconds:+d} s"):
            world.clocks.move(victim.pid, seconds)
            over.wait(4.0)
            world.clocks.move(victim.pid, 0)


def _pick(world: World, rng: random.Random, over: threading.Event, kind: str) -> Actor | None:
    """Return a living actor, once there is one; None when none comes soon or the run is over."""
    give_up = time.monotonic() + PATIENCE_S
    while not (found := world.processes.actors(kind)) and time.monotonic() < give_up and not over.is_set():
        over.wait(POLL_S)
    return rng.choice(found) if found else None


# --- a second Dispatcher ------------------------------------------------------------------------------------------


def second_dispatcher(world: World, rng: random.Random, over: threading.Event) -> None:
    """Another process tries to lead all the time, and does while the first one stands still; then it is killed."""
    with world.log.fault("second Dispatcher") as fault, stack_rival.running(world.cli.data_dir) as rival:
        over.wait(1.5)
        victim = _pick(world, rng, over, DISPATCHER)
        if victim is not None:
            with victim.stopped():  # it wakes fenced
                over.wait(2.0 * config.LEADER_S * world.shape.lease_s / config.LEASE_S)
        over.wait(1.5)
        os.kill(rival.pid, signal.SIGKILL)  # its leases have to run out
        terms = rival.terms()
        fault.target = f"{terms} terms"


def second_stack(world: World, rng: random.Random, over: threading.Event) -> None:
    """`trace-ray up` of another data directory with the same database: two whole stacks, one ledger."""
    own = world.processes.own_ray()
    directory = world.cli.data_dir.with_name("second")
    environment = {
        **world.cli.environment,
        "TRACE_DATA_DIR": str(directory),
        "TRACE_STATE_DATABASE_URL": world.state_url,
        "RAY_ADDRESS": own["address"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ray_cluster.token_file(world.cli.data_dir)),
        "TRACE_WORKERS": "1",
    }
    with world.log.fault("second stack") as fault:
        upping = threading.Thread(target=world.command, args=("up",), kwargs={"environment": environment})
        upping.start()
        for _ in range(4):  # the second leads when the first one is away for longer than its term
            over.wait(6.0)
            victim = _pick(world, rng, over, DISPATCHER)
            if victim is not None:
                with victim.stopped():
                    over.wait(2.0 * config.LEADER_S * world.shape.lease_s / config.LEASE_S)
        upping.join()
        code, said = world.command("down", environment=environment)
        fault.target = f"down ended with {code}"
        if code != 0:
            raise RuntimeError(f"`trace-ray down` of the second stack ended with {code}: {said}")


# --- the database -------------------------------------------------------------------------------------------------


def end_backends(world: World, rng: random.Random, over: threading.Event) -> None:
    """End connections in the middle of whatever they do."""
    ended = stack_ledger.end_backends(world)
    if ended:
        world.log.note("backends ended", str(ended))


def crash_postgres(world: World, rng: random.Random, over: threading.Event) -> None:
    """Stop the server as a crash does. Nobody but `trace-ray up` starts it again."""
    with world.log.fault("Postgres crashed") as fault:
        if not world.processes.crash_postgres():
            fault.target = "was down"
        over.wait(rng.uniform(0.2, 2.0))
        world.up()


# --- the provider -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RpcFault:
    """The provider fails or lies in one way for a moment."""

    kind: str

    def __call__(self, world: World, rng: random.Random, over: threading.Event) -> None:
        rate = rng.choice((0.02, 0.2)) if self.kind in LIES else rng.choice((0.05, 0.3, 1.0))
        with world.log.fault(f"rpc {self.kind}", f"{rate:.0%} of the calls") as fault:
            world.replay.faults(fail=self.kind, fail_rate=rate, latency_ms=LATENCY_MS)
            over.wait(rng.uniform(0.5, 2.0))
            hits = httpx.get(f"{world.replay.url}/faults").json()["hits"]
            world.replay.faults(latency_ms=LATENCY_MS)
            fault.target += f", {hits} hit"


# --- the object store and the disk --------------------------------------------------------------------------------


def store_fails(world: World, rng: random.Random, over: threading.Event) -> None:
    assert world.s3 is not None
    mode, rate = rng.choice(MODES), rng.choice((0.3, 1.0))
    before = world.s3.hits[mode]
    with world.log.fault(f"store {mode}", f"{rate:.0%} of the requests") as fault, world.s3.failing(mode, rate):
        over.wait(rng.uniform(0.5, 2.5))
        fault.target += f", {world.s3.hits[mode] - before} hit"


def full_staging(world: World, rng: random.Random, over: threading.Event) -> None:
    with world.log.fault("staging disk full", world.staging.kind), world.staging.full():
        over.wait(rng.uniform(0.5, 2.0))


def full_objects(world: World, rng: random.Random, over: threading.Event) -> None:
    assert world.objects is not None
    with world.log.fault("object disk full", world.objects.kind), world.objects.full():
        over.wait(rng.uniform(0.5, 2.0))
