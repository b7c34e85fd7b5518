"""What a question may cost: time, memory, a client that goes away; the next question is served."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from query.pool import SIZE
from tests.conftest import wait_until
from tests.integration.http.test_refusals import refused
from tests.integration.query.desk import SLOW, cpu_seconds, is_dead, workers
from tests.served import Served

WORKED_S = 1.0  # seconds of a core; the start of a process takes a tenth of it


def test_client_that_goes_away_ends_its_query_and_frees_its_process(service: Served) -> None:
    """As many as there are processes: a short question is answered all the same, since long ones make way for it."""
    token, before = service.token(), len(service.observed)
    gone = [sent(service, SLOW, token) for _ in range(SIZE)]
    wait_until(lambda: len(spent()) == SIZE, what="every process at work")
    running = spent()
    assert service.ask("select 1", token).json()["rows"] == [[1]]
    for connection in gone:
        connection.close()

    wait_until(lambda: all(map(is_dead, running)), what="the end of questions that nobody waits for")  # 60 s are theirs
    wait_until(lambda: len(service.observed) > before + SIZE, what="their audit rows")
    assert [row.outcome for row in service.observed[before:]] == ["OK"] + ["CANCELLED"] * SIZE
    with ThreadPoolExecutor(SIZE) as threads:
        answers = [threads.submit(service.ask, "select 1", token) for _ in range(SIZE)]
    assert [answer.result().json()["rows"] for answer in answers] == [[[1]]] * SIZE


def spent() -> set[int]:
    """The processes that have worked for a while."""
    return {pid for pid in workers() if cpu_seconds(pid) > WORKED_S}


def sent(service: Served, sql: str, token: str) -> socket.socket:
    """Ask, and return the connection on which the answer would come."""
    headers = {"Authorization": f"Bearer {token}"}
    request = httpx.Request("POST", f"{service.url}/v1/query", json={"sql": sql}, headers=headers)
    lines = [f"POST {request.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    connection = socket.create_connection((request.url.host, request.url.port or 80))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + request.content)
    return connection


def test_memory_is_refused_and_the_next_question_served(service: Served) -> None:
    refused(service.ask("select count(distinct md5(range::varchar)) from range(60000000)"), 422, "QUERY_MEMORY")

    assert service.ask("select 1").status_code == 200


def test_more_questions_than_processes_wait_or_are_told_to_come_back(service: Served) -> None:
    token = service.token()
    answers: list[httpx.Response] = []

    def ask() -> None:
        sql = "select sum(a.range * b.range) from range(12000) a, range(12000) b"
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
