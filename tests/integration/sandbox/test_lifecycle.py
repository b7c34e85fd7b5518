"""What happens around an invocation: lost leases, killed supervisors, busy machines, several at once."""

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from actors.sandbox import cgroup, session, slots
from actors.sandbox import limits as caps
from actors.sandbox import supervisor as supervising
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.invoker import QueryAnswer, QueryCall, RuntimeInvoker
from actors.sandbox.landlock import Landlock
from actors.sandbox.launch import Order
from actors.sandbox.spawner import Command, Spawner
from actors.sandbox.supervisor import Supervisor
from tests.conftest import REPOSITORY, wait_until
from tests.integration.sandbox import arena
from trace_ray.alerts import OutcomeKind


def never() -> bool:
    return False


@pytest.mark.parametrize("name", ["sleep_forever", "init_hang", "query_broken"])
def test_lost_lease_kills_at_once_and_publishes_nothing(ours: RuntimeInvoker, bundles: Path, name: str) -> None:
    """While it computes, while it is imported, and while a question is on its way."""
    function = f"f-{uuid4().hex}"
    order = arena.invocation(arena.bundle(name, bundles), {"sql": "select slow"}, function=function)
    lost = threading.Event()
    threading.Timer(0.4, lost.set).start()
    result = ours.invoke(order, arena.Asker(), lost.is_set)
    assert (result.outcome, result.response, result.events) == (OutcomeKind.LOST_LEASE, b"", ())
    assert result.usage["wall_s"] is not None
    assert result.usage["wall_s"] < order.limits.wall_s
    assert arena.survivors(function) == []


def test_lease_lost_while_all_are_busy_starts_nothing(bundles: Path) -> None:
    none_free = arena.supervisor()
    none_free._slots = arena.Slots(1, first=arena.SLOTS + 1)
    slot = none_free._slots.take()
    assert slot is not None
    order = arena.invocation(arena.bundle("ok_baseline", bundles), {}, function="f")
    assert none_free.invoke(order, arena.Asker(), lambda: True).outcome is OutcomeKind.LOST_LEASE
    slot.release()


def test_busy_machine_says_so(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "SLOT_S", 0.1)
    none_free = arena.supervisor()
    none_free._slots = arena.Slots(1, first=arena.SLOTS + 2)
    slot = none_free._slots.take()
    assert slot is not None
    order = arena.invocation(arena.bundle("ok_baseline", bundles), {}, function="f")
    result = none_free.invoke(order, arena.Asker(), never)
    assert (result.outcome, "are busy" in result.detail) == (OutcomeKind.SANDBOX_UNAVAILABLE, True)
    slot.release()
    assert none_free.invoke(order, arena.Asker(), never).outcome is OutcomeKind.OK


@pytest.mark.parametrize(("backend", "first"), [(Bubblewrap, "init"), (Landlock, "enter")])
def test_nothing_but_the_handler_is_compiled_in_a_sandbox(
    bundles: Path, backend: type[Bubblewrap | Landlock], first: str
) -> None:
    """What runs before it is there as bytecode, which names no path of the host; ours is not compared with a source."""
    invoker = arena.supervisor(backend(arena.open_tree(), arena.groups(), Spawner()))
    result = arena.run(invoker, arena.bundle("frames", bundles), {})
    told = json.loads(result.response)
    own = [f"/opt/trace_ray/{name}.py" for name in ("bootstrap", first)]
    assert [Path(path).name for path in told["files"][:1]] == ["main.py"]
    assert list(dict.fromkeys(told["files"][1:])) == own
    assert (told["compiled"][0], len(told["compiled"])) == ("01000000", 2)


def test_many_at_once_do_not_meet(ours: RuntimeInvoker, bundles: Path) -> None:
    bundle = arena.bundle("lambda_payload", bundles)

    def one(number: int) -> object:
        order = arena.invocation(bundle, {"n": number}, function=f"f{number}")
        return json.loads(ours.invoke(order, arena.Asker(), never).response)[1]

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(one, range(18))) == [{"n": number} for number in range(18)]


def test_several_queries_at_once(ours: RuntimeInvoker, bundles: Path) -> None:
    """Each answer reaches the question that it belongs to."""

    def ask(call: QueryCall) -> QueryAnswer:
        time.sleep(0.02 * (int(call.sql) % 3))
        document = {"columns": [{"name": "n", "type": "INTEGER"}], "rows": [[int(call.sql)]]}
        return QueryAnswer(200, "application/json", json.dumps(document).encode())

    order = arena.invocation(arena.bundle("js_queries", bundles), {}, function="f")
    result = ours.invoke(order, ask, never)
    assert result.outcome is OutcomeKind.OK, result
    assert json.loads(result.response) == list(range(24))


