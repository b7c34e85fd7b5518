"""The command line as its users run it: one stack per module, in a data directory of its own, with its own Ray."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

COMMAND_S = 150.0
PACKAGES = ("trace_ray", "actors", "query", "state")

JOB = """\
kind: chain_sync
name: {name}
chain_id: 31337
chain_name: {name}
mode: {{kind: fixed_target, from_block: {start}, to_block: {end}}}
streams:
"""
STREAM = """\
  {name}_{kind}:
    cryo_dataset_name: {kind}
    rpc_pool: {pool}
    chunk_size: {chunk}
    max_inflight: 4
    publish_as: {name}_{kind}
"""
KINDS = ("blocks", "transactions", "logs")


@dataclass
class Cli:
    """Runs `trace-ray` in an environment of its own, from the code that lies in a directory."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    code: Path = REPOSITORY

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "trace_ray", *arguments],
            cwd=self.code,
            env=self.process_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end and check its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", *arguments],
            cwd=self.code,
            env=self.process_environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments).stdout)

    def query(self, sql: str) -> list[list[Any]]:
        """Return the rows of an answer."""
        return self.json("query", "--limit", "10000", "--format", "json", sql)["rows"]

    def job(self, name: str, *, end: int, start: int = 0, chunk: int = 20, pool: str = "standard") -> Path:
        """Write a job file over blocks, transactions and logs; its datasets are `<name>_<kind>`."""
        path = self.data_dir / f"{name}.yaml"
        streams = "".join(STREAM.format(name=name, kind=kind, pool=pool, chunk=chunk) for kind in KINDS)
        path.write_text(JOB.format(name=name, start=start, end=end) + streams)
        return path

    def until(
        self, name: str, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 90.0
    ) -> dict[str, Any]:
        """Read a job's status until a condition holds."""
        give_up = time.monotonic() + timeout_s
        while True:
            (job,) = self.json("status", "--job", name, "--json")["jobs"]
            if condition(job):
                return job
            if time.monotonic() > give_up:
                raise TimeoutError(json.dumps(job, indent=1))
            time.sleep(0.2)

    def process_environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TRACE_", "RAY_", "AWS_"))}
        return {**kept, "TRACE_DATA_DIR": str(self.data_dir), "RAY_ADDRESS": "local", **self.environment}


def copied_code(root: Path) -> Path:
    """Copy the code, so that a test can change it: another byte of it is another build."""
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def data_dir(workspace: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = workspace / request.module.__name__.rpartition(".")[2]
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Cli]:
    """A command line whose stack is stopped at the end of the module; it starts with the first `up` or `sync`."""
    cli = Cli(
        data_dir, {"TRACE_WORKERS": "2", "TRACE_HTTP_PORT": "0"}
    )  # test_http serves queries, the others need none
    yield cli
    cli.run("down")
