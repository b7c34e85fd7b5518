"""Every Ray actor of trace_ray, one line per method. The work is in plain classes beside this file."""

# pyright: reportUnknownMemberType=false, reportUntypedClassDecorator=false
# (Ray's own types leave the decorators of actors and methods partly unknown)

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import ray

from actors import runtime, wire
from actors.crew import Crew
from actors.dispatcher import Dispatcher as Core
from actors.dispatcher import HeadAnswer, Timing
from actors.evaluations import Evaluations
from actors.handles import WorkerHandle
from actors.leased import Leased
from actors.metrics import Metrics
from actors.orders import EvaluationGroup
from actors.term import DispatcherStatus, Evaluators, Term
from actors.worker import Held, Worker
from state.db import Database
from trace_ray import config, logs
from trace_ray.alerts import CAPS
from trace_ray.build import build_id
from trace_ray.contracts import AttemptKey, HeadRequest, LeaseGroup, WorkerId
from trace_ray.key_files import open_keys

LOCAL_REPLICAS: Final = 2  # a laptop has other work
REPLICAS: Final = 8
WAITING: Final = 128  # the app itself says 429 to those that wait too long
HELD: Final = 512  # requests that the proxy holds while no replica takes them, as after a crash
RETRY_S: Final = 1.0
SURGE_PERCENT: Final = 25  # of the replicas, rounded up: new ones answer before as many old ones go
UPSCALE_S: Final = 5.0  # Serve's own 30 s are longer than anybody waits in front of a busy replica
LOOK_BACK_S: Final = 10.0  # a longer mean only makes Serve act later
REPORT_S: Final = 5.0  # replicas tell their load so often
LONGEST_S: Final = config.TASK_QUERY_S + 30.0  # a question, and the upload and audit of its answer
STARTS: Final = 3  # tries of a build that does not start, before the one that runs is left alone

INSIDE: Final = "http://127.0.0.1"  # nothing is connected to

Relayed = tuple[int, dict[str, str], bytes]

actor: Final[Any] = ray.remote  # its types know no concurrency groups


@actor(concurrency_groups={"control": 2, "heads": 2})  # a provider that hangs must not make its worker look silent
class CryoWorker:
    """One worker process; `run` in `max_concurrency` threads, the rest answers while they work."""

    def __init__(self, worker_id: WorkerId, data_dir: Path) -> None:
        # late: the Dispatcher needs none of these, and half a second of imports would make its return that much later
        from actors.ingest import Ingester, Limits
        from actors.sweeper import staging_kept_s, sweep_staging
        from trace_ray.extract.choice import make_engine
        from trace_ray.storage import open_store

        build_id()  # of the files as they are now
        settings = config.load_stack(data_dir)
        logs.set_up(json=True, secrets=config.secrets(settings))
        share = 1 / (settings.workers * config.WORKER_SLOTS)
        self._ingester = Ingester(
            make_engine(settings.engine),
            open_store(
                settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
            ),
            lambda: config.load_stack(data_dir).rpc_pools,
            settings.data_dir / "staging",
            Limits(range_s=settings.range_timeout_s, share=share),
        )
        self._worker = Worker(worker_id, self._ingester.run)
        sweep_staging(settings.data_dir / "staging", kept_s=staging_kept_s(settings))

    @ray.method
    def run(self, groups: bytes) -> bytes:
        return wire.pack(self._worker.run(wire.groups(groups, LeaseGroup)))

    @ray.method(concurrency_group="control")
    def held(self, acknowledged: bytes | Sequence[AttemptKey]) -> Held:
        return self._worker.held(wire.keys(acknowledged))

    @ray.method(concurrency_group="control")
    def version(self) -> str:
        return build_id()

    @ray.method(concurrency_group="heads")
    def head(self, request: HeadRequest) -> HeadAnswer:
        return self._ingester.answer_head(request)

    def __repr__(self) -> str:
        return "CryoWorker"