def test_slow_body_of_a_result_is_a_broken_protocol(
    ours: RuntimeInvoker, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caps, "BODY_S", 0.5)
    result = arena.run(ours, arena.bundle("slow_body", bundles), {})
    assert (result.outcome, "body of its result" in result.detail) == ("protocol_error", True)


def test_no_memory_is_kept_for_many_open_bodies(
    ours: RuntimeInvoker, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen connections, each with a body below its own cap."""
    result = arena.run(ours, arena.bundle("many_bodies", bundles), {}, event_bytes=4 << 20, response=1 << 20)
    assert (result.outcome, result.detail) == ("output_limit", "it sends too much at once")


def test_seventeenth_connection_is_not_taken(
    ours: RuntimeInvoker, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now: list[int] = []
    accept = session.Session._accept

    def counted(self: session.Session, listener: socket.socket) -> None:
        accept(self, listener)
        open_now.append(len(self._connections))

    monkeypatch.setattr(session.Session, "_accept", counted)
    arena.run(ours, arena.bundle("slowloris_conns", bundles), {}, wall_s=1.0)
    assert max(open_now) == caps.CONNECTIONS


def test_log_keeps_its_end(ours: RuntimeInvoker, bundles: Path) -> None:
    result = arena.run(ours, arena.bundle("long_log", bundles), {})
    assert len(result.log) <= caps.LOG_TAIL
    assert result.log.endswith("line 2999\nthe end\n")
    assert session.LOG_KEEP > caps.LOG_TAIL


@pytest.mark.parametrize("change", [{"directory": "/nonexistent"}, {"language": "perl"}, {"language": "wasm"}])
def test_what_cannot_start_says_so(ours: RuntimeInvoker, bundles: Path, change: dict[str, str]) -> None:
    order = arena.invocation(arena.bundle("ok_baseline", bundles), {}, function="f")
    result = ours.invoke(dataclasses.replace(order, **change), arena.Asker(), never)
    assert result.outcome is OutcomeKind.SANDBOX_UNAVAILABLE
    assert result.detail
    assert "/" not in result.detail


def test_bundle_that_its_sandbox_cannot_reach_says_so(ours: RuntimeInvoker, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    order = arena.invocation(arena.bundle("ok_baseline", closed), {}, function="f")
    result = ours.invoke(order, arena.Asker(), never)
    if arena.groups() is None:  # sandboxes have our own uid then
        assert result.outcome is OutcomeKind.OK
    else:
        assert (result.outcome, "chmod o+x" in result.detail) == (OutcomeKind.SANDBOX_UNAVAILABLE, True)


@pytest.mark.parametrize(
    "entrypoint", ["main", "main.missing", "none.handler", "main.handler.x", "", "../main.handler"]
)
def test_wrong_entrypoint_is_an_init_error(ours: RuntimeInvoker, bundles: Path, entrypoint: str) -> None:
    order = arena.invocation(arena.bundle("ok_baseline", bundles), {}, function="f")
    result = ours.invoke(dataclasses.replace(order, entrypoint=entrypoint), arena.Asker(), never)
    assert result.outcome is OutcomeKind.INIT_ERROR


def test_killed_supervisor_takes_its_sandboxes_along(bundles: Path) -> None:
    """kill -9, while a handler that ignores every signal has a daemon of its own; the next one removes the group."""
    function = f"f-{uuid4().hex}"
    script = f"""
from pathlib import Path
from tests.integration.sandbox import arena
order = arena.invocation(Path({str(arena.bundle("ignore_sigterm_daemonize", bundles))!r}), {{}}, function={function!r})
arena.supervisor().invoke(order, arena.Asker(), lambda: False)
"""
    child = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."})
    wait_until(lambda: len(arena.carrying(function.encode())) >= 3, what="the sandbox")
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    assert arena.survivors(function) == []
    if (groups := arena.groups()) is not None:
        assert left_groups(child.pid)
        groups.sweep()
        assert left_groups(child.pid) == []


@pytest.mark.parametrize("backend", [Bubblewrap, Landlock])
def test_every_process_of_a_sandbox_has_a_uid_of_its_own(backend: type[Bubblewrap | Landlock], bundles: Path) -> None:
    """Seen from the host, and inside its control group; two at once have two uids."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a sandbox another uid")
    functions = [f"f-{uuid4().hex}" for _ in range(2)]
    over = threading.Event()
    invoker = arena.supervisor(backend(arena.open_tree(), arena.groups(), Spawner()))
    bundle = arena.bundle("sleep_forever", bundles)
    with ThreadPoolExecutor(2) as threads:
        orders = [arena.invocation(bundle, {}, function=function) for function in functions]
        running = [threads.submit(invoker.invoke, order, arena.Asker(), over.is_set) for order in orders]
        wait_until(lambda: all(inner(function) for function in functions), what="both sandboxes")
        uids = [{Path(f"/proc/{pid}").stat().st_uid for pid in inner(function)} for function in functions]
        groups = [Path(f"/proc/{inner(function)[-1]}/cgroup").read_text() for function in functions]
        over.set()
        assert [done.result().outcome for done in running] == [OutcomeKind.LOST_LEASE] * 2
    assert [len(found) for found in uids] == [1, 1]
    assert uids[0] != uids[1]
    assert min(uids[0] | uids[1]) >= slots.FIRST_UID
    assert all(cgroup.PREFIX in group for group in groups)


