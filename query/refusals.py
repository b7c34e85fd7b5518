"""Why a question got no answer. Each error has the `code` of the HTTP API (SPEC section 6) and one sentence of advice.

A message never holds a path, a URL or SQL text; an identifier that the asker wrote may be named when it is a plain one.
"""

from collections.abc import Collection
from difflib import get_close_matches
from enum import StrEnum
from typing import ClassVar, Final

from trace_ray.errors import FatalError, RefusedInput, TransientError


class Reason(StrEnum):
    """Why the gate refuses a statement."""

    PARSE = "parse"
    MULTI_STATEMENT = "multi_statement"
    NOT_SELECT = "not_select"
    FUNCTION = "function"
    TABLE_FUNCTION = "table_function"
    RELATION = "relation"
    PARAMETERS = "parameters"
    LITERAL = "literal"
    UNSUPPORTED = "unsupported"
    TOO_LONG = "too_long"
    TOO_COMPLEX = "too_complex"


MAX_LISTED: Final = 20  # relations named in an advice
ADVICE: Final = {
    Reason.PARSE: "the statement cannot be parsed",
    Reason.MULTI_STATEMENT: "only one statement may be asked at a time: remove what follows the first",
    Reason.NOT_SELECT: "only SELECT may be asked: write one SELECT, with or without WITH",
    Reason.FUNCTION: "this function or operator is not allowed; use another of DuckDB's SQL functions",
    Reason.TABLE_FUNCTION: "this table function is not allowed; read from relations, range, generate_series, unnest, "
    "json_each or json_tree",
    Reason.RELATION: "not a relation that you may read",
    Reason.PARAMETERS: "parameters (? or $1) cannot be bound here: write the value itself",
    Reason.LITERAL: "the engine does not read x'ab' and 0xab as bytes or numbers: write hex_to_blob('0xab') or 171",
    Reason.UNSUPPORTED: "it uses a form of SQL that is not allowed: write it in plain SELECT form",
    Reason.TOO_LONG: "it is too long: shorten it below 64 KiB",
    Reason.TOO_COMPLEX: "it is too deeply nested or too large: split it up",
}


class SqlRejected(RefusedInput):
    """The gate refused the statement.

    `position` counts the characters of the SQL from 1, or is None. `name` is a plain identifier that stands there, or
    empty. `relations` are the granted ones, for the advice; an unknown and a forbidden relation read the same.
    """

    code: ClassVar[str] = "SQL_REJECTED"

    def __init__(
        self, reason: Reason, position: int | None = None, name: str = "", relations: Collection[str] = ()
    ) -> None:
        where = "" if position is None else f" at character {position}"
        what = f'"{name}": ' if name else ""
        super().__init__(f"the statement is refused{where}: {what}{_advice(reason, name, relations)}")
        self.reason = reason
        self.position = position
        self.name = name


def _advice(reason: Reason, name: str, relations: Collection[str]) -> str:
    if reason is not Reason.RELATION or not relations:
        return ADVICE[reason]
    listed = sorted(relations)
    close = get_close_matches(name.lower(), listed, n=1)
    meant = f"did you mean {close[0]}? you" if close else "you"
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return f"{ADVICE[reason]}; {meant} may read {', '.join(listed[:MAX_LISTED])}{more}"


def character(sql: str, byte: int) -> int:
    """Turn a byte offset in the UTF-8 text, as the engine counts, into a character counted from 1."""
    return len(sql.encode(errors="replace")[:byte].decode(errors="ignore")) + 1


class QueryFailed(RefusedInput):
    """The engine refused or failed the statement. `code` is SQL_ERROR or RESULT_TOO_LARGE."""

    def __init__(self, code: str, position: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.position = position


class QueryTimeout(FatalError):
    """The question was still running at its deadline; it was interrupted, or (`killed`) its process was."""

    code: ClassVar[str] = "QUERY_TIMEOUT"

    def __init__(self, message: str, *, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class QueryMemory(FatalError):
    """The question needs more memory or spill space than it may have."""

    code: ClassVar[str] = "QUERY_MEMORY"


class WorkerCrashed(FatalError):
    """The child process died or broke the protocol. Nothing else was harmed; audit marks it as hostile."""

    code: ClassVar[str] = "WORKER_CRASH"


class WorkerUnavailable(FatalError):
    """A child cannot be started or confined on this machine."""

    code: ClassVar[str] = "WORKER_UNAVAILABLE"


class QueueFull(FatalError):
    """All query processes are busy and none came free in time. Asking again later helps."""

    code: ClassVar[str] = "QUEUE_FULL"


class Displaced(TransientError):
    """A long question has to make way for short ones; it is run once more, among the long ones. No asker sees this."""


class QueryCancelled(FatalError):
    """The asker went away; what ran was stopped."""

    code: ClassVar[str] = "CANCELLED"


class NotGranted(RefusedInput):
    """The dataset that the request names is unknown or not granted; the two read the same."""

    code: ClassVar[str] = "DATASET_NOT_GRANTED"


class TokenMismatch(RefusedInput):
    """The body names another task or attempt than the token; that of an ended attempt is refused before (401)."""

    code: ClassVar[str] = "TOKEN_MISMATCH"


class OutOfGrant(FatalError):
    """A granted object lies outside the prefixes that the token may read."""

    code: ClassVar[str] = "STORAGE_OUT_OF_GRANT"


class SnapshotUnknown(RefusedInput):
    """`as_of` names no snapshot."""

    code: ClassVar[str] = "SNAPSHOT_UNKNOWN"


class AuditFailed(FatalError):
    """The audit row could not be written, so the answer stays here."""

    code: ClassVar[str] = "AUDIT_FAILED"


class BadRequest(RefusedInput):
    """The body is not what the route takes."""

    code: ClassVar[str] = "BAD_REQUEST"
