"""What people are told of a running stack: workers of ranges, and evaluators apart from them."""

import pytest

from actors.term import DispatcherStatus
from trace_ray import console
from trace_ray.doctor import dispatcher_findings
from trace_ray.lite.stack import StackStatus


def status(*members: str, ready: bool = True) -> DispatcherStatus:
    rows = tuple({"worker_id": name, "ready": ready, "busy_slots": 0, "silent_seconds": 0.1} for name in members)
    return DispatcherStatus(3, True, 9, rows, None)


def told(found: DispatcherStatus, *, has_rules: bool) -> list[tuple[str, str, str]]:
    return [(one.part, one.state, one.text) for one in dispatcher_findings(found, has_rules=has_rules)]


def test_doctor_counts_evaluators_apart() -> None:
    found = told(status("cryo/0.0", "cryo/1.2", "evaluator/0.0"), has_rules=True)
    assert found == [
        ("stack", "works", "Dispatcher epoch 3, 2 of 2 workers ready"),
        ("evaluators", "works", "1 of 1 ready"),
    ]


def test_doctor_says_nothing_of_evaluators_that_nobody_needs() -> None:
    assert told(status("cryo/0.0"), has_rules=False) == [("stack", "works", "Dispatcher epoch 3, 1 of 1 workers ready")]


def test_doctor_tells_that_rules_wait_for_an_evaluator() -> None:
    assert told(status("cryo/0.0"), has_rules=True)[1] == ("evaluators", "limited", "0 of 0 ready")
    starting = status("cryo/0.0", "evaluator/0.0", ready=False)
    assert told(starting, has_rules=True)[1] == ("evaluators", "limited", "0 of 1 ready")


def test_up_counts_evaluators_on_a_line_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    for found in (status("cryo/0.0", "cryo/1.0"), status("cryo/0.0", "evaluator/0.0", "evaluator/1.0")):
        console.print_stack(StackStatus("embedded", "127.0.0.1:1", None, found, None), None)
    assert capsys.readouterr().err.splitlines() == [
        "Stack is up: Postgres embedded, Ray at 127.0.0.1:1, 2 workers",
        "Stack is up: Postgres embedded, Ray at 127.0.0.1:1, 1 worker",
        "Alert rules run on 2 evaluators",
    ]
