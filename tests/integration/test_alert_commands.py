"""Alert rules and events as they are typed: what goes where, refusals, exit codes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from state import alerts, bundles, deliveries, rules
from state.db import connect
from tests import alert_events, pg
from tests.bundles import key, make
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, publication
from tests.integration.state.test_alerts import TASK, draft
from tests.integration.test_access_commands import Shell
from tests.job_files import changed
from tests.rule_files import write
from trace_ray.bundle.keys import public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.contracts import DEFAULT_ORG, Failure, OrgId
from trace_ray.lite.postgres import LocalPostgres

MADE = make()
DIGEST = MADE.digest
FILE = f"kind: alert_rule\nname: watch\nbundle: {DIGEST}\ndatasets: [devnet_blocks]\nchannels: [ops]\n"


@pytest.fixture
def shell(postgres: LocalPostgres, tmp_path: Path) -> Iterator[Shell]:
    state_url, data_url = pg.fresh_database(postgres), pg.fresh_database(postgres)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
    environment |= {
        "TRACE_STATE_DATABASE_URL": state_url,
        "TRACE_DATA_DATABASE_URL": data_url,
        "TRACE_DATA_DIR": str(tmp_path),
    }
    with connect(state_url, application_name="test") as conn, connect(data_url, application_name="test") as data:
        bundles.trust(conn, DEFAULT_ORG, public_bytes(key()), list(Language))
        bundles.push(conn, DEFAULT_ORG, DIGEST, MADE.envelope)
        yield Shell(conn, data, tmp_path, environment)


@pytest.fixture
def ledger(shell: Shell) -> Ledger:
    """Three published ranges, known to the rules of that time: none."""
    ledger = Ledger.lead(shell.conn)
    ledger.sync(job("blocks", to_block=300))
    for group in ledger.claim(9):
        ledger.complete(*map(publication, group.leases))
    watching.drain(ledger)
    return ledger


def test_a_rule_is_applied_listed_shown_paused_and_resumed(shell: Shell, ledger: Ledger) -> None:
    path = str(write(shell.home, FILE))
    rule = watching.rule()
    done = shell.run("alerts", "apply", "-f", path)
    assert done.stdout == f"{rule.rule_id}\n"
    missing = "channel ops is not set: set TRACE_CHANNEL_OPS_KIND and its other parts, then run `trace-ray up`"
    assert done.stderr.splitlines() == [
        f"rule watch created: bundle {DIGEST} on devnet_blocks",
        f"Note: {missing}",
        "It looks at what is published from now on; with --since BLOCK also at what is there already",
    ]
    assert watching.planned(ledger, rule) == []
    again = shell.json("alerts", "apply", "-f", path, "--since", "150")
    assert again == {
        "rule_id": str(rule.rule_id), "created": False, "changes": [], "planned": 2, "lacks": [missing]
    }  # fmt: skip
    silent = shell.run("alerts", "apply", "-f", path, more={"TRACE_HTTP_PORT": "0"}).stderr
    assert "Note: the stack answers no questions" in silent
    first, second = watching.claim(ledger, 9)
    watching.complete(ledger, first, None)
    ledger.fail(Failure(second.key, "user_error", "user_error: KeyError", retryable=False))
    shell.run("alerts", "pause", "watch")
    (listed,) = shell.json("alerts", "list")["rules"]
    shown = shell.json("alerts", "show", "watch")
    assert listed == {key: value for key, value in shown.items() if key != "troubles"}
    assert (shown["bundle"], shown["enabled"], shown["channels"], shown["throttle"]) == (DIGEST, False, ["ops"], None)
    assert shown["evaluations"] == {"queued": 0, "running": 0, "succeeded": 1, "dead": 1, "cancelled": 0}
    assert [(one["task_id"], one["message"]) for one in shown["troubles"]] == [
        (str(second.evaluation.task_id), "user_error: KeyError")
    ]
    assert "user_error: KeyError" in shell.run("alerts", "show", "watch").stdout
    assert "paused" in shell.run("alerts", "list").stdout
    bundles.revoke(shell.conn, DEFAULT_ORG, DIGEST)
    assert (
        f"Its bundle {MADE.manifest.name}@{MADE.manifest.version} is revoked"
        in shell.run("alerts", "show", "watch").stderr
    )
    shell.run("alerts", "resume", "watch")
    assert rules.by_ids(shell.conn, [rule.rule_id])[rule.rule_id].enabled


@pytest.mark.parametrize("change", ["pause", "shadow"])
def test_what_a_rule_has_queued_is_not_sent_when_it_is_paused_or_turned_to_shadow(
    shell: Shell, ledger: Ledger, change: str
) -> None:
    path = str(write(shell.home, FILE))
    shell.run("alerts", "apply", "-f", path)
    rule = watching.rule()
    events = alert_events.accept(shell.data, *(alert_events.event(rule, number) for number in range(2)))
    deliveries.create(shell.data, DEFAULT_ORG, rule, events)
    if change == "pause":
        said = shell.run("alerts", "pause", "watch").stderr
    else:
        write(shell.home, FILE + "mode: shadow\n")
        said = shell.run("alerts", "apply", "-f", path).stderr
    assert "2 queued deliveries are not sent" in said
    found = deliveries.listing(shell.data, DEFAULT_ORG, limit=10)
    assert [(view.state, view.reason) for view in found] == [("suppressed", "disabled")] * 2


def test_dead_evaluations_are_put_back_as_often_as_there_are_some(shell: Shell, ledger: Ledger) -> None:
    path = str(write(shell.home, FILE))
    shell.run("alerts", "apply", "-f", path, "--since", "0")
    rule_id = str(watching.rule().rule_id)
    for lease in watching.claim(ledger, 2):
        ledger.fail(Failure(lease.key, "user_error", "user_error: KeyError", retryable=False))
    assert "`trace-ray alerts retry watch` puts dead ones back" in shell.run("alerts", "show", "watch").stderr
    done = shell.run("alerts", "retry", "watch")
    assert (done.stdout, done.stderr) == ("", "2 dead evaluations of watch put back\n")
    assert shell.run("alerts", "retry", "watch").stderr == "watch has no dead evaluation: nothing to put back\n"
    (lease,) = watching.claim(ledger, 1)
    ledger.fail(Failure(lease.key, "user_error", "user_error: KeyError", retryable=False))
    shell.run("alerts", "pause", "watch")
    assert shell.json("alerts", "retry", "watch") == {
        "rule": "watch", "rule_id": rule_id, "enabled": False, "retried": 1
    }  # fmt: skip
    assert shell.json("alerts", "show", "watch")["evaluations"]["dead"] == 0


def test_a_resumed_rule_goes_on_with_all_that_waited_or_with_what_is_new(shell: Shell, ledger: Ledger) -> None:
    shell.run("alerts", "apply", "-f", str(write(shell.home, FILE)))
    rule_id = str(watching.rule().rule_id)
    shell.run("alerts", "pause", "watch")
    ledger.sync(job("blocks", to_block=600))
    ledger.drain_once()
    watching.drain(ledger)
    assert "watch is paused, and 3 evaluations wait for" in shell.run("alerts", "show", "watch").stderr
    done = shell.run("alerts", "resume", "watch")
    assert (done.stdout, done.stderr) == ("", "watch goes on; 3 evaluations waited\n")
    assert shell.run("alerts", "resume", "watch", "--skip").stderr == "watch was not paused: nothing has changed\n"
    assert len(watching.claim(ledger, 1)) == 1
    shell.run("alerts", "pause", "watch")
    told = shell.json("alerts", "resume", "watch", "--skip")
    assert told == {
        "rule": "watch", "rule_id": rule_id, "was_paused": True, "queued": 0, "left_out": 2,
        "left_out_blocks": [[400, 600]],
    }  # fmt: skip
    assert "nothing waits for" not in shell.run("alerts", "show", "watch").stderr
    again = shell.json("alerts", "apply", "-f", str(shell.home / "rule.yaml"), "--since", "500")
    assert again["planned"] == 1
    shell.run("alerts", "pause", "watch")
    said = shell.run("alerts", "resume", "watch", "--skip").stderr.splitlines()
    assert said[:2] == ["watch goes on; nothing waits", "1 evaluation left out: blocks [500, 600)"]


def test_a_refused_file_changes_nothing_and_tells_every_mistake(shell: Shell, ledger: Ledger) -> None:
    path = str(write(shell.home, changed("channels: [ops]", "channels: [https://x.example/1]\nmode: dry", FILE)))
    done = shell.run("alerts", "apply", "-f", path, code=2)
    assert done.stdout == ""
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["channels.0", "mode"]
    write(shell.home, FILE.replace("devnet_blocks", "nothing").replace(DIGEST, "watcher@1"))
    done = shell.run("alerts", "apply", "-f", path, code=2)
    assert done.stderr.splitlines() == [
        "datasets: there is no dataset nothing: choose one of devnet_blocks",
        "bundle: there is no bundle watcher@1: `trace-ray bundle list` shows names and digests",
    ]
    assert rules.listing(ledger.conn, DEFAULT_ORG) == []


def test_events_come_from_the_data_database_and_from_no_other_organisation(shell: Shell, ledger: Ledger) -> None:
    watching.watch(ledger, watching.rule())
    assert "No event yet" in shell.run("alerts", "events", "--rule", "watch").stderr
    alerts.add(shell.data, watching.rule(), TASK, 1, [draft("a"), draft("b\x1b[31m")])
    alerts.add(shell.data, watching.rule(org_id=OrgId(TASK)), TASK, 1, [draft("foreign")])
    found = shell.json("alerts", "events", "--limit", "5")["events"]
    assert sorted(one["dedupe_key"] for one in found) == ["a", "b\x1b[31m"]
    event = next(one for one in found if one["dedupe_key"] == "a")
    assert (event["rule"], event["block_number"], event["payload"]) == ("watch", 5, {"value": 1})
    assert (event["block_hash"], event["event_time"]) == ("0x" + "ab" * 32, "2026-01-31T12:00:00.123456+00:00")
    table = shell.run("alerts", "events", "--rule", "watch").stdout
    assert "watch" in table
    assert "\x1b[31m" not in table


def test_unknown_rules_are_refused_with_a_hint(shell: Shell, ledger: Ledger) -> None:
    for words in (("show", "no"), ("pause", "no"), ("retry", "no"), ("events", "--rule", "no")):
        assert shell.refused("alerts", *words) == "there is no rule no: apply a rule file first"
    assert watching.claim(ledger, 1) == []
