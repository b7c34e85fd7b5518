"""What a question may cost: time, memory, a client that goes away; the next question is served."""

import threading
import time

import httpx
import pytest

from tests.conftest import wait_until
from tests.integration.http.test_refusals import refused
from tests.served import Served

ENDLESS = "select count(*) from range(10000000000) a, range(10000000000) b"


def test_client_that_goes_away_frees_its_process(service: Served) -> None:
    token = service.token()
    before = len(service.observed)

    def ask() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{service.url}/v1/query",
                json={"sql": ENDLESS},
                headers={"Authorization": f"Bearer {token}"},
                timeout=1.5,
            )

    gone = [threading.Thread(target=ask) for _ in range(4)]
    for thread in gone:
        thread.start()
    for thread in gone:
        thread.join()

    wait_until(lambda: len(service.observed) >= before + 4, what="the end of questions nobody waits for")
    assert [row.outcome for row in service.observed[before:]] == ["CANCELLED"] * 4
    assert service.ask("select 1").status_code == 200


def test_memory_is_refused_and_the_next_question_served(service: Served) -> None:
    refused(service.ask("select count(distinct md5(range::varchar)) from range(60000000)"), 422, "QUERY_MEMORY")

    assert service.ask("select 1").status_code == 200


def test_more_questions_than_processes_wait_or_are_told_to_come_back(service: Served) -> None:
    token = service.token()
    answers: list[httpx.Response] = []

    def ask() -> None:
        sql = "select sum(a.range * b.range) from range(30000) a, range(30000) b"
        answers.append(service.ask(sql, token))

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 429}
    assert 200 in statuses
    for answer in answers:
        if answer.status_code == 429:
            refused(answer, 429, "QUEUE_FULL")
            assert int(answer.headers["Retry-After"]) >= 1


def test_dry_run_reads_nothing_and_names_the_files(service: Served) -> None:
    started = time.monotonic()
    told = service.ask("select * from devnet_logs where block_number between 12 and 31", dry_run=True).json()

    (plan,) = told["datasets"]
    assert (told["dry_run"], plan["name"]) == (True, "devnet_logs")
    assert (plan["files_read"], plan["files_total"], plan["rows"]) == (3, 6, 60)
    assert plan["blocks"] == [[12, 32]]
    assert 0 < plan["bytes_read"] < plan["bytes_total"]
    refused(service.ask("drop table x", dry_run=True), 400, "SQL_REJECTED")
    assert time.monotonic() > started
