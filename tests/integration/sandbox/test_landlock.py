"""Tier B: the same attacks without namespaces, as root with control groups and as uid 65534 without (a default pod)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.invoker import RuntimeInvoker
from actors.sandbox.landlock import Landlock
from actors.sandbox.spawner import Spawner
from tests.integration.sandbox import arena
from tests.integration.sandbox.arena import MIB

EPERM = "[Errno 1]"


@pytest.fixture(scope="module", params=["ours", "pod"])
def invoker(request: pytest.FixtureRequest) -> Iterator[RuntimeInvoker]:
    if request.param == "ours" or os.geteuid() != 0:
        yield arena.supervisor(Landlock(arena.open_tree(), arena.groups(), Spawner()))
        return
    child = arena.AsNobody("landlock")
    yield child
    child.close()


def test_honest_bundle_asks_emits_and_answers(invoker: RuntimeInvoker, bundles: Path) -> None:
    result = arena.run(invoker, arena.bundle("ok_baseline", bundles), {})
    assert (result.outcome, json.loads(result.response)["n"], len(result.events)) == ("ok", 100, 101), result


@pytest.mark.parametrize(
    "attack",
    [
        ("net_egress_tcp", "user_error", EPERM, {}),
        ("net_host_loopback", "user_error", EPERM, {}),
        ("net_abstract_unix", "user_error", EPERM, {}),
        ("fork_bomb", "timeout cpu_limit", "", {"wall_s": 1.0}),
        ("ignore_sigterm_daemonize", "user_error", EPERM, {}),
        ("memory_bomb", "memory_limit user_error", "", {"memory": 96 * MIB}),
        ("infinite_loop", "timeout", "", {"wall_s": 1.0}),
        ("stdout_flood", "output_limit", "", {}),
        ("event_flood", "output_limit", "", {}),
        ("huge_response", "output_limit", "", {}),
        ("query_forbidden", "query_denied", "403", {}),
        ("init_exception", "init_error", "at import", {}),
        ("hard_exit", "exit", "exit code 0", {}),
        ("segv", "crash", "SIGSEGV", {}),
        ("js_baseline", "sandbox_unavailable", "does not run node", {}),
    ],
)
def test_attack_ends_as_it_should(
    attack: tuple[str, str, str, dict[str, Any]], invoker: RuntimeInvoker, bundles: Path, host: arena.Host
) -> None:
    """Each: bundle, possible outcomes, a part of the detail, limits."""
    name, outcome, says, limits = attack
    result = arena.run(invoker, arena.bundle(name, bundles), host.event(), **limits)
    assert result.outcome in outcome.split(), result
    assert says in result.detail
    assert str(bundles) not in result.detail + result.log
    assert host.visitors == []


def answer(invoker: RuntimeInvoker, bundle: Path, event: dict[str, Any]) -> Any:
    result = arena.run(invoker, bundle, event)
    assert result.outcome == "ok", result
    return json.loads(result.response)


def test_files_of_the_host_cannot_be_read(invoker: RuntimeInvoker, bundles: Path, host: arena.Host) -> None:
    seen = answer(invoker, arena.bundle("fs_read_host", bundles), host.event())
    assert seen == {"got": [], "seen": {}}


def test_calls_that_reach_further_fail(invoker: RuntimeInvoker, bundles: Path) -> None:
    errnos = answer(invoker, arena.bundle("reach_without_namespaces", bundles), {"supervisor": os.getpid()})
    assert set(errnos.values()) <= {1, 13}, errnos
    assert len(errnos) > 15
