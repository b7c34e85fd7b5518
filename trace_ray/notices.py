"""Frozen values of deliveries on their way: what a receiver is told, and how people see a delivery."""

from dataclasses import dataclass, field
from datetime import datetime

from trace_ray.alerts import Delivery, DeliveryId, DeliveryKind, DeliveryState, EventId, RuleId, Severity


@dataclass(frozen=True, slots=True)
class Notice:
    """What a receiver is told of one delivery; equal in all its attempts, so that its body is too.

    `payload` is JSON text, as the ledger keeps it. Hashes are lower case hex with `0x`. `created_at` is when the
    delivery was made, not when it is sent. `retracts`: the delivery that a retraction takes back. `test`: a person
    tries the channel, and nothing happened on a chain.
    """

    delivery_id: DeliveryId
    event_id: EventId
    kind: DeliveryKind
    rule_id: RuleId
    rule: str
    severity: Severity
    dedupe_key: str
    event_time: datetime
    chain_id: int
    block_number: int
    block_hash: str
    tx_hash: str | None
    payload: str = field(repr=False)
    created_at: datetime
    retracts: DeliveryId | None = None
    test: bool = False


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that may be sent now, once, by whoever leased it."""

    delivery: Delivery
    notice: Notice


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as people see it. `reason`: why it is suppressed; `due_at`: when it is tried next."""

    delivery: Delivery
    rule: str
    reason: str | None
    failures: int
    replays: int
    created_at: datetime
    due_at: datetime | None
    settled_at: datetime | None

    @property
    def state(self) -> DeliveryState:
        return self.delivery.state


@dataclass(frozen=True, slots=True)
class ChannelDepth:
    """How much of a channel is not settled, or dead. `oldest`: since when the oldest that is not settled exists."""

    channel: str
    queued: int
    sending: int
    dead: int
    oldest: datetime | None