@actor(concurrency_groups={"control": 2})
class Evaluator:
    """Runs evaluations in sandboxes, each in a thread of its own; `run` in `max_concurrency` threads."""

    def __init__(self, worker_id: WorkerId, data_dir: Path) -> None:
        from actors.evaluating import make_evaluator  # late: as in the worker

        build_id()
        settings = config.load_stack(data_dir)
        logs.set_up(json=True, secrets=config.secrets(settings))
        transport = runtime.QueryTransport(runtime.namespace(data_dir))
        self._leased = Leased(make_evaluator(settings, transport).run)
        self._worker = Worker(worker_id, self._leased.run)

    @ray.method
    def run(self, groups: bytes) -> bytes:
        return wire.pack(self._worker.run(wire.groups(groups, EvaluationGroup)))

    @ray.method(concurrency_group="control")
    def held(self, acknowledged: bytes | Sequence[AttemptKey]) -> Held:
        self._leased.heard()
        return self._worker.held(wire.keys(acknowledged))

    @ray.method(concurrency_group="control")
    def withdraw(self, keys: bytes) -> None:
        self._leased.withdraw(wire.keys(keys))

    @ray.method(concurrency_group="control")
    def version(self) -> str:
        return build_id()

    def __repr__(self) -> str:
        return "Evaluator"


@actor(concurrency_groups={"control": 8})
class Dispatcher:
    """The one scheduler of a stack. A failed term ends the process, and Ray starts the next one."""

    async def __init__(self, data_dir: Path) -> None:
        self._term = begin_term(data_dir)
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._term.run()
        except Exception:  # noqa: BLE001 - whatever ended the term, a fresh process takes over
            logs.logger.exception("term ended")
            os._exit(1)  # a fresh process takes over with a new epoch and adopts the workers

    @ray.method
    async def nudge(self) -> None:
        self._term.nudge()

    @ray.method
    async def stop(self, drain_s: float) -> None:
        await self._term.stop(drain_s=drain_s)

    @ray.method(concurrency_group="control")
    async def status(self) -> DispatcherStatus:
        return self._term.status

    @ray.method(concurrency_group="control")
    async def version(self) -> str:
        return build_id()

    def __repr__(self) -> str:
        return "Dispatcher"


@actor
class Alerts:
    """Sinks and delivers alert events."""

    def __init__(self, data_dir: Path) -> None:
        from actors.alerting import for_stack  # late: as in the worker

        read = partial(config.load_stack, data_dir)
        logs.set_up(json=True, secrets=config.secrets(read()))
        self._alerting = for_stack(read)
        self._alerting.start()

    @ray.method
    def wake(self) -> None:
        self._alerting.wake()

    def __repr__(self) -> str:
        return "Alerts"


def begin_term(data_dir: Path) -> Term:
    """Wire one Dispatcher: ledger, crew of Ray actors, metrics."""
    settings = config.load_stack(data_dir)
    logs.set_up(json=True, secrets=config.secrets(settings))
    space = runtime.namespace(data_dir)
    holder = f"{runtime.cluster_id()}/{space}/{os.getpid()}"
    database = Database(config.state_url(settings), application_name="trace-dispatcher")
    policy = config.LOCAL_RETRIES if settings.embedded_postgres else config.RETRIES
    timing = Timing(lease_s=settings.lease_s, leader_s=settings.leader_s, policy=policy)
    wake = asyncio.Event()
    crew = Crew(
        partial(spawn_worker, data_dir=data_dir, space=space),
        runtime.kill,
        size=settings.workers,
        slots=config.WORKER_SLOTS,
        silence_s=settings.lease_s,
        attempt_s=settings.range_timeout_s + settings.lease_s,
        build=build_id(),
        wake=wake,
    )
    keys = open_keys(
        settings.data_dir, pem=settings.token_keys, jwks_url=settings.jwks_url, issuer=settings.token_issuer
    )
    evaluations = Evaluations(keys.tasks.ring, lease_s=settings.lease_s, policy=policy)
    return Term(
        Core(database, holder=holder, timing=timing, build=build_id(), evaluations=evaluations),
        crew,
        evaluators=evaluators(data_dir, space, wake, lease_s=settings.lease_s),
        living=partial(runtime.workers, space),
        record=Metrics().record,
        upkeep=partial(sweep, settings),
    )


