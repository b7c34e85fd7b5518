"""What sinks and delivers for a stack follows the channels that `up` sets, without a start of its own."""

from pathlib import Path

import pytest

from actors import alerting
from state import deliveries
from state.db import connect
from tests import alert_events, pg
from tests.conftest import wait_until
from tests.receivers import Receiver
from trace_ray import config
from trace_ray.alerts import QUEUE, AlertEvent, DeliveryKind, delivery_id
from trace_ray.config import Settings
from trace_ray.lite.postgres import LocalPostgres

QUEUED = b"""
INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, max_deliveries)
VALUES (gen_random_uuid(), %(queue)s, %(key)s, '{"says": "nothing"}', 3)
"""
REFUSED = b"SELECT idempotency_key FROM state.buffer_dead_letters"


def settings(home: Path, url: str, hook: str) -> Settings:
    return config.read_settings(
        {
            "TRACE_STATE_DATABASE_URL": url,
            "TRACE_DATA_DIR": str(home),
            "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
            "TRACE_CHANNEL_OPS_KIND": "webhook",
            "TRACE_CHANNEL_OPS_URL": hook,
            "TRACE_CHANNEL_OPS_SECRET": "of-the-test-of-alerting",
        }
    )


def test_a_sink_that_is_woken_looks_at_once(
    postgres: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "IDLE_S", 3600.0)
    url = pg.fresh_database(postgres)
    with connect(url, application_name="trace-test") as conn:

        def publish(key: str) -> None:
            with conn.transaction():
                conn.execute(QUEUED, {"queue": QUEUE, "key": key})

        def refused() -> set[str]:
            with conn.transaction():
                return {row["idempotency_key"] for row in conn.execute(REFUSED)}

        config.save_stack(settings(tmp_path, url, "https://example.com/hook"))
        publish("before it starts")
        running = alerting.for_stack(lambda: config.load_stack(tmp_path))
        running.start()
        try:
            wait_until(lambda: refused() == {"before it starts"}, what="the first look")
            publish("while it waits")
            running.wake()
            wait_until(lambda: "while it waits" in refused(), what="the look that it was woken for")
        finally:
            running.close()


def test_a_channel_that_up_has_changed_is_delivered_to_anew(postgres: LocalPostgres, tmp_path: Path) -> None:
    url, rule = pg.fresh_database(postgres), alert_events.rule()
    events: list[AlertEvent] = []
    with connect(url, application_name="trace-test") as conn, Receiver() as receiver:

        def heard_at(path: str) -> bool:
            """Raise one more alert, and say whether any was delivered there."""
            events.append(alert_events.event(rule, len(events)))
            alert_events.accept(conn, events[-1])
            with conn.transaction():
                deliveries.create(conn, rule.org_id, rule, [events[-1]])
            return path in {one.path for one in receiver.heard.requests}

        config.save_stack(settings(tmp_path, url, receiver.url("/before")))
        running = alerting.for_stack(lambda: config.load_stack(tmp_path))
        running.start()
        try:
            wait_until(lambda: heard_at("/before"), what="a delivery")
            config.save_stack(settings(tmp_path, url, receiver.url("/after")))
            wait_until(lambda: heard_at("/after"), what="a delivery to the new place")
            wait_until(lambda: len(receiver.heard.requests) == len(events), what="the last delivery")
        finally:
            running.close()
    wanted = {str(delivery_id(one.event_id, "ops", DeliveryKind.ALERT)) for one in events}
    assert set(receiver.heard.keys()) == wanted
