"""Devnets that other processes find: started once, ended by whoever wants, and never confused with a stranger."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from trace_ray.errors import RefusedInput, StackUnavailable
from trace_ray.lite import devnet

WAIT_S = 20.0

DETACH = """
import sys
from pathlib import Path
from trace_ray.lite import devnet
devnet.start_detached(Path(sys.argv[1]), Path(sys.argv[2]), blocks=int(sys.argv[3]), transactions=2)
"""
HOLD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
from pathlib import Path
from trace_ray.lite import devnet
with devnet.running_here(Path(sys.argv[1]), Path(sys.argv[2]), port=None) as net:
    net.fill(blocks=5, transactions=2)
    print("filled", flush=True)
    net.wait()
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come within {WAIT_S} s"
        time.sleep(0.05)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    devnet.stop(tmp_path / "data")


def run(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, timeout=60)


def test_a_detached_devnet_outlives_its_starter_and_is_started_once(anvil_binary: Path, data_dir: Path) -> None:
    assert devnet.running(data_dir) is None
    run(DETACH, data_dir, anvil_binary, 8)
    found = devnet.running(data_dir)
    assert found is not None
    assert found.head == 8
    assert devnet.start_detached(data_dir, anvil_binary, blocks=6, transactions=2) == found
    assert devnet.stop(data_dir) is True
    assert not psutil.pid_exists(found.pid)
    assert devnet.running(data_dir) is None
    assert devnet.stop(data_dir) is False
    assert not (data_dir / "devnet").exists()


def test_two_starters_at_once_share_one_devnet(anvil_binary: Path, data_dir: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for starter in [pool.submit(run, DETACH, data_dir, anvil_binary, 6) for _ in range(2)]:
            starter.result()
    found = devnet.running(data_dir)
    assert found is not None
    lives = [one for one in psutil.process_iter() if str(data_dir) in " ".join(command_of(one))]
    assert [one.pid for one in lives] == [found.pid]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_longer_chain_is_refused_while_a_shorter_one_runs(anvil_binary: Path, data_dir: Path) -> None:
    first = devnet.start_detached(data_dir, anvil_binary, blocks=5, transactions=1)
    with pytest.raises(RefusedInput, match=rf"runs here already \(port \d+, pid {first.pid}\)"):
        devnet.start_detached(data_dir, anvil_binary, blocks=6, transactions=1)
    assert devnet.running(data_dir) == first


def test_a_half_filled_devnet_of_a_killed_starter_is_replaced(anvil_binary: Path, data_dir: Path) -> None:
    record = data_dir / "devnet.json"
    command = [sys.executable, "-c", DETACH, str(data_dir), str(anvil_binary), "100000"]
    with subprocess.Popen(command) as starter:
        wait_for(record.exists, "the record")
        starter.kill()
    orphan = json.loads(record.read_text())["pid"]
    assert psutil.pid_exists(orphan)
    assert devnet.running(data_dir) is None
    assert devnet.start_detached(data_dir, anvil_binary, blocks=5, transactions=1).pid != orphan
    assert not psutil.pid_exists(orphan)


def test_a_pid_that_now_belongs_to_another_process_is_not_believed(anvil_binary: Path, data_dir: Path) -> None:
    devnet.start_detached(data_dir, anvil_binary, blocks=5, transactions=1)
    record = data_dir / "devnet.json"
    before = record.read_text()
    devnet.stop(data_dir)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record.write_text(json.dumps(json.loads(before) | {"pid": other.pid}))
        assert devnet.running(data_dir) is None
        assert devnet.stop(data_dir) is False
        assert other.poll() is None
    finally:
        other.communicate(b"\n", timeout=WAIT_S)


def test_a_damaged_record_is_told(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "devnet.json").write_text('{"pid": 1}')
    with pytest.raises(StackUnavailable, match="damaged"):
        devnet.running(data_dir)
    (data_dir / "devnet.json").unlink()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_devnet_in_the_foreground_is_found_and_ends_with_its_program(
    anvil_binary: Path, data_dir: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "-c", HOLD, str(data_dir), str(anvil_binary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"filled\n"
        found = devnet.running(data_dir)
        assert found is not None
        assert found.head == 5
        with (
            pytest.raises(RefusedInput, match="runs here already"),
            devnet.running_here(data_dir, anvil_binary, port=None),
        ):
            pass
        assert devnet.running(data_dir) == found
        program.send_signal(how)
        assert program.wait(WAIT_S) == 0
    assert not psutil.pid_exists(found.pid)
    assert not (data_dir / "devnet.json").exists()
