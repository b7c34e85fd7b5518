"""The child side of the Cryo engine: read a specification from stdin, call Cryo, send one verdict, end.

Runs by its path under `python -I -S`, so it uses the standard library and Cryo only. The URL arrives on stdin, never as
an argument or in the environment; nothing is written but Cryo's Parquet files. The verdict goes to the file descriptor
that the first argument names: one line of JSON, or nothing when this process crashed.
"""

import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypedDict, cast

WATCH_S: Final = 0.5  # how long a child may outlive its parent
VERDICT_CHARS: Final = 2048  # with every character escaped it still fits a pipe, so that sending never waits


class Call(TypedDict):
    """One call of `cryo.freeze`."""

    datasets: list[str]
    options: dict[str, Any]


class Spec(TypedDict):
    """What to do. `library` is the directory that holds the package cryo; `memory_bytes` limits the address space."""

    parent: int
    library: str
    memory_bytes: int
    calls: list[Call]


def main() -> None:
    spec = cast(Spec, json.load(sys.stdin))
    threading.Thread(target=_end_with, args=(spec["parent"],), daemon=True).start()
    if sys.platform == "linux":  # elsewhere the limit cannot be set or is not kept
        resource.setrlimit(resource.RLIMIT_AS, (spec["memory_bytes"], spec["memory_bytes"]))
    sys.path.append(spec["library"])
    verdict: dict[str, object]
    try:
        verdict = {"results": [_freeze(call) for call in spec["calls"]]}
    except BaseException as error:  # a panic in Cryo is no Exception
        verdict = {"error": type(error).__name__, "text": str(error)[:VERDICT_CHARS]}
    sys.stdout.flush()
    os.write(int(sys.argv[1]), json.dumps(verdict).encode())
    os._exit(0)  # the interpreter's own end can crash in Cryo's threads


def _freeze(call: Call) -> dict[str, int]:
    import cryo  # found only after `library` is known

    freeze = cast(Callable[..., Coroutine[None, None, dict[str, int]]], cryo.async_freeze)
    return asyncio.run(freeze(call["datasets"], **call["options"]))


def _end_with(parent: int) -> None:
    """End this process soon after its parent: nobody would take the result, and the provider counts each call."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(3)


if __name__ == "__main__":
    main()
