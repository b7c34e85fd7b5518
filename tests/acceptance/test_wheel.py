"""The wheel, installed in an empty directory far from the checkout, brings all that the command needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

PROOF = """
import actors.remote, query.run, state.migrate, trace_ray.cli
from state.db import statements
from trace_ray.lite import traffic
assert state.migrate.migrations("state") and statements("tasks")
assert trace_ray.cli.__file__.startswith({place!r}), trace_ray.cli.__file__
"""


def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools leaves its build directory beside what it builds
    source.mkdir()
    for part in ("trace_ray", "actors", "query", "state"):
        shutil.copytree(REPOSITORY / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / part, source)
    python = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*python, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    subprocess.run([*python, "install", "--no-deps", "--target", str(place), str(wheel)], check=True, timeout=60)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(place)}
    proof = PROOF.format(place=str(place))
    subprocess.run([sys.executable, "-c", proof], check=True, env=environment, cwd=tmp_path, timeout=60)
    done = subprocess.run(
        [str(place / "bin" / "trace-ray"), "--version"],
        check=True, env=environment, cwd=tmp_path, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("trace-ray")
