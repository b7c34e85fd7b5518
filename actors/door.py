"""The door of an evaluation to the query service. The capability token stays on this side of it.

A handler may ask for more rows than an answer carries. The service then stores all of them, and they are read here and
passed on: a handler never learns a location.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from uuid import UUID

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from actors.sandbox.invoker import QueryAnswer, QueryCall
from actors.sandbox.limits import ROWS_PER_QUERY
from query import results
from query.question import MAX_LIMIT, Answer, Column, SnapshotEntry
from trace_ray.alerts import EvaluationLease
from trace_ray.contracts import BlockRange
from trace_ray.errors import ObjectMissing, StoreUnavailable
from trace_ray.storage import ObjectStore

Refusal = dict[str, dict[str, Any]]

ROUTE: Final = "/v1/task/query"
CAPABILITY: Final = "X-Trace-Task-Capability"
OK, TOO_MANY_BYTES, NO_SERVICE = 200, 413, 502
JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
MOST_BYTES: Final = 512 << 20  # Arrow in memory; the sandbox's own cap counts what is sent
TOO_LARGE: Final[Refusal] = {
    "error": {"code": "TOO_LARGE", "message": "too many bytes: select fewer columns", "detail": {}}
}
UNAVAILABLE: Final[Refusal] = {
    "error": {"code": "UNAVAILABLE", "message": "the query service does not answer", "detail": {}}
}


class Door:
    """Asks for one attempt. Threads may share it."""

    def __init__(
        self, http: httpx.Client, store: ObjectStore, lease: EvaluationLease, token: str, *, scratch: Path
    ) -> None:
        """Args: http: bound to the query service; scratch: where large answers lie for a moment."""
        self._http = http
        self._store = store
        self._lease = lease
        self._token = token
        self._scratch = scratch

    def __call__(self, call: QueryCall) -> QueryAnswer:
        wanted = min(call.limit if call.limit is not None else ROWS_PER_QUERY, ROWS_PER_QUERY)
        body: dict[str, Any] = {
            "sql": call.sql,
            "limit": min(wanted, MAX_LIMIT),
            "format": call.format,
            "task_id": str(self._lease.evaluation.task_id),
            "attempt": self._lease.attempt,
        }
        if call.dataset_id is not None:
            body["dataset_id"] = call.dataset_id
        try:
            response = self._http.post(ROUTE, json=body, headers={CAPABILITY: self._token})
            if not response.is_success or wanted <= MAX_LIMIT:
                return _passed_on(response)
            return self._whole(response, call, wanted)
        except (httpx.HTTPError, StoreUnavailable, ObjectMissing):
            return QueryAnswer(NO_SERVICE, JSON, orjson.dumps(UNAVAILABLE))

    def _whole(self, response: httpx.Response, call: QueryCall, wanted: int) -> QueryAnswer:
        """Return the answer with all its rows, as many as are wanted, whether it carries them or they were stored."""
        head = _head(response, call.format)
        if head.location is None:
            return _passed_on(response)
        rows = self._stored(head.location, wanted)
        if rows is None:
            return QueryAnswer(TOO_MANY_BYTES, JSON, orjson.dumps(TOO_LARGE))
        return rendered(
            replace(head, table=rows.slice(0, wanted), truncated=rows.num_rows > wanted, location=None), call.format
        )

    def _stored(self, location: str, wanted: int) -> pa.Table | None:
        """Return the first rows of a stored answer, one more than are wanted; None when they are too many bytes."""
        key = location[location.rindex(f"results/{self._lease.rule.org_id}/") :]
        with TemporaryDirectory(dir=self._scratch) as directory:
            path = Path(directory) / "result.parquet"
            self._store.get(key, path)
            return first_rows(path, wanted)


def first_rows(path: Path, wanted: int) -> pa.Table | None:
    """Return the first rows of a Parquet file, one more than are wanted if there are; None: they are too many bytes."""
    file = pq.ParquetFile(path)
    taken: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in file.iter_batches():  # pyright: ignore[reportUnknownMemberType] - partial stub
        taken.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if size > MOST_BYTES:
            return None
        if rows > wanted:
            break
    return pa.Table.from_batches(taken, file.schema_arrow)


def rendered(answer: Answer, form: Literal["json", "arrow"]) -> QueryAnswer:
    """Return an answer as a handler gets it."""
    if form == "arrow":
        return QueryAnswer(OK, ARROW, results.to_arrow(answer))
    return QueryAnswer(OK, JSON, results.to_json(answer))


def _passed_on(response: httpx.Response) -> QueryAnswer:
    return QueryAnswer(response.status_code, response.headers.get("Content-Type", JSON), response.content)


def _head(response: httpx.Response, form: str) -> Answer:
    """Return what an answer says beside its rows."""
    if form == "arrow":
        schema = pa.ipc.open_stream(response.content).schema
        names, types = schema.names, orjson.loads((schema.metadata or {})[b"types"])
    else:
        columns = orjson.loads(response.content)["columns"]
        names, types = [one["name"] for one in columns], [one["type"] for one in columns]
    return Answer(
        query_id=UUID(response.headers["X-Trace-Query-Id"]),
        columns=tuple(Column(name, kind) for name, kind in zip(names, types, strict=True)),
        table=pa.table({}),
        truncated=True,
        snapshot=tuple(
            SnapshotEntry(
                one["name"],
                one["snapshot"],
                one["from_block"],
                one["to_block"],
                tuple(BlockRange(*gap) for gap in one["gaps"]),
            )
            for one in orjson.loads(response.headers["X-Trace-Snapshot"])
        ),
        files_read=0,
        files_total=0,
        seconds=0.0,
        location=response.headers.get("X-Trace-Location"),
    )
