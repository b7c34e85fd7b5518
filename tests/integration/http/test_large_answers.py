"""An answer that is too large to send: what fits comes at once, all of it is stored, once, and handed out again."""

import io
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from query.question import MAX_LIMIT
from tests.integration.http.test_refusals import refused
from tests.served import Served
from trace_ray.contracts import OrgId

ROWS = "select range as n, md5(range::varchar) as text from range({rows})"


def test_rows_beyond_the_cap_are_stored_whole(service: Served) -> None:
    answer = service.ask(ROWS.format(rows=25_000), limit=MAX_LIMIT).json()

    assert (len(answer["rows"]), answer["truncated"]) == (MAX_LIMIT, True)
    assert f"results/{service.settings.org_id}/{answer['query_id']}/" in answer["location"]
    stored = pq.read_table(io.BytesIO(service.get(answer["result"]).content))
    assert stored.column("n").to_pylist() == list(range(25_000))
    row = service.audited(answer["query_id"])
    assert (row.rows, row.outcome) == (25_000, "OK")


def test_bytes_beyond_the_cap_are_stored_up_to_the_limit(service: Served) -> None:
    answer = service.ask("select range as n, repeat('x', 20000) as text from range(5000)", limit=900).json()

    assert answer["truncated"] is True
    assert len(answer["rows"]) < 900
    stored = pq.read_table(io.BytesIO(service.get(answer["result"]).content))
    assert stored.column("n").to_pylist() == list(range(900))


def test_limit_below_the_cap_only_cuts(service: Served) -> None:
    answer = service.ask(ROWS.format(rows=25_000), limit=5000).json()

    assert (len(answer["rows"]), answer["truncated"]) == (5000, True)
    assert "location" not in answer


def test_one_row_above_the_cap_is_too_large(service: Served) -> None:
    refused(service.ask("select repeat('x', 20000000) as text"), 413, "RESULT_TOO_LARGE")


def test_stored_answer_is_for_who_asked(service: Served) -> None:
    answer = service.ask(ROWS.format(rows=20_000), limit=MAX_LIMIT).json()

    refused(service.get(answer["result"], service.token("bob")), 404, "NOT_FOUND")
    refused(service.get(f"/v1/queries/{answer['query_id']}/result", "nobody"), 401, "UNAUTHENTICATED")


def test_equal_answers_of_an_organisation_are_stored_once(service: Served) -> None:
    sql = "select range as n, 'the same' as text from range(11000) order by n"
    first, second = (service.ask(sql, service.token(name), limit=MAX_LIMIT).json() for name in ("ann", "bob"))
    other = service.ask(sql, service.token("eve", org_id=OrgId(uuid4())), limit=MAX_LIMIT).json()

    assert first["query_id"] != second["query_id"]
    assert first["location"] == second["location"]
    assert other["location"] != first["location"], "another organisation has its own"
    for answer, name in ((first, "ann"), (second, "bob")):
        stored = pq.read_table(io.BytesIO(service.get(answer["result"], service.token(name)).content))
        assert stored.column("n").to_pylist() == list(range(11_000))
    assert not list((service.settings.data_dir / "scratch").rglob("*.parquet"))


def test_small_answer_has_no_stored_one(service: Served) -> None:
    answer = service.ask("select 1").json()

    refused(service.get(f"/v1/queries/{answer['query_id']}/result"), 404, "NOT_FOUND")


@pytest.mark.parametrize("form", ["ndjson", "csv", "arrow"])
def test_other_forms_name_the_location_in_a_header(service: Served, form: str) -> None:
    answer = service.ask(ROWS.format(rows=12_000), limit=MAX_LIMIT, format=form)

    assert answer.headers["X-Trace-Truncated"] == "true"
    stored = Path(answer.headers["X-Trace-Location"])
    assert pq.read_table(stored).num_rows == 12_000


def test_nothing_is_left_in_the_scratch_directory(service: Served) -> None:
    service.ask(ROWS.format(rows=12_000), limit=MAX_LIMIT)

    assert not list((service.settings.data_dir / "scratch").rglob("*.parquet"))
