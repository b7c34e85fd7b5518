"""The embedded server: started once whoever asks, found again after any end, and never at the cost of data."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from state import db
from tests.conftest import wait_until
from trace_ray.errors import DatabaseUnavailable, RefusedInput
from trace_ray.lite import account
from trace_ray.lite import postgres as module
from trace_ray.lite.postgres import LocalPostgres

ROOT = os.geteuid() == 0
START = (
    "import sys, pathlib; from trace_ray.lite.postgres import LocalPostgres as P; P(pathlib.Path(sys.argv[1])).start()"
)


@pytest.fixture
def data_dir(workspace: Path) -> Iterator[Path]:
    directory = workspace / secrets.token_hex(3)
    yield directory
    LocalPostgres(directory).stop()


def pid_file(data_dir: Path) -> Path:
    return data_dir / "postgres" / "postmaster.pid"


def pid(data_dir: Path) -> int:
    return int(pid_file(data_dir).read_text().split()[0])


def remember(server: LocalPostgres, value: int) -> None:
    with db.connect(server.url("postgres"), application_name="trace-test") as conn:
        conn.execute(b"CREATE TABLE IF NOT EXISTS kept (value int)")
        conn.execute(b"INSERT INTO kept VALUES (%s::int)", (value,))


def remembered(server: LocalPostgres) -> list[object]:
    with db.connect(server.url("postgres"), application_name="trace-test") as conn:
        return [row["value"] for row in conn.execute(b"SELECT value FROM kept ORDER BY value")]


def gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_starting_twice_keeps_the_server_and_stopping_keeps_the_data(data_dir: Path) -> None:
    server = LocalPostgres(data_dir)
    assert not server.running()
    server.start()
    first = pid(data_dir)
    remember(server, 1)
    LocalPostgres(data_dir).start()
    assert pid(data_dir) == first
    server.stop()
    assert not server.running()
    assert gone(first)
    server.stop()
    server.start()
    assert server.running()
    assert remembered(server) == [1]


def test_the_server_outlives_the_process_that_started_it(data_dir: Path) -> None:
    subprocess.run([sys.executable, "-c", START, str(data_dir)], check=True, timeout=90)
    assert LocalPostgres(data_dir).running()


def test_racing_starters_make_one_server(data_dir: Path) -> None:
    starters = [subprocess.Popen([sys.executable, "-c", START, str(data_dir)]) for _ in range(3)]
    assert [starter.wait(90) for starter in starters] == [0, 0, 0]
    found = psutil.process_iter(["cmdline"])
    ours = [one.pid for one in found if (one.info["cmdline"] or [])[1:3] == ["-D", str(data_dir / "postgres")]]
    assert ours == [pid(data_dir)]


def test_a_killed_server_recovers_its_data(data_dir: Path) -> None:
    server = LocalPostgres(data_dir)
    server.start()
    remember(server, 1)
    killed = pid(data_dir)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: gone(killed), what="the end of the server")
    assert not server.running()
    with pytest.raises(DatabaseUnavailable, match="run `trace-ray up`"):
        server.url("postgres")
    server.start()
    assert remembered(server) == [1]


@pytest.mark.parametrize("content", ["{pid}\nrest", "", "12 34"])
def test_a_stale_pid_file_is_not_believed(data_dir: Path, content: str) -> None:
    server = LocalPostgres(data_dir)
    server.start()
    remember(server, 1)
    server.stop()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        for file in (pid_file(data_dir), data_dir / "postgres" / ".s.PGSQL.5432.lock"):
            file.write_text(content.format(pid=bystander.pid))
        assert not server.running()
        server.stop()
        assert bystander.poll() is None
        server.start()
        assert remembered(server) == [1]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_nothing_is_started_while_processes_of_a_killed_server_work(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ORPHANS_S", 0.3)
    server = LocalPostgres(data_dir)
    server.start()
    server.stop()
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=data_dir / "postgres")
    try:
        pid_file(data_dir).write_text(f"{os.getpid()}\n")
        with pytest.raises(DatabaseUnavailable, match=str(orphan.pid)):
            server.start()
        assert pid_file(data_dir).exists()
    finally:
        orphan.kill()
        orphan.wait()
    server.start()


def test_a_half_made_cluster_is_made_again(data_dir: Path) -> None:
    making = data_dir / "postgres.making"
    making.mkdir(parents=True)
    (making / "PG_VERSION").write_text("18")
    server = LocalPostgres(data_dir)
    server.start()
    assert server.running()
    assert not making.exists()


def test_a_database_is_made_once(data_dir: Path) -> None:
    server = LocalPostgres(data_dir)
    server.start()
    server.ensure_database("trace_ray")
    server.ensure_database("trace_ray")
    with db.connect(server.url("trace_ray"), application_name="trace-test") as conn:
        row = conn.execute(b"SELECT current_database() AS name, current_setting('fsync') AS fsync").fetchone()
    assert row == {"name": "trace_ray", "fsync": "on"}


def test_a_long_path_moves_the_socket_to_a_short_private_directory(data_dir: Path) -> None:
    server = LocalPostgres(data_dir / ("long" * 25))
    if ROOT:
        data_dir.mkdir()
        data_dir.chmod(0o755)
    server.start()
    socket = Path(pid_file(data_dir / ("long" * 25)).read_text().splitlines()[4])
    try:
        assert socket.stat().st_mode & 0o077 == 0
        remember(server, 1)
        assert remembered(server) == [1]
    finally:
        server.stop()
        socket.rmdir()


def test_only_the_server_and_its_user_may_enter_the_directories(data_dir: Path) -> None:
    LocalPostgres(data_dir).start()
    assert data_dir.stat().st_mode & 0o007 == 0
    assert (data_dir / "postgres").stat().st_mode & 0o077 == 0


def test_files_of_another_version_are_refused_and_stay(data_dir: Path) -> None:
    server = LocalPostgres(data_dir)
    server.start()
    server.stop()
    version = data_dir / "postgres" / "PG_VERSION"
    version.write_text("16\n")
    with pytest.raises(RefusedInput, match="of version 16, this trace-ray brings 18"):
        server.start()
    version.write_text("18\n")
    server.start()


@pytest.mark.skipif(not ROOT, reason="only root can own files of another user; run the tests as root to see it")
def test_files_of_another_user_are_refused(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    with pytest.raises(RefusedInput, match="belong to another user"):
        LocalPostgres(data_dir).start()


@pytest.mark.skipif(not ROOT, reason="only root needs an account for the server; run the tests as root to see it")
def test_root_under_a_closed_home_keeps_the_files_elsewhere_and_the_home_closed(data_dir: Path) -> None:
    home = data_dir / "home"
    home.mkdir(parents=True)
    data_dir.chmod(0o755)
    home.chmod(0o700)
    server = LocalPostgres(home / ".trace-ray")
    files = account.files_of(home / ".trace-ray")
    try:
        server.start()
        remember(server, 1)
        server.stop()
        assert files.is_relative_to(account.SYSTEM)
        assert home.stat().st_mode & 0o777 == 0o700
        home.chmod(0o755)  # files that exist are found again, however the home is opened later
        again = LocalPostgres(home / ".trace-ray")
        again.start()
        assert remembered(again) == [1]
    finally:
        server.stop()
        shutil.rmtree(files.parent, ignore_errors=True)


@pytest.mark.skipif(not ROOT, reason="only root needs an account for the server; run the tests as root to see it")
def test_root_never_runs_the_server(data_dir: Path) -> None:
    LocalPostgres(data_dir).start()
    assert psutil.Process(pid(data_dir)).uids().effective != 0


def test_a_server_that_is_still_starting_is_waited_for(data_dir: Path) -> None:
    server = LocalPostgres(data_dir)
    server.start()
    remember(server, 1)
    postmaster = psutil.Process(pid(data_dir))
    postmaster.suspend()
    waiting = subprocess.Popen([sys.executable, "-c", START, str(data_dir)])
    try:
        time.sleep(1.0)
        assert waiting.poll() is None
    finally:
        postmaster.resume()
    assert waiting.wait(60) == 0
    assert pid(data_dir) == postmaster.pid
