"""The child process alone: what it gives up is gone, its limits hold, and its end harms nobody."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from query import confine, run, spawn
from query.question import Limits, Question
from query.refusals import QueryFailed, WorkerCrashed
from tests.integration.query.conftest import Store
from tests.integration.query.prey import REPOSITORY
from trace_ray.contracts import Grant

UNGUARDED = (
    "import sys; sys.path[:] = sys.argv[1:]; from query import gate, zygote; from query.verdict import Verdict; "
    "gate.validate_sql = lambda sql, relations: Verdict(frozenset(), frozenset(), {}); zygote.main()"
)

pytestmark = pytest.mark.skipif(
    confine.landlock_abi() < 4, reason="this kernel has no Landlock with TCP rules (Linux 6.7)"
)


# --- the child ----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_gate(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Children that accept every statement. No relation is bound, so only literals can be asked."""
    monkeypatch.setattr(spawn, "BOOT", UNGUARDED)
    return store


@pytest.mark.parametrize(
    "sql",
    [
        "select like_escape(repeat('a', 1000000), repeat('%a', 100000) || 'b', 'x')",
        "select repeat('a', 1000000) ilike repeat('%a', 100000) || 'b' escape 'x'",
        "select json_structure(repeat('[', 1000000) || repeat(']', 1000000))",
    ],
)
def test_crash_of_the_engine_ends_one_child_only(without_gate: Store, sql: str) -> None:
    """The design note's section 6; should the engine stop crashing here, its denials may be lifted."""
    with pytest.raises(WorkerCrashed):
        without_gate.ask(sql)
    assert without_gate.ask("select 1 as one").table.to_pylist() == [{"one": 1}]
    assert list(without_gate.scratch.iterdir()) == []


def test_child_sees_no_environment_no_descriptor_and_no_argument(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parent holds secrets in its environment, an inheritable file and a socket; the child has none of them."""
    report = tmp_path / "seen.json"
    spy = f"""
import sys, os, json; sys.path[:] = sys.argv[1:]
from query import worker, zygote
main = worker.main
def spied(*given, **named):
    seen = {{'environment': dict(os.environ), 'arguments': sys.orig_argv,
            'descriptors': [os.readlink(p) for n in range(64) if os.path.lexists(p := f'/proc/self/fd/{{n}}')]}}
    open({str(report)!r}, 'w').write(json.dumps(seen))
    main(*given, **named)
worker.main = spied
zygote.main()
"""
    monkeypatch.setattr(spawn, "BOOT", spy)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("TRACE_STATE_DATABASE_URL", "postgresql://u:hunter2@localhost/state")
    held = (tmp_path / "held").open("w")
    os.set_inheritable(held.fileno(), True)
    with held, socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        store.ask("select 1")
    seen = json.loads(report.read_text())
    assert set(seen["environment"]) == {*spawn.ENVIRONMENT, "LC_CTYPE"} & set(seen["environment"])
    assert "hunter2" not in json.dumps(seen)
    kinds = sorted(target.partition(":")[0] for target in seen["descriptors"])
    assert [kind for kind in kinds if kind not in {"/dev/null", "socket"} and not kind.startswith("/proc/")] == []
    assert kinds.count("socket") == 1
    assert not any("select 1" in argument for argument in seen["arguments"])


def test_landlock_binds_threads_files_and_ports(tmp_path: Path) -> None:
    """What `enter` gives up is gone, and a second call can only shrink what is left."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "spill").mkdir()
    script = """
import os, socket, sys
from pathlib import Path
from query.confine import Territory, enter
base, port = Path(sys.argv[1]), int(sys.argv[2])
def tries(action):
    try: action(); return "yes"
    except OSError as error: return type(error).__name__
def connect():
    with socket.socket() as client: client.connect(("127.0.0.1", port))
enter(Territory(read=(base / "a", base / "b", base / "nosuch"), write=base / "spill", port=port))
print(tries((base / "a").read_text), tries((base / "b").read_text), tries(connect))
print(tries(lambda: (base / "spill" / "x").write_text("x")), tries(lambda: (base / "a").write_text("x")))
print(tries(lambda: os.execv("/bin/true", ["true"])), tries(lambda: (base / "c").write_text("x")))
print(tries(lambda: (base / "a").unlink()), tries(lambda: Path("/etc/passwd").read_text()))
print(tries(lambda: (base / "a").open("r+b").close()))
enter(Territory(read=(base / "a",), write=base / "spill"))
print(tries((base / "a").read_text), tries((base / "b").read_text), tries(connect))
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), str(listener.getsockname()[1])],
            capture_output=True, text=True, check=True, timeout=30, env={"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    refused = "PermissionError"
    assert done.stdout.split() == [
        "yes", "yes", "yes",
        "yes", refused,
        refused, refused,
        refused, refused,
        refused,
        "yes", refused, refused,
    ]  # fmt: skip


def test_resource_limits_hold(tmp_path: Path) -> None:
    script = """
import resource, sys
from query import confine
confine.limit_resources(memory_bytes=512 * 1024**2, file_bytes=1024**2)
try: bytearray(1024**3)
except MemoryError: print("memory")
try:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(2 * 1024**2))
except OSError: print("file")
print(resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "large")],
        capture_output=True, text=True, check=True, timeout=30, env={"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.split() == ["memory", "file", "0", "256"]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 512 * 1024**2


def ends_within(process_id: int, *, seconds: float) -> bool:
    """Whether a process that is no child of ours is gone, or waits for its parent, in time."""
    end = time.monotonic() + seconds
    state = Path(f"/proc/{process_id}/stat")
    while time.monotonic() < end:
        try:
            if state.read_text().split()[2] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no query running."""
    script = """
import os, subprocess, sys, time
code = "import os, time; from query import confine; confine.die_with_parent(os.getppid()); "
code += "print(os.getpid(), flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False,
        env={"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    child = int(done.stdout)
    assert ends_within(child, seconds=5)


def test_hostile_child_cannot_widen_its_grant(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that names what is not granted ends the conversation."""
    liar = UNGUARDED.replace(
        "Verdict(frozenset(), frozenset(), {})", "Verdict(frozenset({'other'}), frozenset(), {'other': ()})"
    )
    monkeypatch.setattr(spawn, "BOOT", liar)
    with pytest.raises(WorkerCrashed):
        store.ask("select 1")


def test_question_about_an_empty_grant_still_runs(store: Store) -> None:
    answer = run.once(
        Question("select 1 as one"),
        Grant(store.grant.org_id, ()),
        locate=store.locate,
        scratch=store.scratch,
        limits=Limits(),
    )
    assert answer.table.num_rows == 1
    with pytest.raises(QueryFailed):
        run.once(Question("select nosuch"), Grant(store.grant.org_id, ()), locate=store.locate, scratch=store.scratch)
