"""Supervisors of this machine, and a host with something to find."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.sandbox.invoker import RuntimeInvoker
from tests.integration.sandbox import arena


@pytest.fixture(scope="session")
def ours() -> RuntimeInvoker:
    """As the user that runs the tests; with control groups when that is root."""
    return arena.supervisor()


@pytest.fixture(scope="session")
def nobodys() -> Iterator[RuntimeInvoker]:
    """As uid 65534 in a child, when the tests run as root; else the tests' own user is as plain."""
    if os.geteuid() != 0:
        yield arena.supervisor()
        return
    child = arena.AsNobody()
    yield child
    child.close()


@pytest.fixture(scope="session")
def host(workspace: Path) -> Iterator[arena.Host]:
    with arena.Watch(workspace) as host:
        yield host


@pytest.fixture(scope="session")
def bundles(workspace: Path) -> Path:
    directory = workspace / "bundles"
    directory.mkdir(exist_ok=True)
    return directory
