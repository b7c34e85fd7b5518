"""Decides where deliveries may go: which URLs, and which addresses their hosts may have. Pure: resolves nothing.

A receiver is a public host. Whoever can write its URL or its DNS records must not reach what only our machines can
reach, so every address that a host resolves to is judged, and one bad address refuses the host. The development switch
(`TRACE_ALERTS_ALLOW_LOOPBACK`) lets this machine be a receiver, and nothing else that is not public.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from trace_ray.errors import DestinationRefused

WEB_PORTS: Final = {"https": 443, "http": 80}
SMTP_PORTS: Final = {"smtp": 587, "smtps": 465}  # submission with STARTTLS, and with TLS from the first byte
MAIL_PORTS: Final = (25, 465, 587, 2525)
FIRST_FREE_PORT: Final = 1024  # below it sit other protocols, which must not be fed with our bytes
MAX_URL: Final = 2048
MAX_HOST: Final = 253
MAX_ADDRESSES: Final = 16  # of one host; more is no receiver

Address = IPv4Address | IPv6Address

LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")

# IANA's registries of special addresses, with what answers for a cloud's machines on addresses that look public.
REFUSED_4: Final = {
    "unspecified": ("0.0.0.0/8",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "shared by a provider's customers": ("100.64.0.0/10",),
    "loopback": ("127.0.0.0/8",),
    "link-local": ("169.254.0.0/16",),
    "reserved": ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4"),
    "for documentation": ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    "multicast": ("224.0.0.0/4",),
    "a cloud's own service": ("168.63.129.16/32",),
}
REFUSED_6: Final = {
    "for documentation": ("2001:db8::/32", "3fff::/20"),
    "a tunnel": ("2001::/32", "2002::/16"),  # Teredo and 6to4 lead to an IPv4 address of the sender's choice
    "reserved": ("2001::/23",),
    "unspecified": ("::/128",),
    "loopback": ("::1/128",),
    "private": ("fc00::/7",),
    "link-local": ("fe80::/10", "fec0::/10"),
    "multicast": ("ff00::/8",),
}
GLOBAL_6: Final = IPv6Network("2000::/3")  # all that is handed out; what lies elsewhere is special, now or later
CARRIERS: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))  # the last 4 bytes are an IPv4 address

WALLS_4: Final = tuple((kind, IPv4Network(text)) for kind, texts in REFUSED_4.items() for text in texts)
WALLS_6: Final = tuple((kind, IPv6Network(text)) for kind, texts in REFUSED_6.items() for text in texts)


@dataclass(frozen=True, slots=True)
class Destination:
    """A place that was judged. `host` is without brackets; `target`: path and query. `secure`: TLS from the start."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "smtps")

    @property
    def authority(self) -> str:
        """Host and port as a request names them: the usual port of the scheme is left out."""
        named = f"[{self.host}]" if ":" in self.host else self.host
        return named if self.port == WEB_PORTS.get(self.scheme) else f"{named}:{self.port}"


# --- URLs ---------------------------------------------------------------------------------------------------------


def web(url: str, *, allow_loopback: bool) -> Destination:
    """Judge the URL of a webhook.

    Raises:
        DestinationRefused: its text ends a sentence that begins with the name of the setting, and holds no part of it.
    """
    advice = "write https://HOST/PATH"
    parts = _split(url, advice)
    host = _host(parts, advice)
    if parts.scheme not in WEB_PORTS:
        raise DestinationRefused(f"is not an https URL: {advice}")
    if parts.scheme == "http" and not (allow_loopback and is_loopback(host)):
        raise DestinationRefused(f"is not https, and whoever sits on the line could read it: {advice}")
    _judge_literal(host, allow_loopback)
    usual = WEB_PORTS[parts.scheme]
    port = parts.port or usual
    if port != usual and port < FIRST_FREE_PORT:
        raise DestinationRefused(f"names port {port}: take 443, or one from {FIRST_FREE_PORT} to 65535")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port, target)


