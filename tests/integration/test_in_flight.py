"""How many requests Cryo has under way follows the provider's distance."""

from tests.conftest import Replay
from trace_ray.extract.cryo import IN_FLIGHT, CryoEngine
from trace_ray.extract.engine import Provider


def test_a_far_provider_is_asked_for_more_at_once(replay: Replay) -> None:
    near = CryoEngine()._requests_in_flight(Provider("pool", 0, replay.url))
    replay.faults(latency_ms=200)
    far = CryoEngine()._requests_in_flight(Provider("pool", 0, replay.url))
    assert (near, far) == IN_FLIGHT
