"""What an attempt of a task may read: granted when its token is issued, checked again at every question.

A token lives longer than its attempt. So each question looks whether the attempt still runs: it is the newest of its
task, in state running, under a lease that has not expired.
"""

from collections.abc import Sequence
from typing import Final

from state import datasets
from state.db import Connection, statements
from trace_ray import packed_grant
from trace_ray.access import Capability
from trace_ray.contracts import Grant, OrgId, TaskId
from trace_ray.errors import FencedError, NotFound, TokenFault, TokenRefused

SQL: Final = statements("capabilities")


def grant_for_task(
    conn: Connection, task_id: TaskId, attempt: int, names: Sequence[str], as_of: int | None = None
) -> Grant:
    """Return what a running attempt may read: datasets of its own organisation, exactly as a snapshot shows them.

    Raises:
        FencedError: the attempt does not run any more.
        NotFound: a dataset or the snapshot does not exist.
    """
    org_id = _organisation(conn, task_id, attempt)
    if org_id is None:
        raise FencedError(f"task {task_id} attempt {attempt} does not run any more")
    return datasets.pin(conn, org_id, names, as_of)


def granted(conn: Connection, capability: Capability) -> Grant:
    """Return what a verified capability token grants at this moment.

    Raises:
        TokenRefused: its attempt does not run any more, or the registry no longer has exactly the granted objects.
    """
    if _organisation(conn, capability.task_id, capability.attempt) != capability.org_id:
        raise TokenRefused(TokenFault.ENDED)
    if capability.grant is not None:
        return capability.grant
    try:
        grant = datasets.pin(conn, capability.org_id, capability.names, capability.as_of)
    except NotFound:
        raise TokenRefused(TokenFault.GRANT_CHANGED) from None
    if packed_grant.digest(grant) != capability.grant_digest:
        raise TokenRefused(TokenFault.GRANT_CHANGED)
    return grant


def _organisation(conn: Connection, task_id: TaskId, attempt: int) -> OrgId | None:
    row = conn.execute(SQL["running"], {"task": task_id, "attempt": attempt}).fetchone()
    return None if row is None else OrgId(row["org_id"])
