"""Questions to a query service from Python: SQL in, an Arrow table out. Needs no Ray, no Postgres and no DuckDB.

    from trace_ray.client import Client

    client = Client("http://127.0.0.1:8000", token="...")
    frame = client.query("select block_number, gas_used from devnet_blocks").to_pandas()

A busy service (429, 503) is asked again when it says so, within a time limit; nothing else is ever sent twice.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx
import pyarrow as pa
from httpx_retries import Retry, RetryTransport

from trace_ray.errors import FatalError, RefusedInput, TraceError, TransientError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from _typeshed import WriteableBuffer

TIMEOUT_S: Final = 90.0  # the service itself ends a question after 60 s
CONNECT_S: Final = 5.0
BUSY: Final = (429, 503)
LATER: Final = (*BUSY, 502, 504)
RETRIES: Final = 10
WAIT_S: Final = 30.0  # spent waiting for a busy service before its refusal is passed on
CHUNK: Final = 64 * 1024
SILENT: Final = "the query service does not answer: check that it runs and that its URL is right"
GARBLED: Final = "the answer is none of trace_ray's: check the URL of the query service"


# --- errors -------------------------------------------------------------------------------------------------------


class ServiceError(TraceError):
    """The service gave no rows. The message is one sentence; the attributes are for programs.

    `code` is the service's word for it (`SQL_REJECTED`, `QUERY_TIMEOUT`, ...), `reason` says more about a refused
    statement, `position` is the character of the SQL, counted from 1, and `query_id` finds the question in the audit.
    """

    def __init__(self, message: str, *, code: str, status: int | None = None, detail: Mapping[str, Any] | None = None):
        super().__init__(message)
        said = detail or {}
        self.code = code
        self.status = status
        self.reason: str | None = said.get("reason")
        self.position: int | None = said.get("position")
        self.query_id: str | None = said.get("query_id")


class QueryRefused(ServiceError, FatalError):
    """Asking the same again cannot help: the SQL, the token or the question's size has to change."""


class ServiceUnavailable(ServiceError, TransientError):
    """The service is busy, starting, or not there; the same question may be answered later."""


# --- answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of an answer, and what they were read from.

    `types` are DuckDB's names of the columns' types. `snapshot` has one entry per dataset: name, snapshot, from_block,
    to_block, gaps. When there are more rows than an answer may carry, `truncated` is true, and `location` says where
    all of them are as Parquet; `Client.download` fetches that file.
    """

    table: pa.Table = field(repr=False)
    query_id: str
    truncated: bool
    types: tuple[str, ...]
    snapshot: tuple[Mapping[str, Any], ...]
    location: str | None

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a pandas DataFrame; binary columns hold `bytes`."""
        _need("pandas")
        return self.table.to_pandas()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - partial stub

    def to_polars(self) -> "pl.DataFrame":
        """Return the rows as a polars DataFrame; binary columns hold `bytes`."""
        _need("polars")
        import polars as pl  # not needed by those who want Arrow

        frame = pl.from_arrow(self.table)  # pyright: ignore[reportUnknownMemberType] - open type arguments of pyarrow
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"{package} is not installed here: run `pip install {package}`", name=package)


# --- questions ----------------------------------------------------------------------------------------------------