class Careless(Spawner):
    """Lets the environment and a descriptor of this process through."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self._held = held

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        environment = {**command.environment, "AWS_SECRET_ACCESS_KEY": arena.CANARY}
        return super().start(dataclasses.replace(command, keep=(*command.keep, self._held), environment=environment))


def test_sandbox_closes_and_clears_what_its_start_lets_through(bundles: Path) -> None:
    with Path(__file__).open() as held:
        invoker = arena.supervisor(Bubblewrap(arena.open_tree(), arena.groups(), Careless(held.fileno())))
        environment = json.loads(arena.run(invoker, arena.bundle("env_secrets", bundles), {}).response)["environment"]
        above = json.loads(arena.run(invoker, arena.bundle("fd_leak", bundles), {}).response)["above"]
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert len(above) == 1


def test_sandbox_outlives_the_thread_that_asked_for_it(bundles: Path) -> None:
    """The kernel ties a child's death to the thread that made it: that must not be a caller's."""
    backend = Bubblewrap(arena.open_tree(), arena.groups(), Spawner())
    slot = arena.Slots(1, first=arena.SLOTS + 3).take()
    assert slot is not None
    order = Order(slot, "python", str(arena.bundle("sleep_forever", bundles)), arena.LIMITS, {"_HANDLER": "-"})
    with ThreadPoolExecutor(1) as threads:
        launched = threads.submit(backend.start, order).result()
    try:
        waiting = select.poll()
        waiting.register(launched.log, select.POLLIN)  # its bootstrap complains of its environment, and ends
        assert waiting.poll(10_000)
        assert b"Traceback" in os.read(launched.log, 65536)
    finally:
        launched.close()
        slot.release()


def inner(function: str) -> list[int]:
    """Return the processes of an invocation behind all its walls."""
    found: list[int] = []
    for pid in arena.carrying(function.encode()):
        with contextlib.suppress(OSError):
            if "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text():
                found.append(pid)
    return found


def left_groups(pid: int) -> list[Path]:
    mark = f"{cgroup.PREFIX}{pid}-"
    mounted = [
        Path(line.split(" ")[1]) for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup" in line
    ]
    walks = (os.walk(mount) for mount in mounted)  # which minds no directory that vanishes meanwhile
    return [Path(at) / name for walk in walks for at, names, _ in walk for name in names if name.startswith(mark)]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_after_many(ours: Supervisor, bundles: Path) -> None:
    """No descriptor, group, process or thread more than before."""
    order = arena.invocation(arena.bundle("ok_baseline", bundles), {}, function="f-leak")
    for _ in range(4):
        ours.invoke(order, arena.Asker(), never)
    wait_until(lambda: left_groups(os.getpid()) == [], what="the first sandboxes to be cleared away")
    before = (open_files(), threading.active_count())
    for _ in range(10):
        assert ours.invoke(order, arena.Asker(), never).outcome is OutcomeKind.OK
    wait_until(lambda: left_groups(os.getpid()) == [], what="the last sandbox to be cleared away")
    wait_until(lambda: open_files() <= before[0], what="descriptors to be closed")
    wait_until(lambda: threading.active_count() <= before[1], what="threads to end")
    assert arena.survivors("f-leak") == []
