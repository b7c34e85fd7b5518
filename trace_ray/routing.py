"""Decides what becomes of a delivery: made or not, sent now or suppressed, tried again or given up. Pure.

What is suppressed stays in the ledger with the reason, so that nobody has to guess where an alert went.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from trace_ray.alerts import DeliveryKind, Mode, Rule, Throttle


class Suppression(StrEnum):
    """Why a delivery is not sent."""

    STALE = "stale"  # its block is older than the rule's max_delivery_age_s
    THROTTLED = "throttled"  # its rule has sent as much as its throttle allows
    RETRACTED = "retracted"  # its block is gone
    DISABLED = "disabled"  # its rule was disabled, or turned to shadow, before it was sent


@dataclass(frozen=True, slots=True)
class Due:
    """What counts when a delivery is due. `recent`: first sendings of its rule and channel in the throttle's window.

    `attempt`: how often it was leased before. `retracted`: its block is gone.
    """

    kind: DeliveryKind
    attempt: int
    event_time: datetime
    max_age_s: float | None
    throttle: Throttle | None
    recent: int
    retracted: bool


def channels(rule: Rule) -> tuple[str, ...]:
    """Return the channels that get a delivery of each event of a rule, each once, in order; none in shadow mode."""
    return () if rule.mode is Mode.SHADOW else tuple(dict.fromkeys(rule.channels))


def suppression(due: Due, now: datetime) -> Suppression | None:
    """Say why a due delivery must not be sent; None: send it.

    A retraction always follows the alert that it takes back. Only the first sending of an alert counts against its
    throttle: one that is tried again was let through already.
    """
    if due.kind is DeliveryKind.RETRACTION:
        return None
    if due.retracted:
        return Suppression.RETRACTED
    if due.max_age_s is not None and (now - due.event_time).total_seconds() > due.max_age_s:
        return Suppression.STALE
    if due.throttle is not None and due.attempt == 0 and due.recent >= due.throttle.count:
        return Suppression.THROTTLED
    return None


# --- answers of receivers -----------------------------------------------------------------------------------------

OK: Final = range(200, 300)
REDIRECTS: Final = range(300, 400)
SERVER_ERRORS: Final = range(500, 600)

# What the receiver says about this very request, so that the same request gets the same answer. 401, 403 and 404 are
# not among them: receivers give them while they are deployed and while secrets are rotated.
PERMANENT: Final = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431, 451, 501, 505})


def is_permanent(status: int) -> bool:
    """Whether an HTTP status means that trying again cannot help."""
    return status in PERMANENT
