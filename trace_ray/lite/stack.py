"""The local stack: `up` starts what is missing, `down` stops what `up` started. Both can be repeated at any moment.

A stack belongs to one data directory. Postgres and Ray may be somebody else's (a database URL, a running cluster): then
they are joined and never stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import httpx

from actors import remote, runtime
from actors.sweeper import for_stack
from actors.term import DispatcherStatus
from state import migrate
from trace_ray import config
from trace_ray.build import build_id
from trace_ray.config import Settings
from trace_ray.errors import StackUnavailable, StoreUnavailable
from trace_ray.lite import devnet, ray_cluster
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.lite.ray_cluster import Cluster

DISPATCHER_START_S: Final = 60.0
DRAIN_S: Final = 10.0  # running ranges and questions get this long to finish; ranges that are cut off come again
ANSWER_S: Final = 10.0
NO_HTTP: Final = 0  # what TRACE_HTTP_PORT says on a machine that only syncs
DATABASE: Final = "trace_ray"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Where the parts of a running stack are, for people."""

    postgres: str
    ray: str
    dashboard: str | None
    dispatcher: DispatcherStatus
    http: str | None


def up(settings: Settings, cluster: Cluster, say: Say, *, moved_store: bool = False) -> StackStatus:
    """Start what is missing and return when the Dispatcher leads. The caller holds the lock of the data directory.

    `moved_store`: the published objects were copied to where TRACE_OBJECT_STORE points now.

    Raises:
        StackUnavailable, DatabaseUnavailable, SchemaAhead, RefusedInput: each says what to do.
    """
    settings, postgres = start_postgres(settings)
    runtime.connect(cluster.address, data_dir=settings.data_dir)
    _drain_other_build(settings, say)
    _migrate(settings, say)
    try:
        for_stack(settings).claim_store(settings.object_store, moved=moved_store)
    except StoreUnavailable as error:
        say(f"Note: {error}")  # ranges wait for it, and nothing else does
    config.save_stack(settings)
    ray_cluster.joined(settings, cluster)
    status = _wait_until_leading(_fresh_dispatcher(settings.data_dir))
    http = _serve_queries(settings, say)
    runtime.disconnect()  # what follows needs only the ledger, and Ray would print its own news into our output
    return StackStatus(postgres, cluster.address, cluster.dashboard, status, http)


def down(settings: Settings, cluster: Cluster | None, say: Say) -> None:
    """Let running ranges finish, then stop the Dispatcher, the workers, and what `up` started. Loses nothing.

    The caller holds the lock of the data directory; `say` hears of each part that stopped.
    """
    if cluster is not None:
        try:
            runtime.connect(cluster.address, data_dir=settings.data_dir)
            _stop_actors(settings.data_dir, say)
            if settings.http_port != NO_HTTP or cluster.own is None:
                _stop_queries(settings.data_dir, say)
        except StackUnavailable as error:
            say(f"The actors could not be asked to stop: {error}")
        runtime.disconnect()
    if ray_cluster.stop(settings.data_dir):
        say("Ray stopped")
    server = LocalPostgres(settings.data_dir)
    if server.running():
        server.stop()
        say("Postgres stopped")
    if devnet.stop_detached(settings.data_dir):
        say("The demo's devnet stopped; its chain is gone, what was published stays")


def _serve_queries(settings: Settings, say: Say) -> str | None:
    """Serve queries over HTTP and return where; a sync needs none, so a taken port is told and not fatal."""
    if settings.http_port == NO_HTTP:
        return None
    space, url = runtime.namespace(settings.data_dir), f"http://{runtime.LOOPBACK}:{settings.http_port}"
    if _answers(url, space):
        return url
    application = remote.query_application(settings.data_dir, embedded=settings.embedded_postgres)
    try:
        runtime.serve_queries(application, space=space, port=settings.http_port, build=build_id())
    except StackUnavailable as error:
        say(f"Note: {error}")
        return None
    return url


