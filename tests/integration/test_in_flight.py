"""How many requests Cryo has under way follows the provider's distance."""

import time

from tests.conftest import Replay
from trace_ray.extract.cryo import IN_FLIGHT, CryoEngine
from trace_ray.extract.engine import Provider


def test_a_far_provider_is_asked_for_more_at_once(replay: Replay) -> None:
    near = CryoEngine()._requests_in_flight(Provider("pool", 0, replay.url), deadline=time.monotonic() + 10)
    replay.faults(latency_ms=200)
    far = CryoEngine()._requests_in_flight(Provider("pool", 0, replay.url), deadline=time.monotonic() + 10)
    assert (near, far) == IN_FLIGHT


def test_a_slow_rate_is_no_distance(replay: Replay) -> None:
    provider = Provider("pool", 0, replay.url, requests_per_s=10.0)
    assert CryoEngine()._requests_in_flight(provider, deadline=time.monotonic() + 10) == IN_FLIGHT[0]
