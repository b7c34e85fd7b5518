"""The Ray cluster under a local stack: found, or started as children of our own with token authentication.

Must not import Ray: Ray reads its authentication mode when it is imported, so the mode is decided here first.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from trace_ray import config
from trace_ray.config import Settings
from trace_ray.errors import StackUnavailable

START_S: Final = 90.0  # a cold start on a loaded laptop took 20 s
STOP_S: Final = 15.0
CLOCK_STEP_S: Final = 60.0  # start times are told by the wall clock, which may be set meanwhile
DASHBOARD_PORT: Final = 8265  # where people expect it; another one when it is taken
OBJECT_STORE_BYTES: Final = 200 * 1024**2  # Parquet never passes through Ray, only small values do
ALONE: Final = "local"  # RAY_ADDRESS=local: never join a cluster that runs already, as in `ray.init`
TOKEN_VARIABLES: Final = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """The cluster that `up` started: its supervising process and where it answers."""

    pid: int
    started: float
    address: str
    dashboard: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to join. `own` is None when somebody else started it; then it is never stopped."""

    address: str
    dashboard: str | None
    own: OwnCluster | None


def find(settings: Settings) -> Cluster | None:
    """Return the cluster that this stack uses and put its token into the environment; None when none runs.

    In this order: the one that `up` started, the one that RAY_ADDRESS names, the one that `up` joined before, and any
    other that this user runs.
    """
    own = _read_own(settings.data_dir)
    if own is not None:
        config.enter_ray(_token_variables(settings.data_dir))
        return Cluster(own.address, own.dashboard, own)
    if settings.ray_address == ALONE:
        return None
    if settings.ray_address:
        config.enter_ray({})
        return Cluster(settings.ray_address, None, None)
    foreign = _foreign()
    before = _read_joined(settings.data_dir)
    address = before if before in foreign else next(iter(foreign), None)
    if address is None:
        return None
    config.enter_ray(foreign[address])
    return Cluster(address, None, None)


def joined(settings: Settings, cluster: Cluster) -> None:
    """Remember a joined cluster, so that later commands find this stack there and not on another one."""
    if cluster.own is None:
        _joined_file(settings.data_dir).write_text(cluster.address)


def start(settings: Settings) -> Cluster:
    """Start a cluster of one node and return when it answers.

    Raises:
        StackUnavailable: with the last word of `ray start`.
    """
    _make_token(settings.data_dir)
    variables = _token_variables(settings.data_dir)
    log = settings.data_dir / "ray.log"
    port, dashboard_port = _free_port(), DASHBOARD_PORT if _is_free(DASHBOARD_PORT) else _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(port, dashboard_port),
            env=config.child_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_start(process, log)
    except BaseException:  # also Ctrl-C: nobody would know of the cluster
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    own = OwnCluster(
        process.pid,
        psutil.Process(process.pid).create_time(),
        f"127.0.0.1:{port}",
        f"http://127.0.0.1:{dashboard_port}",
    )
    making = settings.data_dir / "ray.json.making"  # renamed when complete
    making.write_text(json.dumps(asdict(own)))
    making.rename(_file(settings.data_dir))
    config.enter_ray(variables)
    return Cluster(own.address, own.dashboard, own)


def stop(data_dir: Path) -> bool:
    """Stop the cluster that `up` started, by pid. False when there is none."""
    own = _read_own(data_dir)
    if own is None:
        return False
    supervisor = psutil.Process(own.pid)
    family = [*supervisor.children(recursive=True), supervisor]
    supervisor.send_signal(signal.SIGTERM)
    _kill(_wait_for_end(family))
    if _wait_for_end(family):
        raise StackUnavailable(f"Ray (process {own.pid}) does not end: end it by hand, then run `trace-ray down` again")
    _file(data_dir).unlink(missing_ok=True)
    return True


def token_file(data_dir: Path) -> Path:
    """Return where the token of our own cluster lies."""
    return data_dir / "ray.token"


def _wait_for_end(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return what still works after a while. A dead process that nobody collects, as in some containers, has ended."""
    give_up = time.monotonic() + STOP_S
    while (alive := [process for process in family if _works(process)]) and time.monotonic() < give_up:
        time.sleep(0.1)
    return alive


def _kill(family: Sequence[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):  # it has ended since it was looked at
            process.kill()


def _works(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- our own cluster ----------------------------------------------------------------------------------------------


def _command(port: int, dashboard_port: int) -> list[str]:
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": _free_port(),
        "ray-client-server-port": _free_port(),
        "object-store-memory": OBJECT_STORE_BYTES,
        "resources": json.dumps({"control": 1}),
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        *arguments,
    ]


def _wait_for_start(process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_S
    while b"Ray runtime started" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > give_up:
            raise StackUnavailable(f"Ray did not start: read {log}, then run `trace-ray up` again")
        time.sleep(0.1)


def _read_own(data_dir: Path) -> OwnCluster | None:
    try:
        own = OwnCluster(**json.loads(_file(data_dir).read_text()))
        process = psutil.Process(own.pid)
        same = abs(process.create_time() - own.started) < CLOCK_STEP_S and "ray" in " ".join(process.cmdline())
    except (OSError, ValueError, TypeError, psutil.Error):  # no file, half a file, or no such process
        return None
    return own if same and _works(process) else None


def _file(data_dir: Path) -> Path:
    return data_dir / "ray.json"


def _read_joined(data_dir: Path) -> str | None:
    try:
        return _joined_file(data_dir).read_text().strip()
    except FileNotFoundError:
        return None


def _joined_file(data_dir: Path) -> Path:
    return data_dir / "ray.joined"


def _make_token(data_dir: Path) -> None:
    path = token_file(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))


def _token_variables(data_dir: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(data_dir))}


# --- somebody else's ----------------------------------------------------------------------------------------------


def _foreign() -> dict[str, dict[str, str]]:
    """Return each `ray start --head` of this user: its address, and how it authenticates. Without a node it is dead."""
    found: dict[str, dict[str, str]] = {}
    for process in psutil.process_iter(["name", "uids"]):
        if process.info["name"] != "gcs_server" or process.info["uids"].real != os.getuid():
            continue
        try:
            arguments = _options(process.cmdline())
            environ = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "gcs_server_port" in arguments and _has_node(arguments.get("session-name", "")):
            address = f"{arguments['node-ip-address']}:{arguments['gcs_server_port']}"
            found[address] = {name: environ[name] for name in TOKEN_VARIABLES if name in environ}
    return found


def _has_node(session: str) -> bool:
    return any(
        process.info["name"] == "raylet" and session in " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["name", "cmdline"])
    )


def _options(command: list[str]) -> Mapping[str, str]:
    parts = (argument.removeprefix("--").partition("=") for argument in command if argument.startswith("--"))
    return {name: value for name, _, value in parts}


# --- ports --------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
