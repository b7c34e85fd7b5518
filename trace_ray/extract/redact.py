"""Makes text of a program that knows a provider's URL fit for people: no part of the URL is left. Pure."""

import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

KEEP_CHARS: Final = 8 * 1024  # errors quote whole answers of the node; the end says what happened
SUMMARY_CHARS: Final = 300  # fits a line of `status` and a row of the ledger
SHORT: Final = 4  # a shorter path part or query value is a version or a flag, and would tear ordinary words apart

_ANY_URL: Final = re.compile(r"\b(?:https?|wss?)://[^\s\"'<>)\]}]+", re.IGNORECASE)


def redact(text: str, url: str) -> str:
    """Return the text without the URL, its host, user, password, path parts and query values, and without any URL."""
    for secret in _secrets(url):
        text = text.replace(secret, "[redacted]")
    return _ANY_URL.sub("[url]", text)


def readable(output: bytes, url: str, *, is_cut: bool) -> str:
    """Return the end of a program's output, redacted. `is_cut`: its beginning is missing."""
    text = redact(output.decode(errors="replace"), url)
    if is_cut:  # it may begin in the middle of a secret, which `redact` cannot know
        text = text[len(url) :]
    return text[-KEEP_CHARS:]


def error_summary(output: str) -> str:
    """Return what Cryo's output names as its errors, in one line; empty when it names none."""
    _, found, rest = output.partition("error summary")
    if not found:
        return ""
    lines = [line.strip() for line in rest.partition("collection summary")[0].splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(("─", "(errors in")))
    return text if len(text) <= SUMMARY_CHARS else text[:SUMMARY_CHARS] + "..."


def _secrets(url: str) -> list[str]:
    """Return every spelling of every part that must not be seen, longest first."""
    parts = urlsplit(url)
    always = {url, url.rstrip("/"), parts.netloc, parts.hostname, parts.username, parts.password}
    path_parts = parts.path.split("/")
    query_values = [value for _, value in parse_qsl(parts.query)] + re.split("[&=]", parts.query)
    long = {parts.path, parts.query, parts.fragment, *path_parts, *query_values}
    plain = {part for part in always if part} | {part for part in long if len(part) >= SHORT}
    spellings = {spelling for part in plain for spelling in (part, unquote(part), quote(part), quote(part, safe=""))}
    return sorted(spellings, key=lambda secret: (-len(secret), secret))
