"""Sandboxes that were started ahead behave like fresh ones, are used once, and leave nothing."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.supervisor import Supervisor
from tests.conftest import wait_until
from tests.integration.sandbox import arena
from tests.integration.sandbox.arena import MIB

WAIT_S = 60


@pytest.fixture(scope="module")
def supervisor(workspace: Path) -> Iterator[Supervisor]:
    made = arena.supervisor()
    made.start_pool(workspace / "waiting", count=1)
    yield made
    made.close()
    assert list((workspace / "waiting").iterdir()) == []


@pytest.fixture
def ready(supervisor: Supervisor) -> Supervisor:
    """Both languages wait."""
    assert supervisor.pool is not None
    pool = supervisor.pool
    wait_until(lambda: set(pool.counts().values()) == {1}, what="sandboxes to be started ahead", timeout_s=WAIT_S)
    return supervisor


def without_cold_start(monkeypatch: pytest.MonkeyPatch, supervisor: Supervisor) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a fresh sandbox was started")

    monkeypatch.setattr(supervisor, "_run_cold", refuse)


@pytest.mark.parametrize("name", ["ok_baseline", "js_baseline"])
def test_handler_runs_in_the_sandbox_that_waits(
    ready: Supervisor, bundles: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_cold_start(monkeypatch, ready)
    result = arena.run(ready, arena.bundle(name, bundles), {})
    assert (result.outcome, len(result.events)) == ("ok", 101), result


@pytest.mark.parametrize(
    "end",
    [
        ("init_exception", "init_error", "RuntimeError: at import", {}),
        ("init_hang", "init_timeout", "", {"init_s": 1.0}),
        ("js_init_exception", "init_error", "TypeError: at import", {}),
        ("infinite_loop", "timeout", "", {"wall_s": 1.0}),
        ("cpu_burn", "cpu_limit", "", {"cpu_s": 0.3}),
        ("hard_exit", "exit", "", {}),
    ],
)
def test_ends_are_those_of_a_fresh_sandbox(
    ready: Supervisor, bundles: Path, monkeypatch: pytest.MonkeyPatch, end: tuple[str, str, str, dict[str, Any]]
) -> None:
    """Each: bundle, outcome, a part of the detail, limits."""
    name, outcome, says, limits = end
    without_cold_start(monkeypatch, ready)
    result = arena.run(ready, arena.bundle(name, bundles), {}, **limits)
    assert (result.outcome, says in result.detail) == (outcome, True), result


def test_inside_looks_the_same(ready: Supervisor, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment and descriptors of a fresh sandbox and of one that waited are equal."""
    fresh = [json.loads(arena.run(arena.supervisor(), arena.bundle(name, bundles), {}).response) for name in SIGHTS]
    without_cold_start(monkeypatch, ready)
    assert ready.pool is not None
    pool = ready.pool
    for name, expected in zip(SIGHTS, fresh, strict=True):
        wait_until(lambda: pool.counts()["python"] == 1, what="the next sandbox", timeout_s=WAIT_S)
        seen = json.loads(arena.run(ready, arena.bundle(name, bundles), {}).response)
        for each in (seen, expected):
            each.get("environment", {}).pop("AWS_LAMBDA_FUNCTION_NAME", None)
        assert seen == expected


SIGHTS = ("env_secrets", "fd_leak")


def test_other_limits_get_a_fresh_sandbox(ready: Supervisor, bundles: Path) -> None:
    assert ready.pool is not None
    result = arena.run(ready, arena.bundle("memory_bomb", bundles), {}, memory=96 * MIB)
    assert result.outcome in ("memory_limit", "user_error")
    assert ready.pool.counts()["python"] == 1


def test_bundle_on_another_file_system_gets_a_fresh_sandbox(ready: Supervisor) -> None:
    shared = Path("/dev/shm") / f"trace-ray-{os.getpid()}"
    if shared.parent.stat().st_dev == arena.make_home().stat().st_dev:
        pytest.skip("there is one file system only")
    shared.mkdir(mode=0o755)
    try:
        assert arena.run(ready, arena.bundle("ok_baseline", shared), {}).outcome == "ok"
    finally:
        for path in [*shared.rglob("*"), shared]:
            path.chmod(0o755)
        shutil.rmtree(shared)


def test_waiting_sandbox_that_died_is_not_used(ready: Supervisor, bundles: Path) -> None:
    assert ready.pool is not None
    for waiting in ready.pool._waiting["python"]:
        waiting.session._launched.kill()
    assert arena.run(ready, arena.bundle("ok_baseline", bundles), {}).outcome == "ok"


def test_waiting_sandbox_makes_room(bundles: Path, workspace: Path) -> None:
    """Of two slots a waiting sandbox takes one only; when the other is taken too, it gives way to a handler."""
    made = arena.supervisor()
    made._slots = arena.Slots(2, first=arena.SLOTS + 10)
    made.start_pool(workspace / "one", count=1)
    try:
        pool = made.pool
        assert pool is not None
        wait_until(lambda: pool.counts()["python"] == 1, what="a sandbox", timeout_s=WAIT_S)
        assert made._slots.take_but_one() is None
        other = made._slots.take()
        assert other is not None
        assert arena.run(made, arena.bundle("js_baseline", bundles), {}).outcome == "ok"
        other.release()
    finally:
        made.close()
