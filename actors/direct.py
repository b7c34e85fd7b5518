"""Answers the questions of handlers in this process: no token, no HTTP, no audit. For backtests, which own the data.

A handler gets what `/v1/task/query` would give it: the same grant, gate, processes, limits and bodies.
"""

from dataclasses import replace
from uuid import UUID, uuid4

import orjson

from actors.door import JSON, TOO_LARGE, TOO_MANY_BYTES, first_rows, rendered
from actors.sandbox.invoker import QueryAnswer, QueryCall
from actors.sandbox.limits import ROWS_PER_QUERY
from query.cancel import Cancel
from query.outcomes import detail, outcome
from query.question import MAX_LIMIT, Limits, Question
from query.service import Runner, real_names, with_alias
from trace_ray.contracts import Grant
from trace_ray.errors import TraceError


class DirectDoor:
    """Asks over one grant. Threads may share it."""

    def __init__(self, runner: Runner, grant: Grant, limits: Limits) -> None:
        """Args: limits: of one question; those of a process are the pool's."""
        self._runner = runner
        self._grant = grant
        self._limits = limits

    def __call__(self, call: QueryCall) -> QueryAnswer:
        query_id = uuid4()
        try:
            return self._answer(call, query_id)
        except TraceError as error:
            found = outcome(error)
            said = {"query_id": str(query_id), **detail(error)}
            body = {"error": {"code": found.code, "message": str(error), "detail": said}}
            return QueryAnswer(found.status, JSON, orjson.dumps(body))

    def _answer(self, call: QueryCall, query_id: UUID) -> QueryAnswer:
        wanted = min(call.limit if call.limit is not None else ROWS_PER_QUERY, ROWS_PER_QUERY)
        grant = with_alias(self._grant, call.dataset_id)
        answer = self._runner.run(
            Question(call.sql, min(wanted, MAX_LIMIT)),
            grant,
            query_id=query_id,
            limits=self._limits,
            cancel=Cancel(),
            export=True,
        )
        answer = replace(answer, snapshot=real_names(answer.snapshot, grant))
        if answer.export is None:
            return rendered(answer, call.format)
        try:
            rows = first_rows(answer.export.path, wanted) if wanted > MAX_LIMIT else answer.table
        finally:
            answer.export.path.unlink(missing_ok=True)
        if rows is None:
            return QueryAnswer(TOO_MANY_BYTES, JSON, orjson.dumps(TOO_LARGE))
        return rendered(
            replace(answer, table=rows.slice(0, wanted), truncated=answer.export.rows > rows.slice(0, wanted).num_rows),
            call.format,
        )
