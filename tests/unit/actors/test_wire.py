"""The message between the Dispatcher and a worker: what goes in comes out, whatever it holds."""

import pickle
from dataclasses import replace
from uuid import UUID

from actors import wire
from tests.integration.state.ledger import failure, publication
from tests.unit.actors.leases import group
from trace_ray.contracts import LeaseGroup, WorkerId

GROUP = group(WorkerId("cryo/0.0"))
(LEASE,) = GROUP.leases


def test_leases_arrive_as_they_were_sent() -> None:
    demanding = replace(LEASE, attempt=3, generation=1, parent_hash=b"\0" * 32, child_parent_hash=b"\xff" * 32)
    sent = (GROUP, LeaseGroup(WorkerId("cryo/0.0"), (demanding, LEASE), 0.5))
    assert wire.groups(wire.pack(sent), LeaseGroup) == sent
    assert wire.groups(wire.pack(()), LeaseGroup) == ()


def test_outcomes_arrive_as_they_were_sent() -> None:
    offer = replace(publication(LEASE), seconds={"extract": 1.5})
    refusal = replace(failure(LEASE, message="sp\u00e4t \0"), unreachable=True, infra=True)
    arrived = wire.outcomes(wire.pack([offer, refusal]))
    assert arrived == (offer, refusal)
    assert type(arrived[0].attempt.lease_token) is type(offer.attempt.lease_token)


def test_a_key_that_arrived_is_the_key_that_was_sent() -> None:
    (arrived,) = wire.groups(wire.pack([GROUP]), LeaseGroup)
    assert {LEASE.key: "held"}[arrived.leases[0].key] == "held"


def test_acknowledgements_arrive_packed_and_as_another_build_sends_them() -> None:
    sent = (LEASE.key, replace(LEASE.key, attempt=2))
    assert wire.keys(wire.pack(sent)) == sent
    assert wire.keys(sent) == sent
    assert pickle.loads(pickle.dumps(sent)) == sent


def test_an_id_that_arrived_is_like_any_other() -> None:
    (arrived,) = wire.keys(wire.pack([LEASE.key]))
    token = LEASE.key.lease_token
    assert vars_of(arrived.lease_token) == vars_of(UUID(bytes=token.bytes))
    assert str(arrived.lease_token) == str(token)


def vars_of(one: UUID) -> list[object]:
    return [getattr(one, name) for name in UUID.__slots__ if name != "__weakref__"]
