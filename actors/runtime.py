"""Ray at the edge: joining a cluster, the options of every actor, and the crew of workers.

Everything that Ray can say (death, silence, names) is turned here into plain values for `actors.dispatcher`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (Ray's own types are partly unknown; what leaves this file is typed by `actors.handles`)

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import httpx
import ray
from ray.exceptions import (
    ActorUnavailableError,
    AuthenticationError,
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.handles import DispatcherHandle, WorkerHandle
from trace_ray.contracts import WorkerId
from trace_ray.errors import StackUnavailable

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
SERVE_ANSWER_S: Final = 10.0
SERVE_RUNNING: Final = "RUNNING"
DISPATCHER: Final = "dispatcher"
ALERTS: Final = "alerts"
WORKER_PREFIX: Final = "cryo/"
EVALUATOR_PREFIX: Final = "evaluator/"
ACTOR_DEATH: Final = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError)  # the last three stand alone
CONNECT_S: Final = 60.0  # longer than Ray's own 20 s for a wrong address
WORKER_CPUS: Final = 0.25  # decoding is CPU work, but a laptop's two cores must fit the whole pool


# --- the cluster --------------------------------------------------------------------------------------------------


def namespace(data_dir: Path) -> str:
    """Return the Ray namespace of the stack of a data directory: two stacks can share one cluster."""
    if data_dir == Path.home() / ".trace-ray":
        return "trace_ray"
    return "trace_ray_" + hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:8]


def connect(address: str, *, data_dir: Path) -> None:
    """Join a running cluster; harmless when this process has joined it already.

    Raises:
        StackUnavailable: no cluster answers at `address`.
    """
    if ray.is_initialized():
        return
    try:
        with _at_most(CONNECT_S):  # `ray.init` waits without end for a cluster whose node has died
            ray.init(
                address=address,
                namespace=namespace(data_dir),
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
    except (ConnectionError, RuntimeError, TimeoutError, AuthenticationError) as error:
        raise StackUnavailable(
            "the Ray cluster gives no answer: run `trace-ray up`, or mend RAY_ADDRESS and its token"
        ) from error


@contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """Raise TimeoutError in the main thread when the block takes longer; elsewhere it may take its time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def disconnect() -> None:
    ray.shutdown()


def cluster_id() -> str:
    """Return what tells one cluster from the next: its session, for two machines may use the same loopback address."""
    return str(ray.get_runtime_context().get_session_name())


# --- named actors -------------------------------------------------------------------------------------------------


def dispatcher_options(space: str) -> dict[str, object]:
    """One Dispatcher per namespace. Its methods are idempotent, so Ray may repeat them after a restart."""
    return {
        "name": DISPATCHER,
        "namespace": space,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": -1,
        "num_cpus": 0,
        **_placement("control", 0.01),
    }


def worker_options(worker_id: WorkerId, space: str, *, slots: int) -> dict[str, object]:
    """A worker never restarts and its calls are never repeated by Ray: attempts are counted in the ledger alone."""
    return {
        "name": worker_id,
        "namespace": space,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": slots,
        "num_cpus": WORKER_CPUS,
        "scheduling_strategy": "SPREAD",
    }


def create_worker(actor: Any, options: Mapping[str, object], worker_id: WorkerId, data_dir: Path) -> WorkerHandle:
    """Start a worker, or return the one of that name. `actor` is the class that `ray.remote` made."""
    return cast(WorkerHandle, actor.options(**options).remote(worker_id, data_dir))


def ensure_dispatcher(actor: Any, *, data_dir: Path) -> DispatcherHandle:
    """Return the running Dispatcher of a data directory's stack, or start it."""
    options = dispatcher_options(namespace(data_dir))
    return cast(DispatcherHandle, actor.options(**options).remote(data_dir))


def ensure_alerts(actor: Any, *, data_dir: Path) -> Callable[[], object]:
    """Start what sinks and delivers the alert events of a stack, unless it runs; return what wakes its sink."""
    space = namespace(data_dir)
    options = {"name": ALERTS, "namespace": space, "lifetime": "detached", "get_if_exists": True, "max_restarts": -1}
    return actor.options(**options, num_cpus=0).remote(data_dir).wake.remote


