"""The hostile corpus against the whole service, by people and by tasks: HTTP, tokens, ledger, gate, processes, store.

Each statement is refused or contained with its status and code, leaves its audit row, tells no secret, and the next
question is answered. In the end nothing was changed or reached, and no process is left.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from query import confine
from tests import pg
from tests.besieged import Besieged, besieged, lasting, query_processes, status, wait_for_rest
from tests.query_corpus.corpus import Hostile, hostile
from trace_ray.lite.postgres import LocalPostgres

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(confine.landlock_abi() < 4, reason="this kernel has no Landlock with TCP rules (Linux 6.7)"),
]

STOPPED = {(504, "QUERY_TIMEOUT"), (422, "QUERY_MEMORY"), (500, "WORKER_CRASH")}
ENDS = {
    "engine": {(400, "SQL_ERROR")},
    "limits": {(200, "OK"), (400, "SQL_ERROR"), (413, "RESULT_TOO_LARGE"), *STOPPED},
    "crash": STOPPED,
    "nothing": {(200, "OK")},
}
SHORT = {"limits", "crash"}  # need not be waited for
AT_ONCE = 3  # below the size of the pool, so that none waits for a process
OF_TASKS = 6  # each sixth statement is asked by a task too
NEXT = "select count(*) as n from devnet_blocks where block_number < 7"


@dataclass(frozen=True)
class End:
    """How a statement ended, its query id, and what is wrong with that."""

    query_id: str
    code: str
    wrong: list[str]


def asked(field: Besieged, by_task: bool, statement: Hostile) -> End:
    """Ask on the replica that stops bombs early or the one that lets the statement take its time; then ask again."""
    hurried = statement.wall in SHORT
    service = field.brisk_with_people if hurried is not by_task else field.brisk_with_tasks
    ask, other = (field.as_task, field.as_person) if by_task else (field.as_person, field.as_task)
    answer = ask(service, statement.sql)
    end = judged(answer, statement, field)
    following = (other if hurried else ask)(service, NEXT)
    if following.status_code != 200 or following.json()["rows"] != [[7]]:
        end.wrong.append(f"the next question got {following.status_code} {following.text}")
    return end


def judged(answer: httpx.Response, statement: Hostile, field: Besieged) -> End:
    body = answer.json()
    error = body.get("error", {})
    detail, code = error.get("detail", body), error.get("code", "OK")
    wrong = [f"tells {leak}" for leak in field.leaks(answer)]
    if error and (set(body), set(error)) != ({"error"}, {"code", "message", "detail"}):
        wrong.append(f"the body is {body}")
    if error and len(statement.sql) > 20 and statement.sql in answer.text:
        wrong.append("quotes the statement")
    if statement.verdict == "accepted":
        fine = (answer.status_code, code) in ENDS[statement.wall]
    else:
        fine = (answer.status_code, code, detail.get("reason")) == (400, "SQL_REJECTED", statement.verdict)
    if not fine:
        wrong.append(f"ended with {answer.status_code} {code} {detail}")
    return End(detail["query_id"], code, wrong)


def test_no_statement_does_harm_over_http(postgres: LocalPostgres, tmp_path: Path) -> None:
    with besieged(tmp_path / "stack", pg.fresh_database(postgres)) as field, ThreadPoolExecutor(AT_ONCE) as threads:
        before = lasting(field.settings)
        statements = hostile(**field.prey.places(str(field.granted())))
        ask: Callable[[bool], Callable[[Hostile], End]] = partial(partial, asked, field)
        people = list(threads.map(ask(False), statements))
        sample = statements[::OF_TASKS]
        tasks = list(threads.map(ask(True), sample))
        processes = wait_for_rest(services=2)
        recorded = field.ends()
        assert lasting(field.settings) == before
        assert field.prey.connections == []
    asked_for = [*zip(statements, people, strict=True), *zip(sample, tasks, strict=True)]
    assert [(statement, end.wrong) for statement, end in asked_for if end.wrong] == []
    assert {end.query_id: end.code for _, end in asked_for}.items() <= recorded.items()
    assert len(people) > 900
    assert {statement.wall for statement in sample} >= {"", "engine", "limits"}
    assert len(processes) >= 4
    assert [process for process in processes if status(process) != psutil.STATUS_DEAD] == []
    assert query_processes() == []
    assert list((tmp_path / "stack" / "scratch").iterdir()) == []
