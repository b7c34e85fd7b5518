"""Judges the text of environment variables, one function per kind of value. Pure but for a look at the file system.

Each function returns the value or raises `VariableError`, whose text ends a sentence that begins with the variable's
name. No such text repeats the value: it may hold a secret.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from uuid import UUID

from trace_ray.contracts import OrgId

BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
KEY_LENGTH: Final = 12  # providers' keys have 20 characters and more; words of a path are shorter
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
WEB_SOCKETS: Final = ("ws", "wss")

T = TypeVar("T")


class VariableError(Exception):
    """What is wrong with a value, as the end of a sentence."""


def directory(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise VariableError("is not a directory: name one, it is created when it is missing")
    return path


def file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        raise VariableError("is a directory: name a file")
    return path


def existing_file(text: str) -> Path:
    path = file(text)
    if not path.exists():
        raise VariableError("names no file that is there: write its whole path")
    return path


def database_url(text: str) -> str:
    parts = _split(text)
    if parts is None or parts.scheme not in ("postgresql", "postgres") or len(parts.path) < len("/d"):
        raise VariableError("is not a database URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return text


def store_url(text: str) -> str:
    advice = "write file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX"
    parts = _split(text)
    if parts is None:
        raise VariableError(f"is not a URL: {advice}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise VariableError("holds more than a place: set keys with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if ".." in unquote(parts.path).split("/"):
        raise VariableError(f"has '..' in its path: {advice}")
    if parts.scheme == "s3" and BUCKET.fullmatch(parts.netloc):
        return text.rstrip("/")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.strip("/"):
        return Path(unquote(parts.path)).as_uri()
    raise VariableError(f"is not an object store: {advice}")


def endpoint(text: str) -> str:
    parts = _http(text, "")
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise VariableError("holds more than a host: write http(s)://HOST:PORT, and keys into the AWS variables")
    return text.rstrip("/")


def service_url(text: str) -> str:
    parts = _http(text, "")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise VariableError("holds more than a place: write http(s)://HOST:PORT, and the token into TRACE_TOKEN")
    return text.rstrip("/")


def rpc_urls(text: str) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, url in enumerate(urls, start=1):
        _http(url, f"(URL {number} of {len(urls)}) " if len(urls) > 1 else "")
        if url in urls[: number - 1]:
            raise VariableError(f"names one provider twice (URLs {urls.index(url) + 1} and {number}): remove one")
    if not urls:
        raise VariableError("names no provider: write http(s)://HOST/..., several with commas between them")
    return urls


def rpc_url(text: str) -> tuple[str, ...]:
    if "," in text:
        raise VariableError("takes one URL: name it ..._URLS to give several")
    return rpc_urls(text)


def org_id(text: str) -> OrgId:
    try:
        return OrgId(UUID(text))
    except ValueError:
        raise VariableError("is not a UUID: write one like 00000000-0000-5000-8000-000000000001") from None


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise VariableError(f"is out of bounds: write a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of decimal numbers from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not low <= found <= high:
            raise VariableError(f"is out of bounds: write a number from {low:.15g} to {high:.15g}")
        return found

    return parse


def jwks_url(text: str) -> str:
    parts = _http(text, "")
    if "@" in parts.netloc:
        raise VariableError("holds a password: name an endpoint that needs none, its keys are public")
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise VariableError("is not https: whoever sits on the line could give out tokens")
    return text


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser that takes these names only."""

    def parse(text: str) -> str:
        if text not in names:
            raise VariableError(f"is not known: write {' or '.join(names)}")
        return text

    return parse


def plain(text: str) -> str:
    return text


def secrets(url: str) -> set[str]:
    """Return the parts of a URL that may be keys: its password, query values, and long parts of its path."""
    parts = urlsplit(url)
    words = [part for part in parts.path.split("/") if len(part) >= KEY_LENGTH]
    words += [value for _, value in parse_qsl(parts.query) if len(value) >= KEY_LENGTH]
    if parts.password:
        words.append(parts.password)
    return {form for word in words for form in (word, unquote(word))}


def _http(text: str, which: str) -> SplitResult:
    parts = _split(text)
    if parts is not None and parts.scheme in WEB_SOCKETS:
        raise VariableError(f"{which}is a WebSocket URL, which nothing retries: write its http(s):// form")
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        raise VariableError(f"{which}is not an http(s) URL: write http://HOST:PORT/... or https://HOST/...")
    if parts.fragment:
        raise VariableError(f"{which}has a '#': remove it and what follows")
    return parts


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        return parts if parts.port != 0 else None  # reading `port` is what checks it
    except ValueError:
        return None


class Reader:
    """Reads variables one by one and collects what is wrong, so that all of it is told at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: value.strip() for name, value in environ.items() if value.strip()}
        self.sources: dict[str, str] = {}
        self.problems: list[str] = []

    def optional(self, setting: str, variable: str, parse: Callable[[str], T]) -> T | None:
        """Return the parsed variable, or None when it is unset or wrong."""
        text = self.environ.get(variable)
        self.sources[setting] = variable if text else "default"
        if text is None:
            return None
        try:
            return parse(text)
        except VariableError as wrong:
            self.problems.append(f"{variable} {wrong}")
            return None

    def value(self, setting: str, variable: str, parse: Callable[[str], T], default: T) -> T:
        found = self.optional(setting, variable, parse)
        return default if found is None else found
