"""The delivery loop on a real ledger with real receivers: at least once, once by key, each channel on its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import deliver, senders
from actors.deliver import Deliverer
from actors.outgoing import Network
from state import deliveries
from state.db import Connection, Database, connect
from tests import pg
from tests.alert_events import accept, event, rule
from tests.conftest import wait_until
from tests.receivers import Receiver
from trace_ray import config
from trace_ray.alerts import AlertEvent, DeliveryState
from trace_ray.channels import Channel, ChannelKind, Sending, Sent
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.notices import DeliveryView, Notice
from trace_ray.retry import RetryPolicy

SECRET = "a secret of 22 letters"
QUICK = RetryPolicy(base_s=0.05, cap_s=0.2, max_attempts=12, max_infra_failures=12)
NETWORK = Network(allow_loopback=True)


@pytest.fixture(scope="module")
def url(postgres: LocalPostgres) -> str:
    return pg.fresh_database(postgres)


@pytest.fixture
def conn(url: str) -> Iterator[Connection]:
    with connect(url, application_name="trace-test") as conn:
        yield conn
        conn.execute(b"TRUNCATE data.alert_events CASCADE")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def to(receiver: Receiver, path: str) -> senders.Sender:
    channel = Channel("ops", ChannelKind.WEBHOOK, url=receiver.url(path), secrets=(SECRET,))
    return senders.make(channel, NETWORK)


@contextmanager
def loop(url: str, **channels: senders.Sender) -> Generator[Deliverer]:
    """A loop that runs in a thread until it is left."""
    database, stop = Database(url, application_name="trace-test"), threading.Event()
    deliverer = Deliverer(database, channels, policy=QUICK, idle_s=0.05)
    thread = threading.Thread(target=deliverer.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield deliverer
    finally:
        stop.set()
        thread.join()
        deliverer.close()


def accepted(conn: Connection, count: int, *channels: str) -> list[AlertEvent]:
    of = rule(*channels)
    events = accept(conn, *(event(of, number) for number in range(count)))
    deliveries.create(conn, of.org_id, of, events)
    return events


def views(conn: Connection, **which: Any) -> list[DeliveryView]:
    return deliveries.listing(conn, DEFAULT_ORG, limit=1000, **which)


def states(conn: Connection, channel: str | None = None) -> Counter[str]:
    return Counter(view.state for view in views(conn, channel=channel))


def all_are(conn: Connection, state: DeliveryState, channel: str | None = None) -> Callable[[], bool]:
    return lambda: set(states(conn, channel)) == {state}


# --- at least once, once by key -----------------------------------------------------------------------------------


def test_every_event_reaches_a_moody_receiver_and_is_one_by_its_key(
    url: str, conn: Connection, receiver: Receiver
) -> None:
    events = accepted(conn, 80)
    with loop(url, ops=to(receiver, "/moody")), loop(url, ops=to(receiver, "/moody")):
        wait_until(all_are(conn, DeliveryState.DELIVERED), what="all deliveries")
    bodies: dict[str, set[bytes]] = {}
    for request in receiver.heard.requests:
        bodies.setdefault(request.key, set()).add(request.body)
    assert len(bodies) == 80
    assert all(len(found) == 1 for found in bodies.values())  # the same words in each attempt
    assert {json.loads(body)["event_id"] for found in bodies.values() for body in found} == {
        str(one.event_id) for one in events
    }
    attempts = Counter(receiver.heard.keys())
    assert max(attempts.values()) > 1
    assert {view.delivery.attempt for view in views(conn)} == set(attempts.values())


def test_two_loops_send_each_delivery_once_when_nothing_goes_wrong(
    url: str, conn: Connection, receiver: Receiver
) -> None:
    accepted(conn, 40, "ops")
    with loop(url, ops=to(receiver, "/ok")), loop(url, ops=to(receiver, "/ok")):
        wait_until(all_are(conn, DeliveryState.DELIVERED), what="all deliveries")
    assert len(receiver.heard.keys()) == len(set(receiver.heard.keys())) == 40


def test_a_channel_that_hangs_holds_up_no_other(url: str, conn: Connection, receiver: Receiver) -> None:
    accepted(conn, 20, "stuck", "ops", "refused")
    with loop(url, stuck=to(receiver, "/hang"), ops=to(receiver, "/ok"), refused=to(receiver, "/gone")):
        wait_until(all_are(conn, DeliveryState.DELIVERED, "ops"), what="the channel that works")
        wait_until(all_are(conn, DeliveryState.DEAD, "refused"), what="the channel that refuses")
        assert states(conn, "stuck") == {DeliveryState.SENDING: deliver.PLACES, DeliveryState.QUEUED: 16}
        receiver.heard.free.set()
        wait_until(all_are(conn, DeliveryState.DELIVERED, "stuck"), what="the channel that hung")
    assert len(receiver.heard.keys("/hang")) == 20
    assert len(receiver.heard.keys("/gone")) == 20  # once each


def test_a_retraction_reaches_whoever_has_the_alert(url: str, conn: Connection, receiver: Receiver) -> None:
    events = accepted(conn, 4, "ops")
    with loop(url, ops=to(receiver, "/ok")):
        wait_until(all_are(conn, DeliveryState.DELIVERED), what="the alerts")
        alerts = {json.loads(one.body)["event_id"]: one.key for one in receiver.heard.requests}
        deliveries.retract(conn, [one.event_id for one in events[:2]])
        wait_until(lambda: len(receiver.heard.requests) == 6, what="the retractions")
    documents = [json.loads(one.body) for one in receiver.heard.requests[4:]]
    assert {one["kind"] for one in documents} == {"retraction"}
    assert {one["event_id"]: one["retracts"] for one in documents} == {
        str(one.event_id): alerts[str(one.event_id)] for one in events[:2]
    }


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_channel_that_is_not_set_is_told_and_tried_again(url: str, conn: Connection, receiver: Receiver) -> None:
    accepted(conn, 2, "nowhere")
    with loop(url, ops=to(receiver, "/ok")):
        wait_until(all_are(conn, DeliveryState.DEAD), what="the end of the attempts")
    assert {view.delivery.last_error for view in views(conn)} == {
        "channel nowhere is not set where deliveries are sent: set TRACE_CHANNEL_NOWHERE_KIND"
    }
    assert {view.failures for view in views(conn)} == {12}


def test_a_sender_that_breaks_is_a_failed_attempt(url: str, conn: Connection) -> None:
    accepted(conn, 1)
    attempts: list[Notice] = []

    def broken(notice: Notice) -> Sending:
        attempts.append(notice)
        if len(attempts) == 1:
            raise KeyError(SECRET)
        return Sent()

    with loop(url, ops=broken):
        wait_until(lambda: bool(views(conn)[0].delivery.last_error), what="the failure")
        assert views(conn)[0].delivery.last_error == "unexpected KeyError: see the log of the delivery loop"
        wait_until(all_are(conn, DeliveryState.DELIVERED), what="the second attempt")
    assert attempts[0] == attempts[1]


def test_a_database_that_is_away_is_waited_for(url: str, conn: Connection, receiver: Receiver) -> None:
    """Its connections are cut while deliveries are sent and recorded: nothing is lost."""
    accepted(conn, 30, "ops")
    with loop(url, ops=to(receiver, "/ok")):
        while not all_are(conn, DeliveryState.DELIVERED)():
            conn.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            threading.Event().wait(0.2)
    assert len(set(receiver.heard.keys())) == 30


# --- kill -9 ------------------------------------------------------------------------------------------------------


@contextmanager
def process(url: str, hook: str, directory: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A loop in a process of its own, whose channel `ops` posts to `hook`; killed when it is left."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACE_")}
    environment |= {
        "TRACE_STATE_DATABASE_URL": url,
        "TRACE_DATA_DIR": str(directory),
        "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
        "TRACE_CHANNEL_OPS_KIND": "webhook",
        "TRACE_CHANNEL_OPS_URL": hook,
        "TRACE_CHANNEL_OPS_SECRET": SECRET,
    }
    with (directory / "log").open("ab") as log:
        command = [sys.executable, "-m", "tests.delivery_process", "2"]
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait(10)


def test_a_loop_that_dies_after_sending_and_before_recording_sends_again_under_the_same_key(
    url: str, conn: Connection, receiver: Receiver, tmp_path: Path
) -> None:
    """Its rows are locked, so that it cannot record what the receiver has answered already."""
    accepted(conn, 3, "ops")
    with (
        process(url, receiver.url("/hang"), tmp_path) as running,
        connect(url, application_name="trace-test") as lock,
    ):
        wait_until(lambda: len(receiver.heard.requests) == 3, what="the requests")
        with lock.transaction():
            lock.execute(b"SET LOCAL idle_in_transaction_session_timeout = 0")
            lock.execute(b"SELECT FROM data.alert_deliveries FOR UPDATE")
            receiver.heard.free.set()  # the receiver answers 200: it has them
            waiting = b"SELECT count(*) AS waits FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: bool((conn.execute(waiting).fetchone() or {})["waits"]), what="the record")
            killed = states(conn)
            first = receiver.heard.keys()
            running.kill()
            running.wait(10)
    assert killed == {DeliveryState.SENDING: 3}
    with process(url, receiver.url("/ok"), tmp_path):
        wait_until(all_are(conn, DeliveryState.DELIVERED), what="the second loop")
    assert sorted(receiver.heard.keys("/ok")) == sorted(first)
    assert len(set(receiver.heard.keys())) == 3
    assert {view.delivery.attempt for view in views(conn)} == {2}
    log = (tmp_path / "log").read_text()
    assert SECRET not in log
    assert "delivery leases ended without a word" in log


def test_loops_that_are_killed_again_and_again_lose_nothing(
    url: str, conn: Connection, receiver: Receiver, tmp_path: Path
) -> None:
    events = accepted(conn, 45, "ops")
    kills = 0
    while not all_are(conn, DeliveryState.DELIVERED)():
        with process(url, receiver.url("/moody"), tmp_path):
            seen = len(receiver.heard.requests)
            wait_until(
                lambda seen=seen: len(receiver.heard.requests) >= seen + 15 or all_are(conn, DeliveryState.DELIVERED)(),
                what="some deliveries",
            )
        kills += 1
    assert kills > 1
    found = {json.loads(one.body)["event_id"]: one.key for one in receiver.heard.requests}
    assert set(found) == {str(one.event_id) for one in events}
    assert len(set(receiver.heard.keys())) == 45


def test_the_loop_of_a_stack_has_the_channels_of_its_settings(url: str, conn: Connection, tmp_path: Path) -> None:
    """The switch was taken back after a channel of this machine was set: that one fails, the other works."""
    accepted(conn, 1, "quiet", "here")
    here = {
        "TRACE_CHANNEL_HERE_KIND": "slack",
        "TRACE_CHANNEL_HERE_URL": "http://127.0.0.1:9999/",
        "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
    }
    settings = config.read_settings(
        {"TRACE_STATE_DATABASE_URL": url, "TRACE_DATA_DIR": str(tmp_path), "TRACE_CHANNEL_QUIET_KIND": "log", **here}
    )
    deliverer = deliver.for_stack(replace(settings, alerts_allow_loopback=False))
    assert deliverer.tick() == deliver.Ticked(reaped=0, leased=2)
    deliverer.close()
    assert states(conn) == {DeliveryState.DELIVERED: 1, DeliveryState.QUEUED: 1}
    (failed,) = views(conn, channel="here")
    assert (failed.delivery.last_error or "").startswith("TRACE_CHANNEL_HERE_URL is not https")
