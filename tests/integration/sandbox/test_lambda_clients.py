"""Clients that were written for AWS Lambda run unchanged: awslambdaric, and programs of C and Rust."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.invoker import RuntimeInvoker
from tests.integration.sandbox import arena

CLIENTS = Path(__file__).parent / "clients"
AWS = ("awslambdaric", "simplejson", "snapshot-restore-py")
START = """#!/opt/python/bin/python3
import os, sys
sys.path.insert(0, "/var/task")
from awslambdaric.__main__ import main
main(["awslambdaric", os.environ["_HANDLER"]])
"""
HANDLER = """
import json
import urllib.request

def handler(event, context):
    if event.get("fail"):
        raise ValueError("on purpose")
    request = urllib.request.Request("http://127.0.0.1:9001/trace/v1/query", b'{"sql": "select n from numbers"}')
    rows = json.load(urllib.request.urlopen(request))["rows"]
    return {"id": context.aws_request_id, "rows": len(rows), "name": context.function_name, "size": event["large"],
            "left": context.get_remaining_time_in_millis() > 1000, "events": [{"a": 1}], "echo": "x" * event["large"]}
"""
COMMANDS = {
    "cc": ["-O1", "-static", "-D_GNU_SOURCE", "-o", "{target}", str(CLIENTS / "bootstrap.c")],
    "rustc": ["-C", "opt-level=1", "-o", "{target}", str(CLIENTS / "bootstrap.rs")],
}


@pytest.fixture(scope="module")
def aws_bundle(bundles: Path) -> Path:
    """What `pip install --target` makes, with a handler and a start file."""
    made = bundles / "awslambdaric"
    made.mkdir()
    for name in AWS:
        for file in importlib.metadata.files(name) or []:
            source, target = Path(str(file.locate())), made / file
            if ".." not in file.parts and source.suffix != ".pyc" and "dist-info" not in str(file):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    (made / "app.py").write_text(HANDLER)
    (made / "bootstrap").write_text(START)
    for path in made.rglob("*"):
        path.chmod(0o555 if path.is_dir() or path.name == "bootstrap" else 0o444)
    return made


def run(invoker: RuntimeInvoker, bundle: Path, event: dict[str, Any], entrypoint: str, **limits: Any) -> Any:
    order = arena.invocation(bundle, event, function="fn", **limits)
    return invoker.invoke(dataclasses.replace(order, entrypoint=entrypoint), arena.Asker(), lambda: False)


@pytest.mark.parametrize("large", [10, 3_000_000])
def test_awslambdaric_runs_unchanged(ours: RuntimeInvoker, aws_bundle: Path, large: int) -> None:
    """A large answer makes it wait for `100 Continue`."""
    result = run(ours, aws_bundle, {"large": large}, "app.handler")
    assert result.outcome == "ok", result
    told = json.loads(result.response)
    assert len(told.pop("echo")) == large
    assert told == {
        "id": "00000000-0000-0000-0000-000000000007",
        "rows": 100,
        "name": "fn",
        "size": large,
        "left": True,
        "events": [{"a": 1}],
    }
    assert result.events == (b'{"a":1}',)


def test_awslambdaric_tells_errors(ours: RuntimeInvoker, aws_bundle: Path) -> None:
    failed = run(ours, aws_bundle, {"fail": True}, "app.handler")
    assert (failed.outcome, failed.detail) == ("user_error", "ValueError: on purpose")
    missing = run(ours, aws_bundle, {}, "app.missing")
    assert missing.outcome == "init_error", missing
    assert "Handler 'missing' missing" in missing.detail


@pytest.fixture(scope="module", params=list(COMMANDS))
def program(request: pytest.FixtureRequest, bundles: Path) -> Path:
    compiler = shutil.which(request.param)
    if compiler is None:
        pytest.skip(f"{request.param} is not installed here")
    made = bundles / request.param
    made.mkdir()
    target = made / "bootstrap"
    command = [compiler, *(part.format(target=target) for part in COMMANDS[request.param])]
    subprocess.run(command, check=True, timeout=120)
    target.chmod(0o555)
    return made


@pytest.mark.parametrize("mode", ["ours", "nobodys"])
def test_program_runs_and_reaches_nothing(
    request: pytest.FixtureRequest, program: Path, host: arena.Host, mode: str
) -> None:
    invoker: RuntimeInvoker = request.getfixturevalue(mode)
    result = arena.run(invoker, program, host.event())
    assert result.outcome == "ok", result
    assert json.loads(result.response) == {"payload": host.event(), "exec": 2, "connect": -111, "open": 2}
    assert host.visitors == []


def test_program_that_misbehaves_is_classified(ours: RuntimeInvoker, program: Path) -> None:
    crashed = arena.run(ours, program, {"do": "segv"})
    assert (crashed.outcome, "SIGSEGV" in crashed.detail) == ("crash", True)
    assert arena.run(ours, program, {"do": "spin"}, wall_s=0.5).outcome == "timeout"
