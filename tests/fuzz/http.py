"""Holds the whole service against requests made by chance, several at a time: what must be true of every response.

It comes, with a status of the reference; a failure is contained in its worker and no bug of ours; without its token
nothing is answered; a refusal has the shape that the reference says, and quotes no statement; no secret is told; what
was answered has no objection of the second opinion; and the audit holds the same outcome.
"""

import contextlib
import http.client
import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import jwt
from hypothesis import given, seed, settings

from tests.besieged import DATASETS, Besieged, forms
from tests.fuzz.batch import SLOW
from tests.fuzz.naive import objections
from tests.fuzz.requests import OPEN, Drawn, Route, Token, damaged, volleys

ANSWER_S = 60.0  # longest that a response may take: many times the deadline of a question
QUESTION_S = 2.0  # for a question: most are answered, and a bomb does not hold up the others
DAMAGED_S = 0.5  # bytes that are no request need no response
STATUSES = {200, 400, 401, 403, 404, 405, 413, 422, 429, 500, 504}
OURS = {"INTERNAL", "AUDIT_FAILED", "WORKER_UNAVAILABLE", "OBJECT_STORE_ERROR"}  # nothing is broken here
BEFORE_TOKENS = {404, 405, 413}
SHORT = 20  # characters that a sentence may hold by chance
NEXT = "select count(*) as n from devnet_blocks where block_number < 7"
NEXT_EVERY = 10  # volleys
PARSING = Lock()  # the engine that reads statements for the second opinion serves one thread


@dataclass
class Tally:
    """What became of the requests of one run; questions by id with their codes; statements that ended a worker."""

    ends: Counter[str] = field(default_factory=Counter[str])
    codes: dict[str, str] = field(default_factory=dict[str, str])
    crashes: set[str] = field(default_factory=set[str])
    volleys: int = 0


@dataclass(frozen=True)
class Response:
    status: int
    kind: str
    headers: str
    body: bytes

    def json(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict), "no object"
        return found


def run(target: Besieged, start: int, examples: int, tally: Tally) -> None:
    """Hold the service against so many volleys drawn from a seed.

    Raises:
        AssertionError: a response breaks a rule. Hypothesis adds the smallest volley that does.
    """

    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=SLOW)
    @given(volleys)
    def each(volley: list[Drawn]) -> None:
        with ThreadPoolExecutor(len(volley)) as threads:
            tally.ends.update(threads.map(partial(hold, target, tally), volley))
        tally.volleys += 1
        if tally.volleys % NEXT_EVERY == 0:
            serves(target)

    each()
    recorded = target.ends()
    differs = {query: (code, recorded.get(query)) for query, code in tally.codes.items() if recorded.get(query) != code}
    assert not differs, f"the audit differs: {differs}"


def serves(target: Besieged) -> None:
    """The next question is answered, by both replicas."""
    for answer in (target.as_task(target.brisk_with_people, NEXT), target.as_person(target.brisk_with_tasks, NEXT)):
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == [[7]]


def hold(target: Besieged, tally: Tally, drawn: Drawn) -> str:
    """Send a request and hold its response to the rules; return how it ended."""
    service = target.brisk_with_people if drawn.route is Route.PERSON else target.brisk_with_tasks
    body = drawn.body.replace(b"{task}", str(target.lease.task.task_id).encode())
    body = body.replace(b'"{attempt}"', str(target.lease.attempt).encode())
    content = bytes_of(drawn, body, token(target, drawn))
    if drawn.damage is not None:
        content = damaged(content, drawn.at, drawn.damage)
    response = sent(service.url, content, drawn)
    if response is None:
        assert drawn.damage is not None, "no response"
        return "no response to what is no request"
    tells_no_secret(target, response)
    if drawn.damage is None:
        return judged(response, drawn, body, tally)
    assert response.status < 500 or b"WORKER_CRASH" in response.body or b"QUERY_TIMEOUT" in response.body
    return f"{response.status} to damaged bytes"


# --- there and back -----------------------------------------------------------------------------------------------