def end_alerts(space: str) -> None:
    """End it, if it runs. What it was at comes again: its leases expire."""
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(ALERTS, namespace=space), no_restart=True)


def _placement(resource: str, amount: float) -> dict[str, object]:
    """Ask for a custom resource only where some node offers it: a plain `ray start --head` has none."""
    return {"resources": {resource: amount}} if resource in ray.cluster_resources() else {}


def dispatcher(space: str) -> DispatcherHandle | None:
    """Return the Dispatcher that lives in a namespace, or None."""
    try:
        return cast(DispatcherHandle, ray.get_actor(DISPATCHER, namespace=space))
    except ValueError:
        return None


def workers(space: str) -> dict[WorkerId, WorkerHandle]:
    """Return the workers that live in a namespace. Their names are listed, never guessed."""
    found: dict[WorkerId, WorkerHandle] = {}
    listed = cast(Iterable[Mapping[str, str]], ray.util.list_named_actors(all_namespaces=True))
    for actor in listed:
        if actor["namespace"] == space and actor["name"].startswith((WORKER_PREFIX, EVALUATOR_PREFIX)):
            try:
                handle = ray.get_actor(actor["name"], namespace=space)
            except ValueError:  # it died since it was listed
                continue
            found[WorkerId(actor["name"])] = cast(WorkerHandle, handle)
    return found


def nodes(*, most: int) -> int:
    """Return on how many living nodes a worker has room, if nothing else ran there: 1 to `most`."""
    found = cast(Iterable[Mapping[str, Any]], ray.nodes())
    return max(1, min(most, sum(one["Alive"] and one["Resources"].get("CPU", 0.0) >= WORKER_CPUS for one in found)))


def kill(handle: DispatcherHandle | WorkerHandle) -> None:
    """End an actor at once and for good."""
    ray.kill(cast(Any, handle), no_restart=True)


def ask(call: Awaitable[Any], *, timeout_s: float) -> object:
    """Wait for the answer of an actor from synchronous code.

    Raises:
        StackUnavailable: it is gone or gave no answer in time.
    """
    try:
        return ray.get(cast(Any, call), timeout=timeout_s)
    except (*ACTOR_DEATH, GetTimeoutError, RayTaskError) as error:
        raise StackUnavailable("the Dispatcher gives no answer: run `trace-ray up`") from error


# --- waiting for one call -----------------------------------------------------------------------------------------


class WorkerDied(Exception):
    """The actor is gone for good."""


class WorkerSilent(Exception):
    """No answer now; whether the actor lives is unknown, so its leases stay until they expire."""


async def answer(call: Awaitable[Any], *, timeout_s: float | None = None) -> Any:
    """Await a call to a worker; Ray's many ways to say "dead" become one.

    Raises:
        WorkerDied, WorkerSilent
    """
    try:
        if timeout_s is None:
            return await call
        return await asyncio.wait_for(asyncio.ensure_future(_awaited(call)), timeout_s)
    except ActorUnavailableError as error:  # derives from RayActorError, but means "unknown"
        raise WorkerSilent from error
    except ACTOR_DEATH as error:
        raise WorkerDied from error
    except TimeoutError as error:
        raise WorkerSilent from error
    except RayTaskError as error:  # the method itself failed: what the worker still holds has to be asked for
        logger.exception("a worker's method failed")
        raise WorkerSilent from error


async def build_of(handle: WorkerHandle, *, timeout_s: float) -> str:
    """Return the build of a worker's code; one that is too old to know says "".

    Raises:
        WorkerDied, WorkerSilent
    """
    try:
        ask_build = handle.version
    except AttributeError:
        return ""
    return str(await answer(ask_build.remote(), timeout_s=timeout_s))


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


Spawn = Callable[[WorkerId], WorkerHandle]


def worker_name(index: int, generation: int, prefix: str = WORKER_PREFIX) -> WorkerId:
    """Return `cryo/<index>.<generation>`; a generation counts the replacements of one place in the pool."""
    return WorkerId(f"{prefix}{index}.{generation}")


