"""Strategies for requests: bodies around SQL of the corpora, tokens and headers of all kinds, bytes that are no HTTP.

A drawn request knows no token yet; `tests.fuzz.http` fills it in, so that the same draw serves every stack.
"""

import json
from dataclasses import dataclass
from enum import Enum

from hypothesis import strategies as st

from tests.besieged import DATASETS
from tests.fuzz.texts import places, statements
from tests.query_corpus.corpus import benign


class Route(Enum):
    """Where a question goes; each has a token of its own."""

    PERSON = "/v1/query"
    TASK = "/v1/task/query"


class Token(Enum):
    """What is sent as the token."""

    RIGHT = "right"
    NONE = "none"
    OTHER = "that of the other route"
    CUT = "cut"
    CHANGED = "changed in one character"
    UNSIGNED = "unsigned"
    RESIGNED = "signed with another key"
    NOISE = "noise"


@dataclass(frozen=True)
class Drawn:
    """A request without its token. `body` may name {task} and {attempt}; `at` says where a token is damaged."""

    route: Route
    method: str
    path: str
    token: Token
    at: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunk: int | None  # bytes of a chunk; None tells the length instead
    damage: bytes | None  # put into the bytes of the whole, at `at`; then it need not be HTTP any more


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20),
    st.sampled_from([2**53, 2**63, -1, 0, 10**30, "1", [], {}, [[]], ["select 1"], {"sql": "select 1"}]),
)  # fmt: skip
formats = st.sampled_from(["json", "ndjson", "csv", "arrow"])
names = st.one_of(
    st.sampled_from([*DATASETS, "nosuch", "", "\0", "x" * 129, "devnet_blocks; --"]), st.text(max_size=20)
)
sql = st.one_of(statements, statements, st.sampled_from(benign()))
USUAL = {
    "limit": st.integers(-5, 20_000),
    "format": formats,
    "as_of": st.sampled_from([*[None] * 8, 0, 1, 17, 18, 19]),  # 18 is the newest
    "dataset_id": names,
    "dry_run": st.booleans(),
}


def one_in(draw: st.DrawFn, times: int) -> bool:
    """True once in so many times; the others are the simpler choice."""
    return draw(st.sampled_from(range(times))) == times - 1


@st.composite
def questions(draw: st.DrawFn, route: Route) -> dict[str, object]:
    """The fields of a body; some have a value of the wrong kind, some are not known."""
    found: dict[str, object] = dict(draw(st.fixed_dictionaries({"sql": sql}, optional=USUAL)))
    if route is Route.TASK:
        found |= {"task_id": "{task}", "attempt": "{attempt}"}
        if not one_in(draw, 6):
            found.pop("dry_run", None)
    if one_in(draw, 8):
        found[draw(st.sampled_from([*found, "SQL", "sql ", "__class__", "query"]))] = draw(odd)
    return found


ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "latin-1")
DAMAGE = (b"\x00", b"\xff", b"\r\n\r\n", b'"', b"}", b"[" * 3_000, b'{"a":' * 3_000, b"\\ud800", b"9" * 5_000, b"/**/",
          b"\r\nTransfer-Encoding: chunked\r\n", b"\r\nContent-Length: 5\r\n", b"GET / HTTP/1.1\r\n\r\n",
          b"\x16\x03\x01", b"x" * 70_000)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn, route: Route) -> bytes:
    if one_in(draw, 12):
        return draw(st.one_of(st.binary(max_size=200), odd.map(lambda value: json.dumps(value).encode())))
    text = json.dumps(draw(questions(route)), ensure_ascii=draw(st.booleans()))
    body = text.encode(draw(st.sampled_from(ENCODINGS)) if one_in(draw, 16) else "utf-8", "replace")
    return damaged(body, draw(places), draw(st.sampled_from(DAMAGE))) if one_in(draw, 12) else body


def damaged(content: bytes, at: int, damage: bytes) -> bytes:
    """Put bytes into others, or half of the time in the place of as many."""
    start = at % (len(content) + 1)
    return content[:start] + damage + content[start + (len(damage) if at % 2 else 0) :]


KINDS = st.sampled_from(["application/json"] * 30 + ["application/json; charset=utf-16", "text/plain", "",
                         "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])  # fmt: skip
HEADERS = (
    ("Accept", "text/html"), ("Accept-Encoding", "gzip, br, zstd"), ("Content-Encoding", "gzip"), ("Cookie", "a=b; c"),
    ("Expect", "100-continue"), ("If-None-Match", "*"), ("Origin", "https://example.com"), ("Range", "bytes=0-1"),
    ("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Host", "example.com"), ("X-HTTP-Method-Override", "DELETE"),
    ("X-Original-URL", "/v1/datasets"), ("X-Trace-Query-Id", "0"), ("X-Long", "a" * 8_000), ("X-Latin", "\xe4\xff"),
    ("Authorization", "Basic YTpi"), ("Forwarded", "for=127.0.0.1;proto=https"), ("Via", "1.1 x"), ("TE", "trailers"),
)  # fmt: skip
OPEN = ("/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json", "/docs")  # need no token
PATHS = (
    "/", "/v1", "/v1/datasets", "/v1/datasets/devnet_blocks", "/v1/datasets/nosuch", "/v1/datasets/%00",
    "/v1/datasets/..%2f..%2fetc%2fpasswd", "/v1/datasets/%F0%9F%98%80", "/v1/datasets/" + "a" * 3_000, "/v1/queries/0",
    "/v1/queries/00000000-0000-4000-8000-000000000000", "/v1/queries/00000000-0000-4000-8000-000000000000/result",
    "/v1/query/", "//v1/query", "/v1/query?sql=select%201", "/v1/query%00", "/V1/QUERY", "/v1/query/../query",
    "/v1/%71uery", "http://example.com/v1/query", "/v1/queries/%2e%2e/result", "*", *OPEN,
)  # fmt: skip
METHODS = (*["GET"] * 16, "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE")
TOKENS = [Token.RIGHT] * 24 + list(Token)


@st.composite
def requests(draw: st.DrawFn) -> Drawn:
    route = draw(st.sampled_from(Route))
    asks = not one_in(draw, 6)
    kind = draw(KINDS)
    return Drawn(
        route=route,
        method="POST" if asks else draw(st.sampled_from(METHODS)),
        path=route.value if asks else draw(st.sampled_from((*PATHS, route.value))),
        token=draw(st.sampled_from(TOKENS)),
        at=draw(places),
        headers=(*((("Content-Type", kind),) if kind else ()), *draw(st.lists(st.sampled_from(HEADERS), max_size=3))),
        body=draw(bodies(route)),
        chunk=draw(st.integers(1, 400)) if one_in(draw, 4) else None,
        damage=draw(st.sampled_from(DAMAGE)) if one_in(draw, 12) else None,
    )


volleys = st.lists(requests(), min_size=1, max_size=4)
