"""From evidence outside the sandbox to an outcome. Pure.

Nothing that the sandbox says decides here: only why the supervisor stopped it, counters of the kernel, the wait status
and what our own query service answered. What the sandbox says is text, and is cleaned before anybody reads it.
"""

import re
import signal
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trace_ray.alerts import OutcomeKind, SandboxLimits

ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b.|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL
)
UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
DETAIL: Final = 500
SIGNAL_BASE: Final = 128  # bwrap ends with 128 + the signal that ended the program


class Cause(StrEnum):
    """Why the supervisor stopped watching."""

    RESPONSE = "response"
    ERROR = "error"  # the handler failed, as its runtime says
    INIT_ERROR = "init error"
    BAD_RESPONSE = "bad response"
    INIT_WALL = "init wall"
    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"  # seen by looking at the processes, where no cgroup counts
    PIDS = "pids"
    OUTPUT = "output"
    PROTOCOL = "protocol"
    ENDED = "ended"  # the process ended without having answered
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Evidence:
    """`status`: how bwrap ended, as `subprocess` says it, None when we killed it. `said`: text from inside, or ours."""

    cause: Cause
    said: str
    status: int | None
    limits: SandboxLimits
    oom_kills: int = 0
    memory_hits: int = 0
    pids_hits: int = 0
    denied: bool = False
    unavailable: bool = False


def classify(seen: Evidence) -> tuple[OutcomeKind, str]:
    """Return the outcome and one sentence for people."""
    match seen.cause:
        case Cause.RESPONSE:
            return OutcomeKind.OK, "the handler returned"
        case Cause.CANCELLED:
            return OutcomeKind.LOST_LEASE, "the lease was lost: it was killed and nothing is published"
        case Cause.UNAVAILABLE:
            return OutcomeKind.SANDBOX_UNAVAILABLE, cleaned(seen.said, DETAIL)
        case Cause.OUTPUT:
            return OutcomeKind.OUTPUT_LIMIT, seen.said
        case _:
            return _met_limit(seen) or _without_limit(seen)


def _met_limit(seen: Evidence) -> tuple[OutcomeKind, str] | None:
    """Return the limit of the kernel that was met, which explains whatever followed."""
    mib, pids = seen.limits.memory >> 20, seen.limits.pids
    if seen.oom_kills and not seen.memory_hits:
        return OutcomeKind.HOST_OOM, "the machine ran out of memory, not the handler"
    if seen.oom_kills or seen.cause is Cause.MEMORY:
        return OutcomeKind.MEMORY_LIMIT, f"it used more than {mib} MiB of memory"
    if seen.pids_hits or seen.cause is Cause.PIDS:
        return OutcomeKind.PIDS_LIMIT, f"it started more than {pids} processes and threads"
    if seen.cause is Cause.CPU or _signal(seen) == signal.SIGXCPU:
        return OutcomeKind.CPU_LIMIT, f"it used more than {seen.limits.cpu_s:g} s of processor time"
    return None


def _without_limit(seen: Evidence) -> tuple[OutcomeKind, str]:
    said = cleaned(seen.said, DETAIL)
    match seen.cause:
        case Cause.INIT_ERROR:
            return OutcomeKind.INIT_ERROR, said
        case Cause.ERROR if seen.unavailable:
            return OutcomeKind.QUERY_UNAVAILABLE, f"a query could not be answered; then: {said}"
        case Cause.ERROR if seen.denied:
            return OutcomeKind.QUERY_DENIED, f"a query was refused; then: {said}"
        case Cause.ERROR:
            return OutcomeKind.USER_ERROR, said
        case Cause.BAD_RESPONSE:
            return OutcomeKind.BAD_OUTPUT, said
        case Cause.INIT_WALL:
            return OutcomeKind.INIT_TIMEOUT, f"it was not ready after {seen.limits.init_s:g} s"
        case Cause.WALL:
            return OutcomeKind.TIMEOUT, f"it had not answered after {seen.limits.wall_s:g} s"
        case Cause.PROTOCOL:
            return OutcomeKind.PROTOCOL_ERROR, said
        case _:
            return _ended(seen)


def _ended(seen: Evidence) -> tuple[OutcomeKind, str]:
    number = _signal(seen)
    if number is not None:
        return OutcomeKind.CRASH, f"it was ended by {number.name} before it answered"
    return OutcomeKind.EXIT, f"it ended with exit code {seen.status} before it answered"


def _signal(seen: Evidence) -> signal.Signals | None:
    """Return the signal that ended the program, if its status is one."""
    status = seen.status
    if seen.cause is not Cause.ENDED or status is None:
        return None
    number = -status if status < 0 else status - SIGNAL_BASE
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def cleaned(text: str, most: int) -> str:
    """Return text without terminal escapes, control and direction characters; at most `most` bytes of UTF-8."""
    plain = ESCAPES.sub("", text)
    kept = "".join(letter for letter in plain if letter in "\n\t" or unicodedata.category(letter) not in UNPRINTABLE)
    return kept.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore")


def tail(raw: bytes, most: int) -> str:
    """Return the end of a log, cleaned; it starts with a whole character."""
    text = cleaned(raw.decode("utf-8", "replace"), len(raw) * 3)
    return text.encode("utf-8", "ignore")[-most:].decode("utf-8", "ignore")
