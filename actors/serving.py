"""Queries over HTTP under Ray Serve: start, replace, stop. One stack of a Ray cluster serves them.

Serve keeps the replicas alive. When the code changes, new ones start beside the old ones, which answer what they were
asked before they go: no request is dropped.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (as in actors.runtime: Ray's own types are partly unknown)

import logging
import socket
import time
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from actors.runtime import LOOPBACK
from trace_ray.errors import StackUnavailable

ANSWER_S: Final = 10.0
RUNNING: Final = "RUNNING"


def start(application: Any, *, space: str, port: int, build: str) -> None:
    """Serve the queries of a stack; replicas of another build are replaced while they answer.

    Raises:
        StackUnavailable: the port is taken, another stack of this cluster serves already, or this build does not start;
            then the one before goes on.
    """
    if served_build(space) == build:
        return
    others = set(serve.status().applications) - {space}
    if others:
        raise StackUnavailable("another stack of this Ray cluster answers HTTP: give this one a cluster of its own")
    _quiet()
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        if not serve.status().proxies:
            _check_free(port)
            serve.start(http_options=HTTPOptions(host=LOOPBACK, port=port), logging_config=quiet)
        serve.run(application, name=space, route_prefix="/", logging_config=quiet)
    except (OSError, RayError, RuntimeError) as error:
        if _said_build(space) is not None:
            raise StackUnavailable(
                "the queries of this build do not start, and the build before goes on answering: look at the replica's "
                "log in the Ray dashboard, then run `trace-ray up` again"
            ) from error
        if not serve.status().applications:
            serve.shutdown()  # a proxy without its port would try for ever
        raise StackUnavailable(
            f"no HTTP on port {port}: set TRACE_HTTP_PORT to a free port, then run `trace-ray up` again"
        ) from error


def stop(space: str, *, drain_s: float) -> bool:
    """End the queries of a stack; say whether they were served. Questions that run get `drain_s` to be answered."""
    if space not in serve.status().applications:
        return False
    _quiet()
    serve.delete(space, _blocking=False)
    give_up = time.monotonic() + drain_s
    while space in serve.status().applications and time.monotonic() < give_up:
        time.sleep(0.1)
    return True


def leave(space: str) -> None:
    """Take Serve off a cluster that ends, or goes on without this stack; unless others are served there."""
    if not set(serve.status().applications) - {space}:
        serve.shutdown()


def served_build(space: str) -> str | None:
    """Return the build of the code that answers now; None when nothing does."""
    found = serve.status().applications.get(space)
    return _said_build(space) if found is not None and found.status == RUNNING else None


def _said_build(space: str) -> str | None:
    """Ask whichever replica answers, also one that a failed replacement left in place."""
    try:
        return str(serve.get_app_handle(space).build.remote().result(timeout_s=ANSWER_S))
    except (RayError, RayServeException, TimeoutError):
        return None


def _quiet() -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its news would come between our lines


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
