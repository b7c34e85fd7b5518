"""Tries forbidden things inside a backend before it may take work. One success, or no complete answer: it takes none.

The target of the signal and the owner of the environment is a process of ours that does nothing else.
"""

import contextlib
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from actors.sandbox.invoker import QueryAnswer, QueryCall, RuntimeInvoker
from trace_ray.alerts import Invocation, Invoked, OutcomeKind, SandboxLimits

LIMITS: Final = SandboxLimits(wall_s=20.0, init_s=10.0)
TOO_MUCH: Final = 2 << 30
ENTRYPOINT: Final = "probe.handler"
EXPECTED: Final = frozenset(
    {
        "read /etc/passwd", "read a file of the host", "list the host's root", "write outside its tmp",
        "connect to a port of the host", "connect to an abstract socket of the host",
        "read the environment of its parent", "signal the supervisor", "run a shell", "make a namespace",
        "see other names in the environment",
    }
)  # fmt: skip
EXPECTED_ALONE: Final = frozenset({"start a process", "open a socket"})
NAMES: Final = (
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "HOME", "LAMBDA_TASK_ROOT",
    "LANG", "PWD", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "TMPDIR", "TRACE_FD", "TZ", "_HANDLER", "LC_CTYPE",
)  # fmt: skip
ROW: Final = b'{"columns": [{"name": "n", "type": "INTEGER"}], "rows": [[1]], "truncated": false}'


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. `good`: it ended as it must."""

    name: str
    good: bool


def checks(invoker: RuntimeInvoker, probe: Path, *, alone: bool) -> list[Check]:
    """Return what was tried and how it ended; a probe that does not answer completely is a check that failed.

    Args:
        probe: a directory with probe.py that a sandbox can read.
        alone: the backend lets a sandbox have one process and no socket.
    """
    with _surroundings(probe) as event:
        answer = _run(invoker, probe, event | {"names": NAMES, "alone": alone})
    bomb = _run(invoker, probe, {"allocate": TOO_MUCH})
    return [*_judged(answer, alone=alone), Check("allocating 2 GiB is refused", bomb.outcome is not OutcomeKind.OK)]


def _judged(answer: Invoked, *, alone: bool) -> list[Check]:
    if answer.outcome is not OutcomeKind.OK:
        return [Check(f"the probe answers ({answer.outcome}: {answer.detail})", good=False)]
    told: dict[str, dict[str, bool]] = orjson.loads(answer.response)
    forbidden, works = told["forbidden"], told["works"]
    complete = set(forbidden) == set(EXPECTED | EXPECTED_ALONE if alone else EXPECTED)
    return [
        Check("the probe tried everything", complete and answer.events == (b"{}",)),
        *(Check(f"it cannot {name}", not managed) for name, managed in forbidden.items()),
        *(Check(f"it can {name}", managed) for name, managed in works.items()),
    ]


def _run(invoker: RuntimeInvoker, probe: Path, event: Mapping[str, Any]) -> Invoked:
    return invoker.invoke(
        Invocation(
            request_id=UUID(int=0),
            directory=str(probe),
            language="python",
            entrypoint=ENTRYPOINT,
            function="self-test",
            version="1",
            payload=orjson.dumps(event),
            may_query=True,
            may_emit=True,
            limits=LIMITS,
        ),
        _answer,
        lambda: False,
    )


def _answer(call: QueryCall) -> QueryAnswer:
    return QueryAnswer(200 if call.sql == "probe" else 400, "application/json", ROW)


@contextlib.contextmanager
def _surroundings(probe: Path) -> Generator[dict[str, Any]]:
    """Live targets: a listening port, an abstract socket, a readable file, a process with an environment."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"trace-ray-{secrets.token_hex(8)}"
        local.bind(f"\0{name}")
        local.listen()
        planted = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trace-ray-probe-"))) / "planted"
        planted.parent.chmod(0o755)
        planted.write_text("the host's", encoding="ascii")
        planted.chmod(0o644)
        target = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stack.callback(target.wait)
        stack.callback(target.kill)
        places = ["/", "/var/task", "/dev/shm", "/var/tmp", str(probe)]  # noqa: S108  it must not reach them
        yield {
            "port": port.getsockname()[1],
            "abstract": name,
            "planted": str(planted),
            "places": places,
            "parent": target.pid,
            "target": target.pid,
        }
