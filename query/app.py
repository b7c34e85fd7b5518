"""HTTP only: body -> request, error -> status. The same app runs under Ray Serve and under uvicorn.

The only module of `query` that awaits. Work is synchronous and runs in threads; one that nobody waits for any more is
cancelled. No error shows a path, a URL, a secret or the SQL.
"""

import gc
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from query import bodies, outcomes, results
from query.bodies import (
    ERRORS,
    DatasetAnswer,
    DatasetsAnswer,
    DryRunAnswer,
    QueryAnswer,
    QueryEntry,
    QueryRequest,
    ReadyAnswer,
    TaskQueryRequest,
)
from query.cancel import Cancel
from query.catalogue import Catalogue
from query.question import Answer, DryRun
from query.refusals import BadRequest, QueueFull
from query.service import Asked, Held, Refused, Service
from trace_ray.contracts import TaskId
from trace_ray.errors import TraceError, Unauthenticated

MAX_BODY_BYTES: Final = 512 * 1024  # SQL has at most 64 KiB, which JSON may write six times as long
QUERY: Final = "/v1/query"
TASK_QUERY: Final = "/v1/task/query"
CAPABILITY: Final = "X-Trace-Task-Capability"
FAILED: Final = "the service failed, and logged why: ask again, or tell its operator"
AT_ONCE: Final = 64  # threads that may wait for the pool; what comes beyond them is told to come back

