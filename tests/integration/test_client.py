"""The Python client against a real HTTP server that speaks the contract of SPEC section 6."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse

from query import results
from query.question import Answer, Column, SnapshotEntry
from trace_ray import client
from trace_ray.client import Client, QueryRefused, ServiceError, ServiceUnavailable
from trace_ray.contracts import BlockRange
from trace_ray.errors import FatalError, RefusedInput, TransientError

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a.user.token"
QUERY_ID = UUID(int=7)
ROWS = pa.table({"block_number": pa.array([1, 2], pa.int64()), "hash": pa.array([b"\x01", None], pa.binary())})


def answer(table: pa.Table = ROWS, *, truncated: bool = False, location: str | None = None) -> bytes:
    """Rows as the service itself writes them."""
    columns = tuple(Column(name, {"block_number": "BIGINT"}.get(name, "BLOB")) for name in table.column_names)
    snapshot = (SnapshotEntry("devnet_blocks", 6, 0, 60, (BlockRange(60, 70),)),)
    return results.to_arrow(
        Answer(QUERY_ID, columns, table, truncated, snapshot, 1, 2, 0.1, location=location)
    )  # fmt: skip


def refusal(status: int, code: str, detail: dict[str, Any], **headers: str) -> Response:
    body = {"error": {"code": code, "message": f"one sentence about {code}", "detail": detail}}
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Server:
    """A service whose answers each test chooses, and what it was asked."""

    url: str = ""
    answers: list[Response] = field(default_factory=list[Response])
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokens: list[str | None] = field(default_factory=list[str | None])

    def app(self, files: Path) -> FastAPI:
        app = FastAPI()

        async def take(request: Request) -> Response:
            body = await request.body()
            self.asked.append({"path": request.url.path, "raw": request.scope["raw_path"].decode(),
                               **(json.loads(body) if body else {})})  # fmt: skip
            self.tokens.append(request.headers.get("authorization"))
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        app.add_api_route("/v1/query", take, methods=["POST"])
        app.add_api_route("/v1/datasets", take, methods=["GET"])
        app.add_api_route("/v1/datasets/{name:path}", take, methods=["GET"])
        app.add_api_route("/v1/queries/{query_id}/result", take, methods=["GET"])

        @app.get("/store/{name}")
        def stored(name: str, request: Request) -> Response:
            self.tokens.append(request.headers.get("authorization"))
            return FileResponse(files / name)

        return app


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(answers=[Response(answer(), media_type="application/vnd.apache.arrow.stream")])
    running = uvicorn.Server(uvicorn.Config(found.app(tmp_path), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    found.url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    yield found
    running.should_exit = True
    thread.join(10)


@pytest.fixture
def asker(server: Server) -> Iterator[Client]:
    with Client(server.url, TOKEN, timeout=10, wait=5) as opened:
        yield opened


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_come_with_what_they_were_read_from(server: Server, asker: Client) -> None:
    found = asker.query("select * from devnet_blocks")
    assert found.table.equals(ROWS)
    assert (found.query_id, found.truncated, found.location) == (str(QUERY_ID), False, None)
    assert found.types == ("BIGINT", "BLOB")
    assert found.snapshot == (
        {"name": "devnet_blocks", "snapshot": 6, "from_block": 0, "to_block": 60, "gaps": [[60, 70]]},
    )
    assert server.tokens == [f"Bearer {TOKEN}"]


def test_only_what_is_given_is_sent(server: Server, asker: Client) -> None:
    asker.query("select 1")
    asker.query("select 2", limit=5, as_of=0, dataset="devnet_logs", timeout=3)
    sent = [{key: value for key, value in asked.items() if key not in {"path", "raw"}} for asked in server.asked]
    assert sent == [
        {"sql": "select 1", "format": "arrow"},
        {"sql": "select 2", "format": "arrow", "limit": 5, "as_of": 0, "dataset_id": "devnet_logs"},
    ]


def test_rows_become_frames(asker: Client) -> None:
    found = asker.query("select 1")
    pandas, polars = found.to_pandas(), found.to_polars()
    assert pandas["block_number"].tolist() == [1, 2]
    assert pandas["hash"].tolist()[0] == b"\x01"
    assert polars.rows() == [(1, b"\x01"), (2, None)]


def test_missing_package_is_named(asker: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asker.query("select 1")

    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(client, "find_spec", nothing)
    for turn in (found.to_pandas, found.to_polars):
        with pytest.raises(ModuleNotFoundError, match="is not installed here: run `pip install p"):
            turn()


def test_large_answers_are_read_as_they_come(server: Server, asker: Client) -> None:
    large = pa.table({"block_number": pa.array(range(500_000), pa.int64())})
    content = answer(large)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_003):
            yield content[start : start + 100_003]
            await asyncio.sleep(0)

    server.answers = [StreamingResponse(pieces())]
    assert asker.query("select 1").table.equals(large)


def test_answer_without_rows_has_its_columns(server: Server, asker: Client) -> None:
    server.answers = [Response(answer(ROWS.slice(0, 0)))]
    found = asker.query("select 1")
    assert (found.table.num_rows, found.table.column_names) == (0, ["block_number", "hash"])


def test_all_rows_of_a_cut_answer_can_be_fetched(server: Server, asker: Client, tmp_path: Path) -> None:
    server.answers = [Response(answer(truncated=True, location="s3://bucket/results/7.parquet"))]
    found = asker.query("select 1")
    assert (found.truncated, found.location) == (True, "s3://bucket/results/7.parquet")
    pq.write_table(ROWS, tmp_path / "all.parquet")
    server.answers = [FileResponse(tmp_path / "all.parquet")]
    assert pq.read_table(asker.download(found.query_id, tmp_path / "here.parquet")).equals(ROWS)
    assert server.asked[-1]["path"] == f"/v1/queries/{QUERY_ID}/result"


def test_token_is_not_sent_to_the_store_behind_a_redirect(server: Server, asker: Client, tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "all.parquet")
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    server.answers = [RedirectResponse(f"{elsewhere}/store/all.parquet", 307)]
    assert pq.read_table(asker.download(QUERY_ID, tmp_path / "here.parquet")).equals(ROWS)
    assert server.tokens == [f"Bearer {TOKEN}", None]


# --- what there is ------------------------------------------------------------------------------------------------


def test_datasets_and_plans_are_documents(server: Server, asker: Client) -> None:
    server.answers = [JSONResponse({"datasets": [{"name": "devnet_blocks"}]})]
    assert asker.datasets() == [{"name": "devnet_blocks"}]
    server.answers = [JSONResponse({"name": "devnet_blocks", "columns": []})]
    assert asker.dataset("devnet_blocks") == {"name": "devnet_blocks", "columns": []}
    server.answers = [JSONResponse({"dry_run": True, "datasets": []})]
    assert asker.dry_run("select 1", as_of=3) == {"dry_run": True, "datasets": []}
    assert [(asked["path"], asked.get("dry_run"), asked.get("as_of")) for asked in server.asked] == [
        ("/v1/datasets", None, None), ("/v1/datasets/devnet_blocks", None, None), ("/v1/query", True, 3),
    ]  # fmt: skip


def test_name_of_a_dataset_cannot_lead_elsewhere(server: Server, asker: Client) -> None:
    server.answers = [JSONResponse({})]
    asker.dataset("../query?x=ä/")
    assert server.asked[0]["raw"] == "/v1/datasets/..%2Fquery%3Fx%3D%C3%A4%2F"


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, "SQL_REJECTED", QueryRefused), (401, "UNAUTHENTICATED", QueryRefused), (403, "TOKEN_MISMATCH", QueryRefused),
     (404, "NOT_FOUND", QueryRefused), (413, "RESULT_TOO_LARGE", QueryRefused), (422, "QUERY_MEMORY", QueryRefused),
     (429, "QUEUE_FULL", ServiceUnavailable), (500, "WORKER_CRASH", QueryRefused),
     (502, "OBJECT_STORE_ERROR", ServiceUnavailable), (503, "WORKER_UNAVAILABLE", ServiceUnavailable),
     (504, "QUERY_TIMEOUT", ServiceUnavailable)],
)  # fmt: skip
def test_refusals_are_exceptions_with_their_facts(
    server: Server, status: int, code: str, kind: type[ServiceError]
) -> None:
    server.answers = [refusal(status, code, {"query_id": str(QUERY_ID), "reason": "relation", "position": 15})]
    with Client(server.url, TOKEN, wait=0) as once, pytest.raises(ServiceError) as caught:
        once.query("select secret")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.reason, error.position, error.query_id) == (
        code, status, "relation", 15, str(QUERY_ID),
    )  # fmt: skip
    assert str(error) == f"one sentence about {code}"
    assert len(server.asked) == 1


def test_exceptions_say_whether_asking_again_can_help() -> None:
    assert issubclass(QueryRefused, FatalError)
    assert issubclass(ServiceUnavailable, TransientError)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_service_is_asked_again_when_it_says_so(server: Server, asker: Client, status: int) -> None:
    server.answers = [refusal(status, "BUSY", {}, Retry_After="1"), *server.answers]
    started = time.monotonic()
    assert asker.query("select 1").table.equals(ROWS)
    assert time.monotonic() - started >= 1
    assert [asked["sql"] for asked in server.asked] == ["select 1", "select 1"]


@pytest.mark.parametrize("status", [400, 500, 502, 504])
def test_nothing_else_is_asked_again(server: Server, asker: Client, status: int) -> None:
    server.answers = [refusal(status, "ANY", {}, Retry_After="0")]
    with pytest.raises(ServiceError):
        asker.query("select 1")
    assert len(server.asked) == 1


def test_service_that_stays_busy_is_given_up(server: Server) -> None:
    server.answers = [refusal(429, "QUEUE_FULL", {"query_id": "q"}, Retry_After="1")]
    started = time.monotonic()
    with Client(server.url, TOKEN, wait=2) as short, pytest.raises(ServiceUnavailable) as caught:
        short.query("select 1")
    assert time.monotonic() - started < 6
    assert (caught.value.code, caught.value.query_id) == ("QUEUE_FULL", "q")
    assert len(server.asked) >= 2


@pytest.mark.parametrize(
    "content", [b"", b"<html>no</html>", b"[]", b'{"error": 1}', b'{"error": {"code": "x"}}', b"\xff"]
)
def test_refusal_that_is_not_ours_tells_its_status(server: Server, content: bytes) -> None:
    server.answers = [Response(content, 418)]
    with Client(server.url) as nobody, pytest.raises(QueryRefused, match="status 418 and no reason"):
        nobody.query("select 1")
    assert server.tokens == [None]


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", answer()[:-40], answer()[:100], b"{}"])
def test_answer_that_is_not_ours_is_no_answer(server: Server, asker: Client, content: bytes) -> None:
    server.answers = [Response(content)]
    with pytest.raises(QueryRefused, match="check the URL"):
        asker.query("select 1")
    server.answers = [Response(b"[1]")]
    with pytest.raises(QueryRefused, match="check the URL"):
        asker.dataset("x")


def test_rows_without_their_facts_are_no_answer(server: Server, asker: Client) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS.schema) as stream:
        stream.write_table(ROWS)
    server.answers = [Response(sink.getvalue().to_pybytes())]
    with pytest.raises(QueryRefused, match="check the URL"):
        asker.query("select 1")


def test_answer_that_breaks_off_can_be_asked_again(server: Server, asker: Client) -> None:
    server.answers = [Response(answer(), headers={"content-length": "100000"})]
    with pytest.raises(ServiceUnavailable, match="broke off"):
        asker.query("select 1")


def test_silent_service_is_given_up(server: Server) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield answer()[:200]
        await asyncio.sleep(3)

    server.answers = [StreamingResponse(never())]
    with Client(server.url, TOKEN) as patient, pytest.raises(ServiceUnavailable, match="broke off"):
        patient.query("select 1", timeout=0.5)


def test_service_that_is_not_there_is_told_without_its_url() -> None:
    with (
        Client("http://127.0.0.1:9", TOKEN) as lost,
        pytest.raises(ServiceUnavailable, match="does not answer") as caught,
    ):
        lost.datasets()
    assert "127" not in str(caught.value)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://"])
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RefusedInput, match=r"write http\(s\)://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("token", ["secret\n", "a secret", "secrét"])
def test_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        Client("http://127.0.0.1:1", token)
    assert "secr" not in str(caught.value)


def test_settings_name_the_service_and_the_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_URL", server.url + "/")
    monkeypatch.setenv("TRACE_TOKEN", TOKEN)
    with Client.from_settings() as found:
        assert found.query("select 1").table.equals(ROWS)
    assert server.tokens == [f"Bearer {TOKEN}"]
    monkeypatch.delenv("TRACE_TOKEN")
    with pytest.raises(RefusedInput, match="TRACE_TOKEN is not set"):
        Client.from_settings()


def test_client_needs_neither_ray_nor_postgres_nor_the_engine(server: Server) -> None:
    script = (
        "import os, sys; from trace_ray.client import Client; "
        "print(Client.from_settings().query('select 1').table.num_rows, "
        "sorted({'ray', 'psycopg', 'duckdb', 'pandas', 'polars', 'query', 'state', 'actors'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TRACE_URL": server.url, "TRACE_TOKEN": TOKEN}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60,
                          cwd=REPOSITORY, env=environment)  # fmt: skip
    assert done.stdout.split() == ["2", "[]"]
