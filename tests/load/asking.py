"""One client: it keeps its connection, asks, and may hang up. And what DuckDB itself answers, to compare with."""

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow as pa

from query.results import columns
from tests.integration.query.test_benign import is_ordered, plain

PATIENCE_S = 90.0
HUNG_UP = 0  # instead of a status: the client went away
BUSY = 429
MAX_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and body of an answer, and the seconds that it took."""

    status: int
    body: bytes
    seconds: float


class Client:
    """One connection with one token. For one thread."""

    def __init__(self, url: str, token: str) -> None:
        self._address = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, sql: str, *, patience_s: float = PATIENCE_S, form: str = "arrow") -> Reply:
        """Ask once; whoever waits longer than `patience_s` hangs up."""
        body = json.dumps({"sql": sql, "limit": MAX_ROWS, "format": form})
        began = time.perf_counter()
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port)
        connection.timeout = patience_s
        try:
            connection.connect() if connection.sock is None else connection.sock.settimeout(patience_s)
            connection.request("POST", "/v1/query", body, self._headers)
            response = connection.getresponse()
            found = Reply(response.status, response.read(), time.perf_counter() - began)
        except TimeoutError:
            self._connection = None
            connection.close()
            return Reply(HUNG_UP, b"", time.perf_counter() - began)
        self._connection = connection
        return found

    def answered(self, sql: str, stop: threading.Event) -> Reply:
        """Ask until there is an answer, as a client should: one that is told to come back does so after a moment.

        The seconds are those of all attempts.
        """
        began = time.perf_counter()
        while True:
            reply = self.ask(sql)
            if reply.status != BUSY or stop.wait(0.25):
                return Reply(reply.status, reply.body, time.perf_counter() - began)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Expected:
    """What plain DuckDB answers over the same files. Safe to share between threads."""

    def __init__(self, sources: Mapping[str, Sequence[str]], statements: Sequence[str]) -> None:
        connection = plain(sources)
        self._rows = {sql: shown(connection.execute(sql).to_arrow_table()) for sql in statements}
        self._seen: dict[str, pa.Table] = {}
        connection.close()

    def differs(self, sql: str, body: bytes) -> bool:
        """Say whether an Arrow answer has other rows than DuckDB's; ties may come in any order."""
        table = pa.ipc.open_stream(body).read_all()
        seen = self._seen.get(sql)
        if seen is not None and table.equals(seen):
            return False
        if shown(table) != self._rows[sql]:
            return True
        self._seen[sql] = table
        return False


def is_repeatable(sql: str) -> bool:
    """Say whether the rows are the same each time: two threads may cut others off where nothing orders them."""
    return "any_value" not in sql and (is_ordered(sql) or " limit " not in sql)


def shown(table: pa.Table) -> list[str]:
    """Rows as texts of what an answer shows; sums of fractions may end otherwise when two threads add them up."""
    return sorted(repr([_rounded(value) for value in row]) for row in zip(*columns(table), strict=True))


def _rounded(value: object) -> object:
    return float(f"{value:.9g}") if isinstance(value, float) else value
