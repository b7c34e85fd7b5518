"""What `doctor` says of the sandboxes of bundles, and when that counts as broken."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state.db import connect
from tests import pg
from tests.integration.sandbox import arena
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, publication
from trace_ray.lite.postgres import LocalPostgres


class Machine:
    """A stack that does not run, with a ledger of its own."""

    def __init__(self, url: str, workspace: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
        self.environment = {
            **kept,
            "TRACE_DATA_DIR": str(workspace / "doctor"),
            "TRACE_STATE_DATABASE_URL": url,
            "TRACE_SANDBOX_CGROUPS": "none" if arena.groups() is None else "required",
            "TRACE_SANDBOX_DIR": str(workspace),
        }

    def doctor(self, *, code: int = 0, **more: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", "doctor", "--json"],
            env={**self.environment, **more}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (code, "")
        return next(one for one in json.loads(done.stdout)["findings"] if one["part"] == "bundle sandbox")


@pytest.fixture(scope="module")
def url(postgres: LocalPostgres) -> str:
    return pg.fresh_database(postgres)


@pytest.fixture(scope="module")
def machine(url: str, workspace: Path) -> Machine:
    return Machine(url, workspace)


@pytest.fixture
def rule(url: str) -> Iterator[None]:
    with connect(url, application_name="trace-test") as conn:
        ledger = Ledger.lead(conn)
        ledger.sync(job("blocks", to_block=100))
        for group in ledger.claim(1):
            ledger.complete(*map(publication, group.leases))
        watching.watch(ledger, watching.rule())
        yield
        with conn.transaction():
            conn.execute(b"update state.rules set enabled = false")


def test_walls_are_tried_and_who_counts_is_told(machine: Machine) -> None:
    found = machine.doctor(TRACE_SANDBOX_BACKENDS="landlock,bwrap")
    assert found["text"].startswith("landlock: every wall holds")
    assert found["state"] == ("limited" if arena.groups() is None else "works")
    without = machine.doctor(TRACE_SANDBOX_CGROUPS="none")
    assert (without["state"], without["text"]) == (
        "limited",
        "bwrap: every wall holds; no control groups count what is used",
    )


def test_backend_that_cannot_start_says_what_to_install(machine: Machine, tmp_path: Path) -> None:
    for directory in map(Path, os.environ["PATH"].split(":")):
        for program in directory.iterdir() if directory.is_dir() else ():
            if program.name != "bwrap" and not (tmp_path / program.name).is_symlink():
                (tmp_path / program.name).symlink_to(program)
    found = machine.doctor(PATH=str(tmp_path), TRACE_SANDBOX_BACKENDS="bwrap,landlock")
    used, refused = found["text"].split("; bwrap: ")
    assert used.startswith("landlock: every wall holds")
    assert "install bubblewrap" in refused


def test_no_sandbox_is_broken_only_where_a_rule_is_enabled(machine: Machine, tmp_path: Path, rule: None) -> None:
    found = machine.doctor(code=1, TRACE_SANDBOX_CGROUPS="required", TRACE_SANDBOX_CGROUP_PARENT=str(tmp_path))
    assert found["state"] == "broken"
    assert found["text"].endswith("or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none")


def test_no_sandbox_is_a_note_where_no_rule_is_enabled(machine: Machine, tmp_path: Path) -> None:
    found = machine.doctor(TRACE_SANDBOX_CGROUPS="required", TRACE_SANDBOX_CGROUP_PARENT=str(tmp_path))
    assert (found["state"], found["advice"]) == ("limited", "only alert rules need it, and none is enabled")
