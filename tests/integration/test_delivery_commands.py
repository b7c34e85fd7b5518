"""Deliveries as they are typed, and the examples of their reference as a receiver would run them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from state import deliveries
from state.db import Connection, connect
from tests import pg
from tests.alert_events import accept, event, rule
from tests.receivers import Receiver
from trace_ray import webhook
from trace_ray.channels import Sent, Unsent
from trace_ray.config import DELIVERY_RETRIES
from trace_ray.lite.postgres import LocalPostgres

SECRET = "a secret of 22 letters"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "deliveries.md"


@dataclass
class Shell:
    """A shell that knows the databases and a channel. No stack runs."""

    conn: Connection
    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", "alerts", *arguments],
            env={**self.environment, **more}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done.stdout if done.stdout else done.stderr.strip()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def shell(postgres: LocalPostgres, tmp_path: Path, receiver: Receiver) -> Iterator[Shell]:
    url = pg.fresh_database(postgres)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
    environment |= {
        "TRACE_STATE_DATABASE_URL": url,
        "TRACE_DATA_DIR": str(tmp_path),
        "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
        "TRACE_CHANNEL_OPS_KIND": "webhook",
        "TRACE_CHANNEL_OPS_URL": receiver.url("/ok"),
        "TRACE_CHANNEL_OPS_SECRET": SECRET,
    }
    with connect(url, application_name="test") as conn:
        yield Shell(conn, environment)


def test_deliveries_are_listed_and_put_back(shell: Shell) -> None:
    of = rule("ops")
    events = accept(shell.conn, event(of, 1), event(of, 2), event(of, 3))
    deliveries.create(shell.conn, of.org_id, of, events)
    dead, sent, _ = deliveries.lease(shell.conn, {}, other=3, lease_s=60)
    refused = Unsent("the receiver answered 410, which trying again does not change", retryable=False)
    deliveries.record(shell.conn, dead.delivery, refused, policy=DELIVERY_RETRIES)
    deliveries.record(shell.conn, sent.delivery, Sent(), policy=DELIVERY_RETRIES)
    document = json.loads(shell.run("deliveries", "--json", "--state", "dead", "--rule", "big_transfers"))
    (depth,) = document["channels"]
    assert (depth["channel"], depth["queued"], depth["sending"], depth["dead"]) == ("ops", 0, 1, 1)
    (one,) = document["deliveries"]
    expected: dict[str, Any] = {
        "delivery_id": str(dead.delivery.delivery_id), "event_id": str(dead.delivery.event_id),
        "rule": "big_transfers", "channel": "ops", "kind": "alert", "retracts": None, "state": "dead", "reason": None,
        "attempts": 1, "failures": 1, "replays": 0, "last_error": refused.error, "due_at": None,
    }  # fmt: skip
    assert {name: one[name] for name in expected} == expected
    assert shell.run("deliveries", "--channel", "pager") == "No such delivery"
    shown = shell.run("deliveries")
    assert str(dead.delivery.delivery_id) in shown
    assert refused.error in shown
    assert [state for state in ("dead", "delivered", "sending") if f" {state} " not in shown] == []
    assert shell.run("replay", str(sent.delivery.delivery_id), code=2).endswith("only dead and suppressed ones can")
    assert shell.run("replay", "--channel", "ops") == "1 delivery put back"
    assert shell.run("replay", "--all") == "0 deliveries put back"
    assert "exactly one of them" in shell.run("replay", "--all", "--channel", "ops", code=2)


def test_a_channel_is_tried_and_the_outcome_told(shell: Shell, receiver: Receiver) -> None:
    assert shell.run("test", "OPS") == "channel ops took the test message"
    (request,) = receiver.heard.requests
    assert json.loads(request.body)["test"] is True
    gone = receiver.url("/gone")
    told = shell.run("test", "ops", code=1, TRACE_CHANNEL_OPS_URL=gone)
    assert told.startswith("channel ops did not take the test message: the receiver answered 410")
    assert shell.run("test", "pager", code=2) == ("channel pager is not set (set: ops): set TRACE_CHANNEL_PAGER_KIND")


# --- the reference ------------------------------------------------------------------------------------------------


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.mark.parametrize(
    ("language", "command", "call"),
    [
        (
            "python",
            [sys.executable, "-c"],
            "import json, sys\n{}\nprint([is_ours(h, b.encode(), s) for h, b, s in {}])",
        ),
        ("javascript", ["node", "-e"], "{}\nconsole.log({}.map(([h, b, s]) => isOurs(h, Buffer.from(b), s)))"),
    ],
)
def test_the_examples_of_the_reference_check_signatures(language: str, command: list[str], call: str) -> None:
    now, body = int(time.time()), '{"value": "ü"}'
    good = webhook.signature(body.encode(), ("another secret of 25 char", SECRET), now)
    cases = [
        (good, body, SECRET), (good, body + " ", SECRET), (good, body, "wrong"), ("", body, SECRET),
        (webhook.signature(body.encode(), (SECRET,), now - 301), body, SECRET), ("t=x,v1=zz", body, SECRET),
    ]  # fmt: skip
    script = call.format(example(language), json.dumps(cases))
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=60, check=True)
    answers = re.findall(r"true|false", done.stdout.lower())
    assert answers == ["true", *["false"] * 5], done.stderr
