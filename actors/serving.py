"""Queries over HTTP under Ray Serve: start, replace, stop. One stack of a Ray cluster serves them.

Serve keeps the replicas alive and replaces them one after another when the code changes, so no request is dropped.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (as in actors.runtime: Ray's own types are partly unknown)

import logging
import socket
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from actors.runtime import LOOPBACK
from trace_ray.errors import StackUnavailable

ANSWER_S: Final = 10.0
RUNNING: Final = "RUNNING"


def start(application: Any, *, space: str, port: int, build: str) -> None:
    """Serve the queries of a stack; replicas of another build are replaced while they answer.

    Raises:
        StackUnavailable: the port is taken, or another stack of this cluster serves already.
    """
    if served_build(space) == build:
        return
    others = set(serve.status().applications) - {space}
    if others:
        raise StackUnavailable("another stack of this Ray cluster answers HTTP: give this one a cluster of its own")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its news would come between our lines
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    try:
        if not serve.status().proxies:
            _check_free(port)
            serve.start(http_options=HTTPOptions(host=LOOPBACK, port=port), logging_config=quiet)
        serve.run(application, name=space, route_prefix="/", logging_config=quiet)
    except (OSError, RayError, RuntimeError) as error:
        if not serve.status().applications:
            serve.shutdown()  # a proxy without its port would try for ever
        raise StackUnavailable(
            f"no HTTP on port {port}: set TRACE_HTTP_PORT to a free port, then run `trace-ray up` again"
        ) from error


def stop(space: str) -> bool:
    """End the queries of a stack; say whether they were served."""
    if space not in serve.status().applications:
        return False
    serve.delete(space)
    if not serve.status().applications:
        serve.shutdown()
    return True


def served_build(space: str) -> str | None:
    """Return the build of the code that answers now; None when nothing does."""
    found = serve.status().applications.get(space)
    if found is None or found.status != RUNNING:
        return None
    try:
        return str(serve.get_app_handle(space).build.remote().result(timeout_s=ANSWER_S))
    except (RayError, TimeoutError):
        return None


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