def mail(url: str, *, allow_loopback: bool) -> Destination:
    """Judge the URL of a mail server, `smtp://HOST` (STARTTLS) or `smtps://HOST`, as `web` does."""
    advice = "write smtp://HOST:587 (STARTTLS) or smtps://HOST:465"
    parts = _split(url, advice)
    host = _host(parts, advice)
    if parts.scheme not in SMTP_PORTS or parts.path not in ("", "/") or parts.query:
        raise DestinationRefused(f"is not a mail server: {advice}")
    _judge_literal(host, allow_loopback)
    port = parts.port or SMTP_PORTS[parts.scheme]
    if port not in MAIL_PORTS and not (allow_loopback and port >= FIRST_FREE_PORT):
        raise DestinationRefused(f"names port {port}: mail is taken on {', '.join(map(str, MAIL_PORTS))}")
    return Destination(parts.scheme, host, port, "")


def _split(url: str, advice: str) -> SplitResult:
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise DestinationRefused(f"is not a URL of at most {MAX_URL} plain characters: {advice}")
    try:
        parts = urlsplit(url)
        is_port = parts.port != 0  # reading `port` is what checks it
    except ValueError:
        raise DestinationRefused(f"is not a URL: {advice}") from None
    if not is_port:
        raise DestinationRefused(f"is not a URL: {advice}")
    if "@" in parts.netloc:
        raise DestinationRefused("holds a user or a password: put the secret into ..._SECRET")
    if "#" in url:
        raise DestinationRefused("has a '#': remove it and what follows")
    return parts


def _host(parts: SplitResult, advice: str) -> str:
    """Return a host name or an address as `ip_address` reads it; other ways to write an address are refused."""
    host = (parts.hostname or "").removesuffix(".")
    if _address(host) is not None:
        return host
    labels = host.split(".")
    is_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1])  # 127.1, 2130706433, 0x7f.1: addresses in disguise
    if is_number or len(host) > MAX_HOST or not all(LABEL.fullmatch(label) for label in labels):
        raise DestinationRefused(f"names no host: {advice}, an international name in its xn-- form")
    return host


def _judge_literal(host: str, allow_loopback: bool) -> None:
    address = _address(host)
    wrong = None if address is None else refusal(address, allow_loopback=allow_loopback)
    if wrong is not None:
        raise DestinationRefused(f"names an address that is {wrong}: name a public host")
    if host.lower() == "localhost" and not allow_loopback:
        raise DestinationRefused("names this machine: name a public host")


def is_loopback(host: str) -> bool:
    """Whether a host of a judged URL is this machine by its name or address."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


# --- addresses ----------------------------------------------------------------------------------------------------


def refusal(address: Address, *, allow_loopback: bool) -> str | None:
    """Say what an address is that no delivery may go to; None for a public one, and with the switch for loopback."""
    if isinstance(address, IPv6Address):
        return _refusal_6(address, allow_loopback)
    kind = next((kind for kind, network in WALLS_4 if address in network), None)
    return None if kind == "loopback" and allow_loopback else kind


def _refusal_6(address: IPv6Address, allow_loopback: bool) -> str | None:
    if address.scope_id is not None:
        return "link-local"
    if any(address in carrier for carrier in CARRIERS):
        return refusal(IPv4Address(address.packed[-4:]), allow_loopback=False)
    kind = next((kind for kind, network in WALLS_6 if address in network), None)
    if kind == "loopback" and allow_loopback:
        return None
    return kind or (None if address in GLOBAL_6 else "reserved")


def checked(found: Sequence[str], *, allow_loopback: bool) -> list[str]:
    """Return the addresses that a host resolved to, in order and each once, when every one of them may be reached.

    Raises:
        DestinationRefused: one may not, or there is none, or they are too many. The text is a whole sentence and names
            no host.
    """
    addresses = list(dict.fromkeys(found))
    if not addresses or len(addresses) > MAX_ADDRESSES:
        raise DestinationRefused(f"the host has {len(addresses)} addresses: mend its DNS records")
    for text in addresses:
        address = _address(text)
        wrong = "unreadable" if address is None else refusal(address, allow_loopback=allow_loopback)
        if wrong is not None:
            raise DestinationRefused(f"an address of the host is {wrong}: deliveries go to public hosts only")
    return addresses
