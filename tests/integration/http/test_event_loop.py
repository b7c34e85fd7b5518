"""Nothing that takes long is done on the event loop: all questions of a process wait for it."""

import gc
from typing import cast

import httpx
import pytest

from actors.questions import Ledgers
from query import app
from query.bodies import Format
from query.question import Answer
from tests.conftest import wait_until
from tests.integration.http.test_limits import sent
from tests.integration.http.test_refusals import refused
from tests.integration.query.desk import SLOW
from tests.served import Served, served
from trace_ray.access import AuditRow

PATIENCE_S = 10.0


def hear(url: str) -> None:
    """Ask a service for a sign of life; while its event loop is held there is none."""
    assert httpx.get(f"{url}/healthz", timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize("form", Format)
def test_answer_is_written_beside_the_event_loop(
    service: Served, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    media, write = app.WRITERS[form]

    def write_slowly(answer: Answer) -> bytes:
        hear(service.url)
        return write(answer)

    monkeypatch.setitem(cast("dict[Format, object]", app.WRITERS), form, (media, write_slowly))
    answer = service.ask("select 1 as one", format=form)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, media)


def test_question_beyond_the_threads_is_refused_beside_the_event_loop(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "AT_ONCE", 1)
    record = Ledgers.record

    def record_slowly(self: Ledgers, entry: AuditRow) -> None:
        hear(found.url)
        record(self, entry)

    with served(service.settings, service.ledger) as found:
        waiting = sent(found, SLOW, found.token())
        wait_until(lambda: found.ask("select 1").status_code == 429, what="the question that holds the only thread")
        monkeypatch.setattr(Ledgers, "record", record_slowly)
        refused(found.ask("select 1"), 429, "QUEUE_FULL")
        waiting.close()


def test_what_is_there_from_the_start_is_not_collected_again(service: Served) -> None:
    gc.unfreeze()
    with served(service.settings, service.ledger) as found:
        assert found.ask("select 1").status_code == 200
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
