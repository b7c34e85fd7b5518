"""Frozen values of channels: where deliveries can go, and what sending one came to."""

from dataclasses import dataclass, field
from enum import StrEnum


class ChannelKind(StrEnum):
    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Channel:
    """A checked channel of the settings.

    `url`: of the receiver, or of the mail server; it may hold a key. `secrets`: the newest first; a webhook is signed
    with each of them, a mail server has one at most. `user`, `sender` and `recipients` are those of e-mail.
    """

    name: str
    kind: ChannelKind
    url: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    user: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """The receiver took it. `note`: what people should know all the same, such as a refused recipient."""

    note: str | None = None


@dataclass(frozen=True, slots=True)
class Unsent:
    """It was not taken, as far as we know.

    `error`: for people, without URL, secret, and text of the receiver. `retryable`: trying again may help.
    `retry_after_s`: how long the receiver asked us to wait. `in_doubt`: it may have been received all the same.
    """

    error: str
    retryable: bool = True
    retry_after_s: float | None = None
    in_doubt: bool = False


Sending = Sent | Unsent
