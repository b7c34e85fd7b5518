"""The operators' commands as they are typed, against a ledger with rows of every kind: shapes, refusals, exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from state import buffer, outbox
from state.buffer import Batch
from state.db import connect
from state.outbox import Event
from tests import pg
from tests.integration.state.ledger import NO_WAIT, Ledger, failure, job, publication, stream
from trace_ray.contracts import Lease, Publication
from trace_ray.errors import StoreUnavailable
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.retry import RetryPolicy

ESCAPE = "\x1b]0;owned\x07[red]"
ONE_TRY = RetryPolicy(base_s=0.0, cap_s=0.0, max_attempts=1, max_infra_failures=1)


@dataclass
class Operator:
    """Types commands in a shell that knows only the ledger's address. No stack runs."""

    ledger: Ledger
    environment: dict[str, str]
    published: Publication
    running: Lease

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.stderr == ""
        document = json.loads(done.stdout)
        tokens = [row["lease_token"] for row in self.ledger.rows(b"SELECT lease_token FROM state.attempts")]
        assert not [token for token in tokens if str(token) in done.stdout]
        return dict(document)


@pytest.fixture(scope="module")
def operator(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One range published, one dead, one running, two queued; one failed and one pending event; one dead letter."""
    url = pg.fresh_database(postgres)
    with connect(url, application_name="trace-test") as conn:
        ledger = Ledger.lead(conn)
        ledger.sync(job(stream("blocks", max_inflight=3)))
        first = ledger.lease()
        ledger.fail(failure(first, message=f"the provider wrote {ESCAPE}"), policy=NO_WAIT)
        leases = {one.task.blocks.start: one for group in ledger.claim(slots=3) for one in group.leases}
        published = publication(leases[0])
        proof = replace(published.certificate, engine_arguments=("--blocks 0:99",))
        published = replace(published, certificate=proof, seconds={"extract": 1.25})
        ledger.complete(published)
        ledger.fail(failure(leases[100], message=f"poisoned {ESCAPE}", retryable=False), policy=NO_WAIT)
        ledger.plan()
        running = leases[200]
        batch = Batch(running.key, "alerts", "batches/1", {"uri": "batches/1"})
        buffer.publish(conn, ledger.epoch, [batch], max_deliveries=1)
        (delivery,) = buffer.receive(conn, "alerts", 1, 60.0)
        buffer.nack(conn, delivery.message_id, delivery.receipt, error=f"malformed {ESCAPE}", policy=ONE_TRY)
        buffer.bury(conn, now=datetime.now(UTC) + timedelta(hours=1))
        outbox.append(conn, Event("alert", "alert/1", {"rule": "r"}))
        with conn.transaction():
            outbox.drain(conn, ledger.epoch, {"alert": _fails}, limit=1, policy=ONE_TRY)
        home = tmp_path_factory.mktemp("data")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRACE_")}
        environment = {**kept, "TRACE_STATE_DATABASE_URL": url, "TRACE_DATA_DIR": str(home), "TZ": "Asia/Tokyo"}
        yield Operator(ledger, environment, published, running)


def _fails(_conn: object, _events: object) -> None:
    raise StoreUnavailable(f"no answer {ESCAPE}")


# --- looking ------------------------------------------------------------------------------------------------------


def test_tasks_have_their_shape_and_the_newest_trouble_first(operator: Operator) -> None:
    found = operator.json("ledger", "tasks")["tasks"]
    assert set(found[0]) == {
        "task_id", "job", "dataset", "range_start", "range_end", "generation", "state", "attempt", "task_failures",
        "infra_failures", "rpc_pool", "worker_id", "created_at", "run_at", "lease_expires_at", "finished_at", "error",
    }  # fmt: skip
    assert (found[0]["range_start"], found[0]["state"]) == (100, "dead")
    assert set(found[0]["error"]) == {"kind", "message", "at", "provider"}
    assert found[0]["error"]["message"] == f"poisoned {ESCAPE}"
    assert sorted(task["state"] for task in found) == ["dead", "queued", "queued", "running", "succeeded"]
    assert datetime.fromisoformat(found[0]["created_at"]).utcoffset() == timedelta(0)
    running = operator.json("ledger", "tasks", "--state", "running", "--job", "devnet", "--limit", "5")["tasks"]
    assert [task["task_id"] for task in running] == [str(operator.running.task.task_id)]


def test_attempts_have_their_shape(operator: Operator) -> None:
    document = operator.json("ledger", "attempts", str(operator.published.attempt.task_id))
    assert document["task"]["state"] == "succeeded"
    failed, succeeded = document["attempts"]
    assert set(failed) == {"attempt", "worker_id", "epoch", "started_at", "ended_at", "outcome", "error", "seconds"}
    assert (failed["outcome"], failed["seconds"], failed["error"]["kind"]) == ("failed", None, "SourceLied")
    assert (succeeded["outcome"], succeeded["seconds"], succeeded["error"]) == ("succeeded", {"extract": 1.25}, None)


def test_the_outbox_shows_what_failed_first(operator: Operator) -> None:
    found = operator.json("ledger", "outbox")["events"]
    assert set(found[0]) == {
        "event_id", "topic", "idempotency_key", "payload", "available_at", "attempts", "failed", "last_error",
    }  # fmt: skip
    assert [event["failed"] for event in found] == [True, False, False]
    assert {event["topic"] for event in found[1:]} == {"dataset.published", "task.dead"}
    assert [event["topic"] for event in operator.json("ledger", "outbox", "--failed")["events"]] == ["alert"]


def test_dead_letters_and_the_depth_of_each_queue(operator: Operator) -> None:
    document = operator.json("ledger", "dead-letters")
    (letter,) = document["dead_letters"]
    assert set(letter) == {
        "message_id", "queue", "idempotency_key", "payload", "published_at", "dead_at", "deliveries", "max_deliveries",
        "replays", "reason", "last_error",
    }  # fmt: skip
    assert letter["reason"] == "refused at delivery 1 of 1"
    (depth,) = document["queues"]
    assert depth == {
        "queue": "alerts", "ready": 0, "delivered": 0, "waiting": 0, "spent": 0, "dead": 1, "oldest": None,
    }  # fmt: skip
    assert operator.json("ledger", "dead-letters", "--queue", "other") == {"dead_letters": [], "queues": []}


def test_explain_goes_from_an_object_back_to_its_attempts(operator: Operator) -> None:
    document = operator.json("explain", operator.published.files[0].key)
    assert set(document) == {
        "dataset", "dataset_uuid", "chain_id", "cryo_dataset_name", "range_start", "range_end", "ranges", "truncated",
    }  # fmt: skip
    (found,) = document["ranges"]
    assert set(found) == {
        "range_start", "range_end", "generation", "standing", "reason", "job", "times", "published", "task", "attempts",
    }  # fmt: skip
    published = found["published"]
    assert set(published) == {
        "dataset_version", "rows", "digest", "attempt", "published_at", "published_snapshot", "replaced_snapshot",
        "objects", "certificate",
    }  # fmt: skip
    file = operator.published.files[0]
    assert published["objects"] == [
        {"key": file.key, "bytes": 1000, "rows": 1000, "sha256": file.digest, "min_block": 0, "max_block": 99}
    ]
    assert published["certificate"]["engine_arguments"] == ["--blocks 0:99"]
    assert published["certificate"]["provider"] == "standard#0"
    assert set(found["times"]) == {"planned", "leased", "published"}
    assert None not in found["times"].values()
    assert found["times"]["leased"] == found["attempts"][1]["started_at"]
    assert operator.json("explain", str(operator.published.dataset_version)) == document


def test_engine_arguments_that_nobody_noted_are_null(operator: Operator) -> None:
    operator.ledger.conn.execute(
        b"CREATE TABLE public.kept AS SELECT dataset_version, certificate FROM state.dataset_versions;"
        b"UPDATE state.dataset_versions SET certificate = certificate - 'engine_arguments'",
        prepare=False,
    )
    try:
        (found,) = operator.json("explain", "devnet_blocks:7")["ranges"]
        assert found["published"]["certificate"]["engine_arguments"] is None
    finally:
        operator.ledger.conn.execute(
            b"UPDATE state.dataset_versions v SET certificate = k.certificate FROM public.kept k"
            b" WHERE k.dataset_version = v.dataset_version"
        )


def test_explain_says_of_every_range_where_it_stands(operator: Operator) -> None:
    found = operator.json("explain", "devnet_blocks:0-1000")["ranges"]
    assert [(one["range_start"], one["standing"]) for one in found] == [
        (0, "published"),
        (100, "dead"),
        (200, "running"),
        (300, "queued"),
        (400, "queued"),
        (500, "never_planned"),
    ]
    assert (found[5]["task"], found[5]["published"], found[5]["attempts"], found[5]["job"]) == (None, None, [], None)
    assert found[3]["times"]["leased"] is None


def test_people_read_the_same_without_anything_that_steers_their_terminal(operator: Operator) -> None:
    task = str(operator.published.attempt.task_id)
    texts = {
        "tasks": operator.run("ledger", "tasks").stdout,
        "attempts": operator.run("ledger", "attempts", task).stdout,
        "outbox": operator.run("ledger", "outbox").stdout,
        "letters": operator.run("ledger", "dead-letters").stdout,
        "explained": operator.run("explain", "devnet_blocks:0-1000").stdout,
    }
    for name, text in texts.items():
        assert "\x1b" not in text, name
        assert "\x07" not in text, name
        assert "owned" in text, name  # shown, and harmless
        assert "[red]" in text, name
    file = operator.published.files[0]
    proof = ", ".join(operator.published.certificate.checks)
    for word in (file.key, file.digest, "standard#0", "--blocks 0:99", proof, task, "cursor of job devnet"):
        assert word in texts["explained"], word


# --- putting back -------------------------------------------------------------------------------------------------


def test_failed_events_are_put_back(operator: Operator) -> None:
    (event,) = operator.json("ledger", "outbox", "--failed")["events"]
    done = operator.run("ledger", "replay-outbox", str(event["event_id"]))
    assert done.stderr == "1 failed event put back\n"
    assert operator.json("ledger", "outbox", "--failed")["events"] == []
    assert operator.run("ledger", "replay-outbox").stderr == "0 failed events put back\n"
    assert "no failed event 7777" in operator.run("ledger", "replay-outbox", "7777", code=2).stderr
    with operator.ledger.conn.transaction():
        outbox.drain(operator.ledger.conn, operator.ledger.epoch, {"alert": _fails}, limit=1, policy=ONE_TRY)


def test_dead_letters_are_put_back(operator: Operator) -> None:
    (letter,) = operator.json("ledger", "dead-letters")["dead_letters"]
    assert operator.run("buffer", "replay", "--queue", "other").stderr == "0 dead letters put back\n"
    assert operator.run("buffer", "replay", letter["message_id"]).stderr == "1 dead letter put back\n"
    conn = operator.ledger.conn
    (delivery,) = buffer.receive(conn, "alerts", 1, 60.0)
    assert str(delivery.message_id) == letter["message_id"]
    buffer.nack(conn, delivery.message_id, delivery.receipt, error=f"malformed {ESCAPE}", policy=ONE_TRY)
    buffer.bury(conn, now=datetime.now(UTC) + timedelta(hours=1))
    operator.run("buffer", "replay", "--all")
    (delivery,) = buffer.receive(conn, "alerts", 1, 60.0)
    buffer.nack(conn, delivery.message_id, delivery.receipt, error=f"malformed {ESCAPE}", policy=ONE_TRY)
    buffer.bury(conn, now=datetime.now(UTC) + timedelta(hours=1))
    (again,) = operator.json("ledger", "dead-letters")["dead_letters"]
    assert (again["replays"], again["reason"]) == (2, "refused at delivery 1 of 1, after 2 replays")
    operator.ledger.conn.execute(
        b"UPDATE state.buffer_dead_letters SET replays = 0, reason = 'refused at delivery 1 of 1'"
    )


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("ledger", "tasks", "--job", "devnett"), "choose one of devnet"),
        (("ledger", "attempts", "a65da742-7b49-5b7e-b24d-3d7336ef37ee"), "ledger tasks"),
        (("ledger", "attempts", "seven"), "seven"),
        (("ledger", "tasks", "--state", "lost"), "succeeded"),
        (("explain", "devnet_block:5"), "choose one of devnet_blocks"),
        (("explain", "what is this"), "DATASET:BLOCK"),
        (("explain", "devnet_blocks:9-3"), "END must be above START"),
        (("buffer", "replay"), "exactly one"),
        (("buffer", "replay", "--all", "--queue", "alerts"), "exactly one"),
        (("buffer", "replay", "a65da742-7b49-5b7e-b24d-3d7336ef37ee"), "ledger dead-letters"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_says_what_to_do(
    operator: Operator, arguments: tuple[str, ...], hint: str
) -> None:
    done = operator.run(*arguments, code=2)
    assert hint in done.stderr
    assert done.stdout == ""


def test_without_a_ledger_the_commands_end_with_3(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRACE_")}
    for arguments in (("ledger", "tasks"), ("explain", "a:5"), ("buffer", "replay", "--all")):
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", *arguments],
            env={**kept, "TRACE_DATA_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "the embedded Postgres is not running: run `trace-ray up`\n"
