"""Every error of a question has one status and one code, and the code is the one that the error itself names."""

import pytest

from query import outcomes, refusals
from query.refusals import Reason, SqlRejected
from trace_ray import errors


@pytest.mark.parametrize("kind", [kind for kind, _ in outcomes.TABLE if hasattr(kind, "code")])
def test_table_agrees_with_the_code_of_the_error(kind: type[Exception]) -> None:
    error = SqlRejected(Reason.PARSE) if kind is SqlRejected else kind("x")

    assert outcomes.outcome(error).code == getattr(kind, "code")  # noqa: B009 - not every error has one


def test_every_refusal_is_on_the_table() -> None:
    refused = {kind for kind in vars(refusals).values() if isinstance(kind, type) and "code" in vars(kind)}

    assert refused <= {kind for kind, _ in outcomes.TABLE}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (refusals.QueryFailed("SQL_ERROR", 3, "x"), 400, "SQL_ERROR"),
        (refusals.QueryFailed("RESULT_TOO_LARGE", None, "x"), 413, "RESULT_TOO_LARGE"),
        (refusals.QueryFailed("OTHER", None, "x"), 500, "INTERNAL"),
        (errors.Unauthenticated("x"), 401, "UNAUTHENTICATED"),
        (errors.TokenRefused(errors.TokenFault.EXPIRED), 401, "UNAUTHENTICATED"),
        (errors.KeysUnavailable("x"), 503, "KEYS_UNAVAILABLE"),
        (errors.NotFound("x"), 404, "NOT_FOUND"),
        (errors.StoreUnavailable("x"), 502, "OBJECT_STORE_ERROR"),
        (errors.DatabaseUnavailable("x"), 503, "LEDGER_UNAVAILABLE"),
        (ZeroDivisionError("x"), 500, "INTERNAL"),
    ],
)
def test_status_and_code_of_an_error(error: Exception, status: int, code: str) -> None:
    found = outcomes.outcome(error)

    assert (found.status, found.code) == (status, code)


def test_detail_holds_reason_and_position_where_there_are_any() -> None:
    assert outcomes.detail(SqlRejected(Reason.PARSE, 7)) == {"reason": "parse", "position": 7}
    assert outcomes.detail(errors.TokenRefused(errors.TokenFault.EXPIRED)) == {"reason": "expired"}
    assert outcomes.detail(refusals.QueryFailed("SQL_ERROR", None, "x")) == {}