def worker_place(worker_id: WorkerId) -> tuple[int, int]:
    """Return the index and generation of a worker's name."""
    index, generation = worker_id.partition("/")[2].split(".")
    return int(index), int(generation)


# --- queries over HTTP ----------------------------------------------------------------------------------------------
# One stack of a cluster serves them. When the code changes, new replicas start beside the old ones, which answer what
# they were asked before they go: no request is dropped.


def serve_queries(application: Any, *, space: str, port: int, build: str) -> None:
    """Serve the queries of a stack; replicas of another build are replaced while they answer.

    Raises:
        StackUnavailable: the port is taken, another stack of this cluster serves already, or this build does not start;
            then the one before goes on.
    """
    from ray import serve  # late: it takes two seconds, which most processes need not wait
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    if served_build(space) == build:
        return
    others = set(serve.status().applications) - {space}
    if others:
        raise StackUnavailable("another stack of this Ray cluster answers HTTP: give this one a cluster of its own")
    _quiet_serve()
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        if not serve.status().proxies:
            _check_free(port)
            serve.start(http_options=HTTPOptions(host=LOOPBACK, port=port), logging_config=quiet)
        serve.run(application, name=space, route_prefix="/", logging_config=quiet)
    except (OSError, RayError, RuntimeError) as error:
        if _said_build(space) is not None:
            raise StackUnavailable(
                "the queries of this build do not start, and the build before goes on answering: look at the replica's "
                "log in the Ray dashboard, then run `trace-ray up` again"
            ) from error
        if not serve.status().applications:
            serve.shutdown()  # a proxy without its port would try for ever
        raise StackUnavailable(
            f"no HTTP on port {port}: set TRACE_HTTP_PORT to a free port, then run `trace-ray up` again"
        ) from error


class QueryTransport(httpx.BaseTransport):
    """Carries requests to a replica of the query service on any node; a proxy is heard on its own node alone."""

    def __init__(self, space: str) -> None:
        from ray import serve  # now, and not while a handler waits for its first answer

        self._find = partial(serve.get_app_handle, space)
        self._handle: Any = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: httpx.TransportError: nothing answers."""
        from ray.serve.exceptions import RayServeException

        try:
            self._handle = self._handle or self._find()
            asked = self._handle.relay.remote(request.url.path, dict(request.headers), request.read())
            status, headers, body = asked.result(timeout_s=request.extensions["timeout"]["read"])
        except (RayError, RayServeException, TimeoutError) as error:
            self._handle = None
            raise httpx.ConnectError("the query service does not answer", request=request) from error
        return httpx.Response(status, headers=headers, content=body)


def end_queries(space: str, *, drain_s: float) -> bool:
    """End the queries of a stack; say whether they were served. Questions that run get `drain_s` to be answered."""
    from ray import serve  # late: it takes two seconds, which most processes need not wait

    if space not in serve.status().applications:
        return False
    _quiet_serve()
    serve.delete(space, _blocking=False)
    give_up = time.monotonic() + drain_s
    while space in serve.status().applications and time.monotonic() < give_up:
        time.sleep(0.1)
    return True


def leave_serve(space: str) -> None:
    """Take Serve off a cluster that ends, or goes on without this stack; unless others are served there."""
    from ray import serve  # late: it takes two seconds, which most processes need not wait

    if not set(serve.status().applications) - {space}:
        serve.shutdown()


def served_build(space: str) -> str | None:
    """Return the build of the code that answers now; None when nothing does."""
    from ray import serve  # late: it takes two seconds, which most processes need not wait

    found = serve.status().applications.get(space)
    return _said_build(space) if found is not None and found.status == SERVE_RUNNING else None


def _said_build(space: str) -> str | None:
    """Ask whichever replica answers, also one that a failed replacement left in place."""
    from ray import serve  # late: it takes two seconds, which most processes need not wait
    from ray.serve.exceptions import RayServeException

    try:
        return str(serve.get_app_handle(space).build.remote().result(timeout_s=SERVE_ANSWER_S))
    except (RayError, RayServeException, TimeoutError):
        return None


def _quiet_serve() -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its news would come between our lines


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
