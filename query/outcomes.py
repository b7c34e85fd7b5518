"""How a question ended, as a code for the audit and a status for HTTP. Pure: one table of errors, nothing else."""

from dataclasses import dataclass
from typing import Final

from query import refusals
from trace_ray import errors


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is HTTP's, `code` the word for programs. `retry_after_s` is set where asking again later may help."""

    status: int
    code: str
    retry_after_s: int | None = None


OK: Final = Outcome(200, "OK")
BAD_REQUEST: Final = Outcome(400, "BAD_REQUEST")
NOT_FOUND: Final = Outcome(404, "NOT_FOUND")
METHOD_NOT_ALLOWED: Final = Outcome(405, "METHOD_NOT_ALLOWED")
BODY_TOO_LARGE: Final = Outcome(413, "BODY_TOO_LARGE")
CANCELLED: Final = Outcome(499, "CANCELLED")  # nobody is left to read it; it stands in the audit only
INTERNAL: Final = Outcome(500, "INTERNAL")

TABLE: Final[tuple[tuple[type[Exception], Outcome], ...]] = (
    (errors.Unauthenticated, Outcome(401, "UNAUTHENTICATED")),
    (refusals.NotGranted, Outcome(403, "DATASET_NOT_GRANTED")),
    (refusals.TokenMismatch, Outcome(403, "TOKEN_MISMATCH")),
    (refusals.OutOfGrant, Outcome(403, "STORAGE_OUT_OF_GRANT")),
    (refusals.BadRequest, BAD_REQUEST),
    (refusals.SqlRejected, Outcome(400, "SQL_REJECTED")),
    (refusals.SnapshotUnknown, Outcome(400, "SNAPSHOT_UNKNOWN")),
    (errors.NotFound, NOT_FOUND),
    (refusals.QueryMemory, Outcome(422, "QUERY_MEMORY")),
    (refusals.QueueFull, Outcome(429, "QUEUE_FULL", 1)),
    (refusals.QueryTimeout, Outcome(504, "QUERY_TIMEOUT")),
    (refusals.QueryCancelled, CANCELLED),
    (refusals.WorkerUnavailable, Outcome(503, "WORKER_UNAVAILABLE", 1)),
    (refusals.WorkerCrashed, Outcome(500, "WORKER_CRASH")),
    (refusals.AuditFailed, Outcome(500, "AUDIT_FAILED")),
    (errors.StoreUnavailable, Outcome(502, "OBJECT_STORE_ERROR", 1)),
    (errors.ObjectMissing, Outcome(502, "OBJECT_STORE_ERROR")),
    (errors.DatabaseUnavailable, Outcome(503, "LEDGER_UNAVAILABLE", 1)),
    (errors.KeysUnavailable, Outcome(503, "KEYS_UNAVAILABLE", 1)),
)
FAILED: Final = {"SQL_ERROR": Outcome(400, "SQL_ERROR"), "RESULT_TOO_LARGE": Outcome(413, "RESULT_TOO_LARGE")}


def outcome(error: Exception) -> Outcome:
    """Return how an error ends a question; one that is not on the table is a bug of ours and is INTERNAL."""
    if isinstance(error, refusals.QueryFailed):
        return FAILED.get(error.code, INTERNAL)
    return next((found for kind, found in TABLE if isinstance(error, kind)), INTERNAL)


def detail(error: Exception) -> dict[str, str | int]:
    """Return what an error says beyond its sentence: the reason, and the character of the SQL, counted from 1."""
    found: dict[str, str | int] = {}
    if isinstance(error, refusals.SqlRejected | errors.TokenRefused):
        found["reason"] = error.reason.value
    position = getattr(error, "position", None)
    if isinstance(position, int):
        found["position"] = position
    return found
