"""The complete environment inside a sandbox. Pure. Equal in all attempts: no attempt, no slot, nothing of the host."""

import re
from typing import Final

from trace_ray.alerts import Invocation, SandboxLimits

LATER: Final = "-"  # the handler is told when there is one
STRANGE: Final = re.compile(r"[^A-Za-z0-9_.-]")


def fixed(task_root: str, tmp: str) -> dict[str, str]:
    """Return what is the same for every invocation."""
    return {
        "LAMBDA_TASK_ROOT": task_root,
        "AWS_LAMBDA_LOG_GROUP_NAME": "trace-ray",
        "AWS_LAMBDA_LOG_STREAM_NAME": "udf",
        "HOME": tmp,
        "TMPDIR": tmp,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def of(invocation: Invocation) -> dict[str, str]:
    """Return what an invocation adds. Names are cut to what headers and clients take."""
    return {
        "_HANDLER": invocation.entrypoint,
        "AWS_LAMBDA_FUNCTION_NAME": plain(invocation.function),
        "AWS_LAMBDA_FUNCTION_VERSION": plain(invocation.version),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(invocation.limits.memory >> 20),
    }


def ahead() -> dict[str, str]:
    return {"_HANDLER": LATER}


def node_heap(limits: SandboxLimits) -> dict[str, str]:
    """Node's own heap ends before the memory does, so that a leak is told as such when nothing counts."""
    return {"TRACE_NODE_HEAP_MIB": str((limits.memory * 3 // 4) >> 20)}


def plain(name: str) -> str:
    return STRANGE.sub("_", name)[:140] or "_"