def token(target: Besieged, drawn: Drawn) -> str | None:
    """The token to send with a request."""
    both = {Route.PERSON: target.token, Route.TASK: target.capability}
    right = both[drawn.route]
    match drawn.token:
        case Token.RIGHT:
            return right
        case Token.NONE:
            return None
        case Token.OTHER:
            return next(other for route, other in both.items() if route is not drawn.route)
        case Token.CUT:
            return right[: drawn.at % (len(right) - 1)]
        case Token.CHANGED:
            at = drawn.at % (len(right) - 1)  # the last character has bits that mean nothing
            return right[:at] + ("A" if right[at] != "A" else "B") + right[at + 1 :]
        case Token.UNSIGNED:
            return jwt.encode(
                claims(right), "", algorithm="none", headers={"kid": jwt.get_unverified_header(right)["kid"]}
            )
        case Token.RESIGNED:
            return jwt.encode(claims(right), "k" * 32, algorithm="HS256", headers=jwt.get_unverified_header(right))
        case Token.NOISE:
            return "".join(chr(33 + drawn.at * step % 94) for step in range(1, 60))


def claims(right: str) -> dict[str, object]:
    return jwt.decode(right, options={"verify_signature": False})


def bytes_of(drawn: Drawn, body: bytes, given_token: str | None) -> bytes:
    """The request as HTTP/1.1; it asks to close the connection after its response."""
    lines = [f"{drawn.method} {drawn.path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    if given_token is not None:
        named = "Authorization: Bearer " if drawn.route is Route.PERSON else "X-Trace-Task-Capability: "
        lines.append(named + given_token)
    lines += [f"{name}: {value}" for name, value in drawn.headers]
    if drawn.chunk is None:
        lines.append(f"Content-Length: {len(body)}")
    else:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + drawn.chunk] for at in range(0, len(body), drawn.chunk)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def sent(url: str, content: bytes, drawn: Drawn) -> Response | None:
    """Send bytes on a connection of their own; None when it is closed without a response."""
    host, _, port = url.removeprefix("http://").partition(":")
    patience = ANSWER_S if drawn.damage is None else DAMAGED_S
    with socket.create_connection((host, int(port)), timeout=patience) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before all is sent
            connection.sendall(content)
        response = http.client.HTTPResponse(connection, method=drawn.method)
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, OSError):
            if drawn.damage is None:
                raise
            return None
        headers = "\n".join(f"{name}: {value}" for name, value in response.getheaders())
        return Response(response.status, response.headers.get_content_type(), headers, body)


# --- rules --------------------------------------------------------------------------------------------------------


def tells_no_secret(target: Besieged, response: Response) -> None:
    text = response.body.decode(errors="replace") + response.headers
    told = [form for secret in target.secrets for form in forms(secret) if form in text]
    assert not told, f"told {told}"
    if response.status != 200:
        assert str(target.settings.data_dir) not in text


def judged(response: Response, drawn: Drawn, body: bytes, tally: Tally) -> str:
    """Hold a response to a sound request to the rules; return how it ended."""
    assert response.status in STATUSES, response
    asks = drawn.method == "POST" and drawn.path == drawn.route.value
    if drawn.method == "HEAD":
        return f"{response.status} HEAD"
    if response.status == 200:
        assert drawn.token is Token.RIGHT or drawn.path in OPEN, "answered without its token"
        if asks:
            answered(response, sql_of(body), tally)
        return "200"
    code = refused(response, sql_of(body), tally)
    if asks and drawn.token is not Token.RIGHT:
        assert response.status in {401, *BEFORE_TOKENS}, f"{code} without its token"
    return f"{response.status} {code}"


def answered(response: Response, sql: str, tally: Tally) -> None:
    with PARSING:
        found = objections(sql, (*DATASETS, "dataset"))
    assert not found, f"answered in spite of {found}: {sql!r}"
    for line in response.headers.splitlines():
        name, _, value = line.partition(": ")
        if name.lower() == "x-trace-query-id":
            tally.codes[value] = "OK"


def refused(response: Response, sql: str, tally: Tally) -> str:
    assert response.kind == "application/json", response
    body = response.json()
    error = body["error"]
    assert isinstance(error, dict)
    assert (set(body), set(error)) == ({"error"}, {"code", "message", "detail"}), body
    code, query = str(error["code"]), error["detail"].get("query_id")
    assert code not in OURS, error
    assert response.status != 500 or code == "WORKER_CRASH", error
    may_be_named = len(sql) <= SHORT or sql.strip().isidentifier()
    assert may_be_named or sql not in str(error["message"]), "quotes the statement"
    if query is not None:
        tally.codes[query] = code
    if code == "WORKER_CRASH":
        tally.crashes.add(sql)
    return code


def sql_of(body: bytes) -> str:
    """The statement of a body, as a reader of JSON finds it; empty when there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    sql = found.get("sql") if isinstance(found, dict) else None
    return sql if isinstance(sql, str) else ""