Bearer: Final = HTTPBearer(auto_error=False, description="A user token: `trace-ray token --user NAME`.")
Capability: Final = APIKeyHeader(name=CAPABILITY, auto_error=False, description="The capability token of a task.")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the app is made of. `close` ends the processes behind it; `ready` names what is not ready, by part."""

    service: Service
    catalogue: Catalogue
    ready: Callable[[], Mapping[str, str]]
    close: Callable[[], None]
    build: str
    stack: str


def create_app(parts: Parts) -> FastAPI:
    """Return the ASGI app; it closes its parts when the server shuts down."""
    app = FastAPI(
        title="trace_ray",
        summary="SQL over proven chain data",
        version="1",
        lifespan=_lifespan(parts),
        openapi_tags=bodies.TAGS,
        redirect_slashes=False,  # a redirect would repeat the Host header of whoever asks
    )
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    _handle_errors(app, parts.service)
    _add_queries(app, parts)
    _add_catalogue(app, parts)
    _add_health(app, parts)
    return app


def _lifespan(parts: Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        gc.collect()
        gc.freeze()  # what is there from the start stays; each look at all of it held every question up for 0.1 s
        yield
        gc.unfreeze()
        await anyio.to_thread.run_sync(parts.close)

    return lifespan


# --- tokens -------------------------------------------------------------------------------------------------------


async def _user_token(given: Annotated[HTTPAuthorizationCredentials | None, Depends(Bearer)]) -> str:
    return given.credentials if given else ""


async def _task_token(given: Annotated[str | None, Depends(Capability)]) -> str:
    return given or ""


UserToken = Annotated[str, Depends(_user_token)]
TaskToken = Annotated[str, Depends(_task_token)]


def _user(service: Service, token: str) -> Held:
    if not token:
        raise Unauthenticated("a token is needed: send `Authorization: Bearer <token>`, made by `trace-ray token`")
    return service.ledger.user(token)


def _task(service: Service, token: str) -> Held:
    if not token:
        raise Unauthenticated(f"a capability token is needed: send it as `{CAPABILITY}`")
    return service.ledger.task(token)


# --- questions ----------------------------------------------------------------------------------------------------


def _add_queries(app: FastAPI, parts: Parts) -> None:
    service, room = parts.service, CapacityLimiter(AT_ONCE)

    @app.post(QUERY, tags=["query"], summary="Ask a question", response_model=QueryAnswer | DryRunAnswer,
              responses=FORMS | ERRORS)  # fmt: skip
    async def query(body: QueryRequest, request: Request, token: UserToken) -> Response:
        asked = Asked(body.sql, body.limit, body.as_of, body.dataset_id)

        def answer(cancel: Cancel) -> Response:
            act = service.dry_run if body.dry_run else service.query
            return _rendered(act(asked, lambda: _user(service, token), cancel), body.format)

        if room.available_tokens < 1:
            return await _rejected(service, _busy(), lambda: _user(service, token))
        return await _until_gone(request, room, answer)

    @app.post(TASK_QUERY, tags=["query"], summary="Ask a question as a task", response_model=QueryAnswer,
              responses=FORMS | ERRORS)  # fmt: skip
    async def task_query(body: TaskQueryRequest, request: Request, token: TaskToken) -> Response:
        asked = Asked(body.sql, body.limit, body.as_of, body.dataset_id)

        def answer(cancel: Cancel) -> Response:
            found = service.task_query(
                asked, lambda: _task(service, token), task_id=TaskId(body.task_id), attempt=body.attempt, cancel=cancel
            )
            return _rendered(found, body.format)

        if room.available_tokens < 1:
            return await _rejected(service, _busy(), lambda: _task(service, token))
        return await _until_gone(request, room, answer)


def _busy() -> QueueFull:
    return QueueFull("all query processes are busy: ask again in a second")


async def _until_gone(request: Request, room: CapacityLimiter, work: Callable[[Cancel], Response]) -> Response:
    """Work in a thread, and cancel it as soon as nobody waits for it."""
    cancel = Cancel()
    found: list[Response] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            found.append(await anyio.to_thread.run_sync(work, cancel, limiter=room, abandon_on_cancel=True))
            group.cancel_scope.cancel()
    finally:
        cancel.set()
    return found[0]


def _rendered(found: "Answer | DryRun | Refused", form: bodies.Format) -> Response:
    """Write a body of up to 10 MiB: for the thread of the question, since all others wait for the event loop."""
    if isinstance(found, Refused):
        return _refused(found)
    if isinstance(found, DryRun):
        return JSONResponse(bodies.dry_run(found))
    media, write = WRITERS[form]
    return Response(write(found), media_type=media, headers=_headers(found))


WRITERS: Final[Mapping[bodies.Format, tuple[str, Callable[[Answer], bytes]]]] = {
    bodies.Format.JSON: ("application/json", results.to_json),
    bodies.Format.NDJSON: ("application/x-ndjson", results.to_ndjson),
    bodies.Format.CSV: ("text/csv; charset=utf-8; header=present", results.to_csv),
    bodies.Format.ARROW: ("application/vnd.apache.arrow.stream", results.to_arrow),
}
FORMS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {media: {} for media, _ in WRITERS.values()}}}


def _headers(answer: Answer) -> dict[str, str]:
    """What JSON says beside its rows; the other forms have no place for it."""
    headers = {
        "X-Trace-Query-Id": str(answer.query_id),
        "X-Trace-Truncated": "true" if answer.truncated else "false",
        "X-Trace-Snapshot": results.snapshot_json(answer).decode(),
        "Cache-Control": "no-store",
    }
    return headers if answer.location is None else {**headers, "X-Trace-Location": answer.location}


# --- what there is ------------------------------------------------------------------------------------------------


def _add_catalogue(app: FastAPI, parts: Parts) -> None:
    service, catalogue = parts.service, parts.catalogue

    @app.get("/v1/datasets", tags=["datasets"], summary="What you may read", responses=ERRORS)
    def datasets(token: UserToken) -> DatasetsAnswer:
        return bodies.datasets(catalogue.datasets(_user(service, token).caller))

    @app.get("/v1/datasets/{name}", tags=["datasets"], summary="One dataset: columns, coverage, examples",
             responses=ERRORS)  # fmt: skip
    def dataset(name: str, token: UserToken) -> DatasetAnswer:
        return bodies.dataset(catalogue.dataset(_user(service, token).caller, name))

    @app.get("/v1/queries/{query_id}", tags=["query"], summary="How one of your questions ended", responses=ERRORS)
    def entry(query_id: UUID, token: UserToken) -> QueryEntry:
        return bodies.entry(*catalogue.entry(_user(service, token).caller, query_id))

    @app.get("/v1/queries/{query_id}/result", tags=["query"], summary="A large answer, as Parquet",
             responses=STORED | ERRORS, response_class=Response)  # fmt: skip
    def result(query_id: UUID, token: UserToken) -> Response:
        found = catalogue.result(_user(service, token).caller, query_id)
        if found.startswith(("http://", "https://")):
            return RedirectResponse(found, 307)  # a signed URL that is valid for minutes
        return FileResponse(found, media_type=PARQUET, filename=f"{query_id}.parquet")

    @app.get("/.well-known/jwks.json", tags=["service"], summary="Public keys of our tokens")
    def jwks() -> dict[str, Any]:
        return catalogue.jwks()


PARQUET: Final = "application/vnd.apache.parquet"
STORED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}},
    307: {"description": "It is at a signed URL that is valid for minutes"},
}


def _add_health(app: FastAPI, parts: Parts) -> None:
    @app.get("/healthz", tags=["service"], summary="This process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "build": parts.build, "stack": parts.stack}

    @app.get("/readyz", tags=["service"], summary="Questions can be answered now", response_model=ReadyAnswer,
             responses={503: {"model": ReadyAnswer, "description": "`missing` says what, by part"}})  # fmt: skip
    def readyz() -> JSONResponse:
        missing = dict(parts.ready())
        return JSONResponse(
            {"status": "not ready" if missing else "ready", "missing": missing}, 503 if missing else 200
        )


# --- errors -------------------------------------------------------------------------------------------------------


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await _bad_request(request, service, BadRequest(bodies.problems(error.errors())))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        match error.status_code:
            case 404:
                return _error(outcomes.NOT_FOUND, "there is no such route: see /docs", {})
            case 405:
                answer = _error(outcomes.METHOD_NOT_ALLOWED, "this route takes another method: see /docs", {})
                answer.headers.update(error.headers or {})
                return answer
            case _:  # a body that its reader gives up on, nested too deeply for example
                unreadable = BadRequest("the request cannot be read: send a JSON object with `sql`, see /docs")
                return await _bad_request(request, service, unreadable)

    @app.exception_handler(TraceError)
    async def of_ours(_request: Request, error: TraceError) -> Response:
        return _error(outcomes.outcome(error), str(error), outcomes.detail(error))

    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error_: Exception) -> Response:
        return _error(outcomes.INTERNAL, FAILED, {})


async def _bad_request(request: Request, service: Service, refusal: BadRequest) -> Response:
    identify = _identify(request, service)
    if identify is None:
        return _error(outcomes.BAD_REQUEST, str(refusal), {})
    return await _rejected(service, refusal, identify)


async def _rejected(service: Service, refusal: Exception, identify: Callable[[], Held]) -> Response:
    """Refuse and write it down, in a thread: the ledger may be slow."""
    return _refused(await anyio.to_thread.run_sync(service.reject, refusal, identify))


def _identify(request: Request, service: Service) -> Callable[[], Held] | None:
    """Return how to tell who asks, on the routes that leave an audit row."""
    if request.url.path == QUERY:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return lambda: _user(service, token if scheme.lower() == "bearer" else "")
    if request.url.path == TASK_QUERY:
        return lambda: _task(service, request.headers.get(CAPABILITY, ""))
    return None


def _refused(refused: Refused) -> Response:
    found, error = refused.outcome, refused.error
    said = FAILED if found is outcomes.INTERNAL else str(error)
    return _error(found, said, {"query_id": str(refused.query_id), **outcomes.detail(error)})


def _error(found: outcomes.Outcome, message: str, detail: Mapping[str, str | int]) -> Response:
    headers = {} if found.retry_after_s is None else {"Retry-After": str(found.retry_after_s)}
    if found.status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        {"error": {"code": found.code, "message": message, "detail": dict(detail)}}, found.status, headers
    )


class BodyLimit:
    """Refuses a body above a size, whether its length is told or not, before anything reads it."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self.max_bytes:
                await self._refuse(scope, receive, send)
                return
        read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return read.pop() if read else await receive()

        await self.app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = f"a request has at most {self.max_bytes} bytes: shorten the SQL"
        await _error(outcomes.BODY_TOO_LARGE, said, {})(scope, receive, send)
