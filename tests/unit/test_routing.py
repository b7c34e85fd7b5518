"""What becomes of a delivery, from values alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.alert_events import T0, rule
from trace_ray import routing
from trace_ray.alerts import DeliveryKind, Mode, Throttle
from trace_ray.routing import Due, Suppression

DUE = Due(DeliveryKind.ALERT, 0, T0, max_age_s=60.0, throttle=Throttle(2, 10.0), recent=1, retracted=False)


def test_each_channel_of_a_rule_is_used_once_and_none_in_shadow_mode() -> None:
    assert routing.channels(rule("b", "a", "b")) == ("b", "a")
    assert routing.channels(rule("b", mode=Mode.SHADOW)) == ()


@pytest.mark.parametrize(
    ("changes", "age_s", "expected"),
    [
        ({}, 60, None),
        ({}, 60.1, Suppression.STALE),
        ({"max_age_s": None}, 1e9, None),
        ({"recent": 2}, 0, Suppression.THROTTLED),
        ({"recent": 2, "attempt": 1}, 0, None),
        ({"recent": 2, "throttle": None}, 0, None),
        ({"retracted": True}, 0, Suppression.RETRACTED),
        ({"retracted": True, "recent": 9}, 99, Suppression.RETRACTED),
        ({"kind": DeliveryKind.RETRACTION, "recent": 9, "retracted": True}, 1e9, None),
    ],
)
def test_a_due_delivery_is_sent_unless_something_speaks_against_it(
    changes: dict[str, object], age_s: float, expected: Suppression | None
) -> None:
    assert routing.suppression(replace(DUE, **changes), T0 + timedelta(seconds=age_s)) is expected


def test_answers_that_a_receiver_gives_while_it_is_mended_are_not_final() -> None:
    assert [status for status in (401, 403, 404, 408, 409, 425, 429, 500, 503) if routing.is_permanent(status)] == []
    assert all(routing.is_permanent(status) for status in (400, 410, 413, 422, 501))
