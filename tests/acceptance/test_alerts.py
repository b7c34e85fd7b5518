"""Alerts as a stranger meets them: three signed handlers watch a chain, and a receiver of webhooks that is often out of
order hears of each large transfer, whatever dies in between; what is revoked says nothing any more."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from state.db import Connection, connect
from tests import truth
from tests.acceptance.conftest import Cli
from tests.acceptance.test_sync_on_ray import actor
from tests.conftest import free_port
from tests.receivers import Receiver
from trace_ray import config, webhook
from trace_ray.alerts import DeliveryKind, delivery_id, event_id, rule_id
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.lite.devnet import Devnet

pytestmark = pytest.mark.slow

SECRET = "of-the-acceptance-test-4711"
RULES = {"python": 0.5, "node": 0.8, "bootstrap": 0.9}  # language, which is the name of rule and bundle: ether
PROGRAM = Path(__file__).parent / "handlers" / "watch.c"
MANIFEST = """\
name = "bootstrap"
version = "0.1.0"
language = "bootstrap"
requests = { query = true, events = true }
"""
OTHERS = ("node", "bootstrap")  # go on when the bundle of the first is revoked
WEI = 10**18
PARTS = (40, 100, 112, 120)  # ends of the parts of the job
CHUNK = 4
PATIENCE_S = 120.0
RULE = """\
kind: alert_rule
name: {name}
bundle: {name}@0.1.0
datasets: [chain_blocks, chain_transactions]
parameters: {{min_ether: {ether}}}
channels: [ops]
"""

Told = tuple[str, int, str, str, str]  # rule, block, block's hash, transaction's hash, wei


@dataclass
class Alarm:
    """A stack with three rules, its ledger, the node, and who is told."""

    stack: Cli
    conn: Connection
    net: Devnet
    receiver: Receiver
    keyid: str

    def sync(self, end: int) -> None:
        """Raise the end of the job. It is published in its own time."""
        self.stack.run("apply", "-f", str(self.stack.job("chain", end=end, chunk=CHUNK)))

    def evaluations(self) -> Counter[str]:
        rows = self.conn.execute("SELECT state, count(*) AS n FROM state.tasks WHERE kind = 'evaluation' GROUP BY 1")
        return Counter({row["state"]: row["n"] for row in rows})

    def open_deliveries(self) -> int:
        (row,) = self.conn.execute(
            "SELECT count(*) AS n FROM data.alert_deliveries WHERE state IN ('queued', 'sending')"
        )
        return row["n"]

    def truth(self, end: int, *names: str) -> dict[str, Told]:
        """Return what must be heard of the blocks before `end`, by idempotency key."""
        found: dict[str, Told] = {}
        for row in truth.rows(self.net.url, 0, end)["transactions"]:
            value, block, transaction = (
                row["value_string"],
                *(_hex(row[key]) for key in ("block_hash", "transaction_hash")),
            )
            for name in names or RULES:
                if row["success"] and int(value) >= RULES[name] * WEI:
                    event = event_id(DEFAULT_ORG, f"{rule_id(DEFAULT_ORG, name)}:{block}:{transaction}")
                    key = str(delivery_id(event, "ops", DeliveryKind.ALERT))
                    found[key] = (name, row["block_number"], block, transaction, value)
        return found

    def heard(self) -> dict[str, Told]:
        """Return what was heard, by idempotency key. Every request is signed, and says the same under its key."""
        bodies: dict[str, bytes] = {}
        for one in list(self.receiver.heard.requests):
            if len(one.body) < int(one.headers["content-length"]):
                continue  # its sender was killed in the middle of it
            signed = webhook.verify(
                one.headers["trace-signature"], one.body, [SECRET], now=datetime.now(UTC), tolerance_s=3600
            )
            assert signed, one.headers
            assert bodies.setdefault(one.key, one.body) == one.body
        return {key: _told(json.loads(body)) for key, body in bodies.items()}

    def until_heard(self, wanted: dict[str, Told], *, left: int = 0) -> None:
        """Wait until all is heard, and nothing but `left` evaluations is on its way."""

        def done() -> bool:
            self.conn.execute("UPDATE data.alert_deliveries SET due_at = now() WHERE state = 'queued'")  # no back-off
            counts = self.evaluations()
            on_its_way = counts["queued"] + counts["running"], self.open_deliveries()
            return on_its_way == (left, 0) and len(set(self.receiver.heard.keys())) >= len(wanted)

        self.until(done)
        assert self.heard() == wanted

    def until(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.evaluations()}, {self.open_deliveries()} deliveries open")
            time.sleep(0.02)

    def kill(self, title: str) -> None:
        actor(self.stack, title)[0].send_signal(signal.SIGKILL)

    def delivered(self) -> list[dict[str, Any]]:
        return self.stack.json("alerts", "deliveries", "--state", "delivered", "--limit", "10000", "--json")[
            "deliveries"
        ]


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()


def _told(body: dict[str, Any]) -> Told:
    event = body["event"]
    assert (body["kind"], body["test"], event["chain_id"]) == ("alert", False, 31337)
    wei = event["payload"]["wei"]
    return body["rule"]["name"], event["block_number"], event["block_hash"], event["tx_hash"], wei


@pytest.fixture(scope="module")
def alarm(stack: Cli, anvil_binary: Path, workspace: Path) -> Iterator[Alarm]:
    directory = workspace / "alarmed-anvil"
    directory.mkdir()
    node = Devnet(anvil_binary, port=None, log=directory / "log", state_dir=directory / "state")
    with node as net, Receiver() as receiver:
        net.fill(blocks=PARTS[-1], transactions=10)
        stack.environment |= {
            "TRACE_HTTP_PORT": str(free_port()),
            "TRACE_RPC_POOL_STANDARD_URLS": net.url,
            "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
            "TRACE_CHANNEL_OPS_KIND": "webhook",
            "TRACE_CHANNEL_OPS_URL": receiver.url("/moody"),
            "TRACE_CHANNEL_OPS_SECRET": SECRET,
        }
        stack.run("up")
        key = stack.data_dir / "author.key"
        keyid = stack.run("bundle", "keygen", "-o", str(key)).stdout.strip()
        stack.run("bundle", "trust", f"{key}.pub")
        with ThreadPoolExecutor(len(RULES)) as authors:
            list(authors.map(partial(author, stack, key), RULES))
        settings = config.load_stack(stack.data_dir)
        with connect(config.state_url(settings), application_name="trace-test") as conn:
            conn.autocommit = True
            yield Alarm(stack, conn, net, receiver, keyid)


def author(stack: Cli, key: Path, language: str) -> None:
    """Make a bundle of a template, or of a program that somebody has built, and push it."""
    project, made = stack.data_dir / language, stack.data_dir / f"{language}.zip"
    if language == "bootstrap":
        project.mkdir()
        (project / "bundle.toml").write_text(MANIFEST)
        compiler = ["cc", "-O1", "-static", "-D_GNU_SOURCE", "-o", str(project / "bootstrap"), str(PROGRAM)]
        subprocess.run(compiler, check=True, timeout=60)
    else:
        stack.run("bundle", "init", str(project), "--lang", language)
    stack.run("bundle", "build", str(project), "-o", str(made))
    stack.run("bundle", "sign", str(made), "--key", str(key))
    stack.run("bundle", "push", str(made))


def test_each_large_transfer_is_heard_although_three_in_ten_requests_fail(alarm: Alarm) -> None:
    alarm.sync(PARTS[0])
    for name, ether in RULES.items():
        path = alarm.stack.data_dir / f"{name}.rule.yaml"
        path.write_text(RULE.format(name=name, ether=ether))
        alarm.stack.run("alerts", "apply", "-f", str(path), "--since", "0")

    wanted = alarm.truth(PARTS[0])
    assert Counter(told[0] for told in wanted.values()).keys() == set(RULES)
    alarm.until(lambda: alarm.evaluations()["succeeded"] == len(RULES) * PARTS[0] // CHUNK)
    alarm.until_heard(wanted)

    assert len(alarm.receiver.heard.requests) > len(wanted), "some requests failed and came again"
    assert {one["delivery_id"] for one in alarm.delivered()} == set(wanted)


def test_what_dies_in_the_middle_takes_no_alert_with_it(alarm: Alarm) -> None:
    before = len(set(alarm.receiver.heard.keys()))
    alarm.sync(PARTS[1])

    alarm.until(lambda: alarm.evaluations()["running"] > 0)
    alarm.kill("ray::Evaluator")
    assert alarm.evaluations()["succeeded"] < len(RULES) * PARTS[1] // CHUNK
    alarm.until(lambda: alarm.open_deliveries() > 0 and len(set(alarm.receiver.heard.keys())) > before)
    alarm.kill("ray::Alerts")
    alarm.kill("ray::Dispatcher")
    assert len(set(alarm.receiver.heard.keys())) < len(alarm.truth(PARTS[1]))
    # its leases last two minutes, for which nobody waits here
    alarm.conn.execute("UPDATE data.alert_deliveries SET due_at = now() WHERE state = 'sending'")
    alarm.conn.execute("UPDATE state.buffer_queue SET available_at = now()")

    alarm.until(lambda: alarm.evaluations()["succeeded"] == len(RULES) * PARTS[1] // CHUNK)
    alarm.until_heard(alarm.truth(PARTS[1]))
    assert {one["delivery_id"] for one in alarm.delivered()} == set(alarm.truth(PARTS[1]))


def test_a_revoked_bundle_says_nothing_while_another_one_goes_on(alarm: Alarm) -> None:
    (bundle,) = (one for one in alarm.stack.json("bundle", "list", "--json")["bundles"] if one["name"] == "python")
    alarm.stack.run("bundle", "revoke", bundle["sha256"])
    alarm.sync(PARTS[2])

    wanted = alarm.truth(PARTS[1]) | alarm.truth(PARTS[2], *OTHERS)
    assert len(alarm.truth(PARTS[1])) < len(wanted) < len(alarm.truth(PARTS[2]))
    new = (PARTS[2] - PARTS[1]) // CHUNK
    alarm.until(lambda: alarm.evaluations()["succeeded"] == (PARTS[1] + len(OTHERS) * PARTS[2]) // CHUNK)
    alarm.until_heard(wanted, left=new)
    assert "revoked" in alarm.stack.run("alerts", "show", "python").stderr


def test_a_revoked_key_stops_what_it_has_signed(alarm: Alarm) -> None:
    before = alarm.heard()
    alarm.stack.run("bundle", "revoke", alarm.keyid)
    alarm.sync(PARTS[3])

    new = len(OTHERS) * (PARTS[3] - PARTS[2]) // CHUNK
    alarm.until(lambda: alarm.evaluations()["dead"] == new)
    shown = alarm.stack.json("alerts", "show", "node", "--json")
    assert {one["message"].partition(":")[0] for one in shown["troubles"]} == {"bundle_rejected"}
    assert alarm.heard() == before
