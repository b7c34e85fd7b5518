"""What stands in the queue of a pool, and what a pool tells about itself."""

import threading
from dataclasses import dataclass, field

from query.process import Child
from query.shares import Asker
from trace_ray.contracts import OrgId


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool holds, and what has happened since it began."""

    busy: int
    idle: int
    fresh: int
    waiting: int
    started: int
    recycled: int
    killed: int
    refused: int
    displaced: int


@dataclass(eq=False, slots=True)
class Ticket:
    """One question that waits. Without `key` any worker will do that has seen no other organisation.

    `long`: it gave way before and waits among the long ones.
    """

    asker: Asker
    key: bytes | None
    long: bool = False
    granted: threading.Event = field(default_factory=threading.Event)
    child: Child | None = None
    failed: bool = False

    @property
    def org_id(self) -> OrgId:
        return self.asker[0]