def evaluators(data_dir: Path, space: str, wake: asyncio.Event, *, lease_s: float) -> Evaluators:
    """Wire what alerts need: an evaluator for each node, which runs as many sandboxes as fit; the sink, deliveries."""
    crew = Crew(
        partial(spawn_evaluator, data_dir=data_dir, space=space),
        runtime.kill,
        size=1,
        slots=config.EVALUATOR_SLOTS,
        silence_s=lease_s,
        attempt_s=CAPS.wall_s + lease_s,
        build=build_id(),
        prefix=runtime.EVALUATOR_PREFIX,
        wake=wake,
    )
    return Evaluators(
        crew,
        begin=partial(runtime.ensure_alerts, Alerts, data_dir=data_dir),
        end=partial(runtime.end_alerts, space),
        places=partial(runtime.nodes, most=config.MAX_EVALUATORS),
    )


def spawn_evaluator(worker_id: WorkerId, *, data_dir: Path, space: str) -> WorkerHandle:
    options = runtime.worker_options(worker_id, space, slots=config.EVALUATOR_SLOTS)
    return runtime.create_worker(Evaluator, options, worker_id, data_dir)


def spawn_worker(worker_id: WorkerId, *, data_dir: Path, space: str) -> WorkerHandle:
    options = runtime.worker_options(worker_id, space, slots=config.WORKER_SLOTS)
    return runtime.create_worker(CryoWorker, options, worker_id, data_dir)


def sweep(settings: config.Settings) -> None:
    """Remove what lost attempts left behind."""
    from actors.sweeper import for_stack  # late: as in the worker

    for_stack(settings).sweep()


def query_application(data_dir: Path, *, embedded: bool) -> Any:
    """Return the Serve application of the query service: one replica, more while questions wait.

    A replica that is to go takes no more questions and lives until its last one is answered.
    """
    from ray import serve  # late: only `up` needs it, and it takes half a second
    from ray.serve.config import AutoscalingConfig, BackpressureConfig

    from query.pool import SIZE  # late: its engine is heavy

    def app() -> Any:
        return query_app(data_dir)

    @serve.deployment(
        name="QueryService",
        autoscaling_config=AutoscalingConfig(
            min_replicas=1,
            max_replicas=LOCAL_REPLICAS if embedded else REPLICAS,
            target_ongoing_requests=SIZE,  # beyond what one replica runs at once, another one starts
            upscale_delay_s=UPSCALE_S,
            look_back_period_s=LOOK_BACK_S,
            metrics_interval_s=REPORT_S,
        ),
        max_ongoing_requests=WAITING,
        max_queued_requests=HELD,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_S),
        max_surge_percent=SURGE_PERCENT,
        max_constructor_retry_count=STARTS,
        graceful_shutdown_timeout_s=LONGEST_S,
        ray_actor_options={"num_cpus": 0.1},
    )
    @serve.ingress(app)
    class QueryService:
        def __init__(self, _build: str) -> None:
            """Take the build: a new one makes Serve replace the replicas one after another."""

        def build(self) -> str:
            return build_id()

        async def relay(self, path: str, headers: dict[str, str], body: bytes) -> Relayed:
            return await relayed(self, path, headers, body)

    return QueryService.bind(build_id())


async def relayed(replica: Any, path: str, headers: dict[str, str], body: bytes) -> Relayed:
    """Answer what came by Ray as if it had come by HTTP: status, headers, body."""
    inside = httpx.ASGITransport(app=replica.app)  # a property that `serve.ingress` adds
    async with httpx.AsyncClient(transport=inside, base_url=INSIDE, timeout=None) as client:  # noqa: S113 - the app has limits of its own
        answer = await client.post(path, headers=headers | {"Accept-Encoding": "identity"}, content=body)
    return answer.status_code, dict(answer.headers), answer.content


def query_app(data_dir: Path) -> Any:
    """Make the app of one replica."""
    from actors.metrics import QueryMetrics
    from actors.questions import make_app  # late: no other actor needs it

    settings = config.load_stack(data_dir)
    logs.set_up(json=True, secrets=config.secrets(settings))
    return make_app(settings, build=build_id(), stack=runtime.namespace(data_dir), observe=QueryMetrics().record)