class Client:
    """A query service and the token to ask it with. Threads may share one; close it, or use it as a context manager."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = TIMEOUT_S, wait: float = WAIT_S) -> None:
        """Open a client; nothing is sent yet.

        Args:
            url: Of the service, such as `http://127.0.0.1:8000`.
            token: A user token, made by `trace-ray token`.
            timeout: Seconds without a byte after which a request is given up.
            wait: Seconds to go on asking a service that says it is busy; 0 asks once.

        Raises:
            RefusedInput: the URL or the token cannot be one.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RefusedInput("the URL of the query service is none: write http(s)://HOST:PORT")
        if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
            raise RefusedInput("the token has characters that no token has: copy what `trace-ray token` printed")
        retry = Retry(
            total=RETRIES if wait > 0 else 0,
            allowed_methods=["GET", "POST"],  # every route only reads
            status_forcelist=BUSY,
            retry_on_exceptions=(),
            backoff_factor=0.25,
            max_backoff_wait=max(wait, 0.001),
            total_timeout=max(wait, 0.001),
        )
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
            transport=RetryTransport(retry=retry),
        )

    @classmethod
    def from_settings(cls, *, timeout: float = TIMEOUT_S, wait: float = WAIT_S) -> Self:
        """Open a client for TRACE_URL with the token TRACE_TOKEN.

        Raises:
            RefusedInput: one of them is missing or wrong.
        """
        from trace_ray.config import read_client_settings  # pydantic and YAML, which others need not wait for

        settings = read_client_settings()
        return cls(settings.url, settings.token, timeout=timeout, wait=wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def query(
        self,
        sql: str,
        *,
        limit: int | None = None,
        as_of: int | None = None,
        dataset: str | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Ask one SELECT and return its rows.

        Args:
            limit: Rows at the most; 1,000 without it, 10,000 at most.
            as_of: A snapshot that an earlier answer named; the same question then gives the same rows.
            dataset: A dataset (name or UUID) that is also called `dataset` in the SQL.
            timeout: Seconds without a byte; the client's without it.

        Raises:
            QueryRefused: the statement or the token is refused, or the statement fails.
            ServiceUnavailable: the service is busy or not there.
        """
        body = {"sql": sql, "format": "arrow", **_given(limit=limit, as_of=as_of, dataset_id=dataset)}
        with self._answer("POST", "/v1/query", body, timeout) as response:
            return _result(response)

    def dry_run(
        self, sql: str, *, as_of: int | None = None, dataset: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return which files, bytes and blocks of each dataset the statement would read, without running it."""
        body = {"sql": sql, "dry_run": True, **_given(as_of=as_of, dataset_id=dataset)}
        return self._document("POST", "/v1/query", body, timeout)

    def datasets(self) -> list[dict[str, Any]]:
        """Return what you may read: names, snapshots, blocks, rows, gaps."""
        found: list[dict[str, Any]] = self._document("GET", "/v1/datasets")["datasets"]
        return found

    def dataset(self, name: str) -> dict[str, Any]:
        """Return one dataset: its columns with types and meaning, its coverage, questions to begin with."""
        return self._document("GET", f"/v1/datasets/{_segment(name)}")

    def download(self, query_id: str | UUID, path: Path | str) -> Path:
        """Write all rows of a large answer as Parquet to `path`; they are kept for seven days."""
        target = Path(path)
        with (
            self._answer("GET", f"/v1/queries/{_segment(str(query_id))}/result") as response,
            target.open("wb") as file,
        ):
            for piece in _pieces(response):
                file.write(piece)
        return target

    def _document(
        self, method: str, route: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        with self._answer(method, route, body, timeout) as response:
            content = b"".join(_pieces(response))
        return _object(content)

    def _answer(
        self, method: str, route: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> "_Answer":
        waits = httpx.USE_CLIENT_DEFAULT if timeout is None else httpx.Timeout(timeout, connect=CONNECT_S)
        request = self._http.build_request(method, route, json=body, timeout=waits)
        return _Answer(self._http, request)


class _Answer:
    """A response whose head has come and is good; its body streams. Leaving it closes the connection."""

    def __init__(self, http: httpx.Client, request: httpx.Request) -> None:
        try:
            self._response = http.send(request, stream=True, follow_redirects=True)
        except httpx.RequestError as error:
            raise ServiceUnavailable(SILENT, code="UNREACHABLE") from error

    def __enter__(self) -> httpx.Response:
        if self._response.is_success:
            return self._response
        try:
            raise _error(self._response.status_code, b"".join(_pieces(self._response)))
        finally:
            self._response.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._response.close()


def _given(**fields: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in fields.items() if value is not None}


def _segment(name: str) -> str:
    """Return a name as one segment of a route."""
    return quote(name, safe="")


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes(CHUNK)
    except httpx.RequestError as error:
        raise ServiceUnavailable("the answer broke off: ask again", code="UNREACHABLE") from error


class _Body(io.RawIOBase):
    """The body of a response as a file, so that Arrow reads it as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__()
        self._pieces = _pieces(response)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        room = memoryview(buffer).cast("B")
        if not self._rest:
            self._rest = next(self._pieces, b"")
        taken, self._rest = self._rest[: len(room)], self._rest[len(room) :]
        room[: len(taken)] = taken
        return len(taken)


def _result(response: httpx.Response) -> Result:
    try:
        table = pa.ipc.open_stream(io.BufferedReader(_Body(response))).read_all()
        said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        return Result(
            table=table,
            query_id=said["query_id"],
            truncated=said["truncated"] == "true",
            types=tuple(json.loads(said["types"])),
            snapshot=tuple(json.loads(said["snapshot"])),
            location=said.get("location"),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise QueryRefused(GARBLED, code="NO_ANSWER", status=response.status_code) from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise QueryRefused(GARBLED, code="NO_ANSWER")
    return found  # pyright: ignore[reportUnknownVariableType] - JSON


def _error(status: int, content: bytes) -> ServiceError:
    """Turn an answer that is no rows into an exception; one that is not ours tells its status only."""
    kind = ServiceUnavailable if status in LATER else QueryRefused
    try:
        said = json.loads(content)["error"]
        message, code, detail = str(said["message"]), str(said["code"]), dict(said["detail"])
    except (ValueError, KeyError, TypeError):
        return kind(f"the query service answers with status {status} and no reason", code="NO_ANSWER", status=status)
    return kind(message, code=code, status=status, detail=detail)
