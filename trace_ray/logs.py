"""Log lines: JSON for machines, one readable line for people. Everything that leaves here is redacted first.

A message is a constant and facts are fields (`extra`). Redaction is the last step before the stream, so that text of
other libraries and tracebacks pass through it too. SQL, tokens and credentials never pass.
"""

import json as json_text
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Final, TextIO, cast
from urllib.parse import quote, urlsplit
from uuid import UUID

logger = logging.getLogger("trace_ray")

PACKAGES: Final = ("trace_ray", "actors", "query", "state")
HIDDEN: Final = "(hidden)"
SHORTEST_SECRET: Final = 4  # characters; hiding shorter ones would blank out half of every line
MAX_TEXT: Final = 16_000  # characters of one value; a traceback needs 4,000
MAX_DEPTH: Final = 4

STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
PRIVATE_FIELD: Final = re.compile(
    r"sql|^query$|statement|token|secret|passwo?r?d|authori[sz]ation|cookie|credential|dsn|private_key|api_?key|access_key"
)
URL: Final = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s'\"<>]+")  # bounded, so that no text is slow to search
PAIR: Final = re.compile(
    r"(?P<name>(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|signature|credential)[\w-]{0,40}"
    r"['\"]?\s{0,9}[=:]\s{0,9})(?P<value>'[^']*'|\"[^\"]*\"|[^\s'\",;&)}\]]+)",
    re.IGNORECASE,
)
BEARER: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
JWT: Final = re.compile(r"\beyJ[\w-]{5,1024}\.[\w-]+\.?[\w-]*")
PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL)
SQL_LINE: Final = re.compile(
    r"^[ \t]*LINE \d+:.*(\n[ \t]*\^.*)?", re.MULTILINE
)  # Postgres and DuckDB quote the statement


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without credentials: known secrets, what URLs hold beside their host, tokens, quoted SQL."""
    for secret in sorted(_forms(secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = PEM.sub(HIDDEN, text)
    text = SQL_LINE.sub(f"LINE {HIDDEN}", text)
    text = URL.sub(lambda found: _bare_url(found[0]), text)
    text = JWT.sub(HIDDEN, text)
    text = BEARER.sub(lambda found: f"{found[1]} {HIDDEN}", text)
    return PAIR.sub(lambda found: f"{found['name']}{HIDDEN}", text)


def set_up(
    *,
    json: bool,
    level: int = logging.INFO,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send log lines to `stream` (standard error). May be called again: the last call counts.

    Other libraries are heard from WARNING on.
    """
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonLines(secrets) if json else PlainLines(secrets))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `set_up` replaces it and nobody else's."""


class JsonLines(logging.Formatter):
    """One JSON object per line: `at`, `level`, `logger`, `message`, the fields, and `error` with its traceback."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage(), self._secrets),
        }
        for name, value in _fields(record, self._secrets).items():
            line[name if name not in line else f"{name}_"] = value
        if error := _error(record, self._secrets):
            line["error"] = error
        return json_text.dumps(line, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """`11:03:12 INFO range ingested task_id=... rows=12`, a traceback below it."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        message = redact(record.getMessage(), self._secrets)
        fields = [f"{name}={value}" for name, value in _fields(record, self._secrets).items()]
        line = " ".join([f"{at:%H:%M:%S} {record.levelname}", message, *fields])
        line = line.replace("\r", "\\r").replace("\n", "\\n")  # one event is one line
        error = _error(record, self._secrets)
        return f"{line}\n{error}" if error else line


def _fields(record: logging.LogRecord, secrets: tuple[str, ...]) -> dict[str, object]:
    given = {name: value for name, value in vars(record).items() if name not in STANDARD and not name.startswith("_")}
    return {name: _field(name, value, secrets, depth=0) for name, value in given.items()}


def _field(name: str, value: object, secrets: tuple[str, ...], *, depth: int) -> object:
    """Return a value that JSON can carry and that is safe to show."""
    if PRIVATE_FIELD.search(name.lower()) and not name.endswith(("_hash", "_digest")):
        return HIDDEN
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return redact(value, secrets)[:MAX_TEXT]
        case UUID() | PurePath() | date() | Enum() | BaseException():
            return redact(str(value), secrets)[:MAX_TEXT]
        case Mapping() if depth < MAX_DEPTH:
            entries = cast(Mapping[object, object], value).items()
            return {
                redact(str(key), secrets): _field(str(key), entry, secrets, depth=depth + 1) for key, entry in entries
            }
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [_field(name, entry, secrets, depth=depth + 1) for entry in cast(Iterable[object], value)]
        case _:
            return f"<{type(value).__name__}>"  # its text may hold anything


def _error(record: logging.LogRecord, secrets: tuple[str, ...]) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return redact(text, secrets)[-MAX_TEXT:]  # the end names the error
    return None


def _bare_url(url: str) -> str:
    """Return scheme and host; the path too where it cannot hold a key (files, buckets)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    path = parts.path if parts.scheme in ("file", "s3") or not parts.path.strip("/") else "/..."
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{path}"


def _forms(secrets: Iterable[str]) -> set[str]:
    """Return each secret as it is and as a URL writes it."""
    return {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in (secret, quote(secret, safe=""))}