def _answers(url: str, space: str) -> bool:
    """Say whether this build of this stack serves queries already."""
    try:
        found: object = httpx.get(f"{url}/healthz", timeout=ANSWER_S, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return False
    return found == {"status": "ok", "build": build_id(), "stack": space}


def start_postgres(settings: Settings) -> tuple[Settings, str]:
    """Return settings with both database URLs filled in, and a word on where Postgres is."""
    where = "the configured database"
    if settings.embedded_postgres:
        server = LocalPostgres(settings.data_dir)
        server.start()
        server.ensure_database(DATABASE)
        url = server.url(DATABASE)
        settings = replace(settings, state_database_url=url, data_database_url=url)
        where = "embedded"
    return settings, where


def runs_other_build(settings: Settings, cluster: Cluster) -> bool:
    """Say whether the Dispatcher of this stack runs the code of another build than this process.

    Raises:
        StackUnavailable: the cluster or the Dispatcher gives no answer.
    """
    runtime.connect(cluster.address, data_dir=settings.data_dir)
    handle = runtime.dispatcher(runtime.namespace(settings.data_dir))
    return handle is not None and _build(handle) != build_id()


def _drain_other_build(settings: Settings, say: Say) -> None:
    """Let a Dispatcher of another build finish what runs and end it; this build's takes its place.

    It commits with its own code on its own schema: only then may the database be migrated.
    """
    space = runtime.namespace(settings.data_dir)
    handle = runtime.dispatcher(space)
    if handle is None or (build := _build(handle)) == build_id():
        return
    say(f"The Dispatcher is of build {build or '(too old to say)'}: its ranges finish, then {build_id()} goes on")
    _stop_dispatcher(handle, space, drain_s=settings.range_timeout_s, say=say)


def _migrate(settings: Settings, say: Say) -> None:
    """Bring the ledgers to the schema of this code.

    Raises:
        StackUnavailable: a Dispatcher elsewhere leads with other code, under which the schema must not change.
    """
    url = config.state_url(settings)
    applied: list[str] = []
    if migrate.pending(url):
        _wait_for_other_leader(url)
        applied += migrate.migrate(url)
    applied += migrate.migrate(config.data_url(settings), "data")  # no Dispatcher writes there: nobody to wait for
    if applied:
        say(f"Database migrated: {len(applied)} step{'s' if len(applied) > 1 else ''}")


def _wait_for_other_leader(url: str) -> None:
    """Return when no Dispatcher of another build leads. Raises StackUnavailable."""
    give_up = time.monotonic() + config.LEADER_S + ANSWER_S  # one that was killed leads until its term ends
    while (holder := migrate.foreign_leader(url, build_id())) is not None:
        if time.monotonic() > give_up:
            raise StackUnavailable(
                f"the database has to be migrated, and a Dispatcher of another build leads on {holder}: "
                "run `trace-ray down` there, or upgrade it first"
            )
        time.sleep(0.5)


def dispatcher_status(settings: Settings, cluster: Cluster) -> DispatcherStatus | None:
    """Return what the Dispatcher says of itself; None when it does not run.

    Raises:
        StackUnavailable: the cluster or the Dispatcher gives no answer.
    """
    runtime.connect(cluster.address, data_dir=settings.data_dir)
    handle = runtime.dispatcher(runtime.namespace(settings.data_dir))
    return None if handle is None else _status(handle)


def _fresh_dispatcher(data_dir: Path) -> runtime.DispatcherHandle:
    """Return the running Dispatcher, or a new one; one that was stopped by an interrupted `down` makes way."""
    handle = runtime.ensure_dispatcher(remote.Dispatcher, data_dir=data_dir)
    if not _status(handle, timeout_s=DISPATCHER_START_S).stopped:
        return handle
    _kill_dispatcher(handle, runtime.namespace(data_dir))
    return runtime.ensure_dispatcher(remote.Dispatcher, data_dir=data_dir)


def _wait_until_leading(handle: runtime.DispatcherHandle) -> DispatcherStatus:
    give_up = time.monotonic() + DISPATCHER_START_S
    while True:
        status = _status(handle, timeout_s=DISPATCHER_START_S)
        if status.leading and status.ticks:
            return status
        if time.monotonic() > give_up:
            reason = f": {status.last_error}" if status.last_error else ""
            raise StackUnavailable(f"the Dispatcher does not lead after {DISPATCHER_START_S:.0f} s{reason}")
        time.sleep(0.1)


def _status(handle: runtime.DispatcherHandle, *, timeout_s: float = ANSWER_S) -> DispatcherStatus:
    return cast(DispatcherStatus, runtime.ask(handle.status.remote(), timeout_s=timeout_s))


def _build(handle: runtime.DispatcherHandle) -> str:
    """Return the build of a Dispatcher's code; one that is too old to know says ""."""
    try:
        ask_build = handle.version
    except AttributeError:
        return ""
    return str(runtime.ask(ask_build.remote(), timeout_s=DISPATCHER_START_S))


def _stop_actors(data_dir: Path, say: Say) -> None:
    space = runtime.namespace(data_dir)
    handle = runtime.dispatcher(space)
    if handle is not None:
        _stop_dispatcher(handle, space, drain_s=DRAIN_S, say=say)
        say("Dispatcher and workers stopped")
    for worker in runtime.workers(space).values():
        runtime.kill(worker)


def _stop_queries(data_dir: Path, say: Say) -> None:
    """Stop answering, and take Serve off the cluster: one that is to end waits for what is left of Serve, in vain."""
    space = runtime.namespace(data_dir)
    if not runtime.end_queries(space, drain_s=DRAIN_S):
        return
    runtime.leave_serve(space)
    say("Query service stopped")


def _stop_dispatcher(handle: runtime.DispatcherHandle, space: str, *, drain_s: float, say: Say) -> None:
    """Let a Dispatcher drain, end it, and return when its name is free."""
    try:
        runtime.ask(handle.stop.remote(drain_s), timeout_s=drain_s + ANSWER_S)
    except StackUnavailable as error:
        say(f"The Dispatcher was killed, its ranges go on at the next start ({error})")
    _kill_dispatcher(handle, space)


def _kill_dispatcher(handle: runtime.DispatcherHandle, space: str) -> None:
    runtime.kill(handle)
    give_up = time.monotonic() + ANSWER_S
    while runtime.dispatcher(space) is not None and time.monotonic() < give_up:
        time.sleep(0.1)
