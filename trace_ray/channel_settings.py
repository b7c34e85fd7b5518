"""Reads the channels of deliveries from variables, which `config` passes in. Pure.

A channel is one or more variables `TRACE_CHANNEL_<NAME>_<PART>`; `KIND` says which others it has.
"""

import re
from collections.abc import Callable
from typing import Final

from trace_ray import destination, variables
from trace_ray.channels import Channel, ChannelKind
from trace_ray.errors import DestinationRefused
from trace_ray.variables import Reader, VariableError

CHANNEL_VARIABLE: Final = re.compile(
    r"TRACE_CHANNEL_([A-Z0-9_]+)_(KIND|URL|SECRET|SECRET_PREVIOUS|USER|FROM|TO)"
)  # fmt: skip
CHANNEL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
LOOPBACK_VARIABLE: Final = "TRACE_ALERTS_ALLOW_LOOPBACK"

SHORTEST_SECRET: Final = 16  # characters; shorter ones can be guessed from one signature
MAX_RECIPIENTS: Final = 50
MAX_CHANNELS: Final = 64  # each has threads of its own
ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")

PARTS: Final = {  # of each kind: what it must have, and what it may have
    ChannelKind.WEBHOOK: ({"URL", "SECRET"}, {"SECRET_PREVIOUS"}),
    ChannelKind.SLACK: ({"URL"}, set[str]()),
    ChannelKind.EMAIL: ({"URL", "FROM", "TO"}, {"USER", "SECRET"}),
    ChannelKind.LOG: (set[str](), set[str]()),
}


def channels(reader: Reader, *, allow_loopback: bool) -> dict[str, Channel]:
    """Return the channels by name; what is wrong with one goes into `reader.problems`, without any value."""
    parts: dict[str, set[str]] = {}
    for variable in sorted(reader.environ):
        if match := CHANNEL_VARIABLE.fullmatch(variable):
            parts.setdefault(match[1], set()).add(match[2])
    if len(parts) > MAX_CHANNELS:
        reader.problems.append(f"{len(parts)} channels are set: keep at most {MAX_CHANNELS}")
        return {}
    found = (_channel(reader, name, present, allow_loopback) for name, present in parts.items())
    return {channel.name: channel for channel in found if channel is not None}


def loopback_allowed(reader: Reader) -> bool:
    """Whether this machine may be a receiver."""
    return reader.value("alerts_allow_loopback", LOOPBACK_VARIABLE, variables.one_of("0", "1"), "0") == "1"


def secrets(channel: Channel) -> set[str]:
    """Return what must never be shown of a channel."""
    return set(channel.secrets) | (variables.secrets(channel.url) if channel.url else set())


def _channel(reader: Reader, name: str, present: set[str], allow_loopback: bool) -> Channel | None:
    prefix = f"TRACE_CHANNEL_{name}"
    if not CHANNEL_NAME.fullmatch(name.lower()):
        reader.problems.append(
            f"{prefix}_{min(present)} names no channel: begin its name with a letter, at most 64 characters"
        )
        return None
    if "KIND" not in present:
        reader.problems.append(f"{prefix}_{min(present)} is set for a channel without a kind: set {prefix}_KIND")
        return None
    setting = f"channels.{name.lower()}"
    before = len(reader.problems)
    text = reader.optional(setting, f"{prefix}_KIND", variables.one_of(*ChannelKind))
    source = reader.sources[setting]
    if text is None:
        return None
    kind = ChannelKind(text)
    channel = _parts(reader, name, kind, present - {"KIND"}, allow_loopback)
    reader.sources[setting] = source
    return channel if len(reader.problems) == before else None


def _parts(reader: Reader, name: str, kind: ChannelKind, present: set[str], allow_loopback: bool) -> Channel:
    prefix, setting = f"TRACE_CHANNEL_{name}", f"channels.{name.lower()}"
    needed, optional = PARTS[kind]
    article = "an" if kind is ChannelKind.EMAIL else "a"
    reader.problems += [
        f"{prefix}_{part} is not set: {article} {kind} channel needs it" for part in sorted(needed - present)
    ]
    reader.problems += [
        f"{prefix}_{part} is not a part of {article} {kind} channel: remove it"
        for part in sorted(present - needed - optional)
    ]
    if "SECRET" in present and kind is ChannelKind.EMAIL and "USER" not in present:
        reader.problems.append(f"{prefix}_SECRET is set without {prefix}_USER: set both, or neither")
    if "USER" in present and "SECRET" not in present:
        reader.problems.append(f"{prefix}_USER is set without {prefix}_SECRET: set both, or neither")

    def read(part: str, parse: Callable[[str], str]) -> str | None:
        wanted = part in needed | optional
        return reader.optional(setting, f"{prefix}_{part}", parse) if wanted else None

    judge = destination.mail if kind is ChannelKind.EMAIL else destination.web
    secret = variables.plain if kind is ChannelKind.EMAIL else _secret
    keys = (read("SECRET", secret), read("SECRET_PREVIOUS", secret))
    recipients = reader.optional(setting, f"{prefix}_TO", _addresses) if "TO" in needed else None
    return Channel(
        name=name.lower(),
        kind=kind,
        url=read("URL", lambda url: _judged(judge, url, allow_loopback)),
        secrets=tuple(key for key in keys if key is not None),
        user=read("USER", variables.plain),
        sender=read("FROM", _mail_address),
        recipients=recipients or (),
    )


def _judged(judge: Callable[..., object], url: str, allow_loopback: bool) -> str:
    try:
        judge(url, allow_loopback=allow_loopback)
    except DestinationRefused as wrong:
        raise VariableError(str(wrong)) from None
    return url


def _secret(text: str) -> str:
    if len(text) < SHORTEST_SECRET:
        raise VariableError(f"is short: take {SHORTEST_SECRET} characters or more, made by chance")
    return text


def _mail_address(text: str) -> str:
    if not ADDRESS.fullmatch(text):
        raise VariableError("is not an address: write NAME@HOST")
    return text


def _addresses(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found or len(found) > MAX_RECIPIENTS or not all(ADDRESS.fullmatch(one) for one in found):
        raise VariableError(f"is no list of addresses: write NAME@HOST, at most {MAX_RECIPIENTS} with commas between")
    return found
