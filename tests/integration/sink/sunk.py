"""A ledger with running evaluations and a sink, for its tests."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from actors.sink import Sink, Sunk
from state import alerts, buffer
from state.db import Connection, Database
from tests.integration.state import watching
from tests.integration.state.ledger import Ledger, job, publication
from tests.integration.state.watching import watch
from trace_ray.alerts import AlertEvent, EvaluationLease, EventBatch, Rule
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.storage import ObjectStore

OTHER = OrgId(UUID(int=7))


def line(lease: EvaluationLease, key: str = "k", **changes: object) -> bytes:
    """One draft as the bundle of a lease would emit it."""
    fields = {
        "alert_definition_id": str(lease.rule.rule_id),
        "dedupe_key": key,
        "event_time": "2026-01-31T12:00:00Z",
        "chain_id": lease.evaluation.chain_id,
        "block_number": lease.evaluation.blocks.start,
        "block_hash": "0x" + "ab" * 32,
        "tx_hash": None,
        "payload": {"value": 1},
    }
    return json.dumps(fields | changes).encode() + b"\n"


def routed(conn: Connection, org_id: OrgId, one: Rule, events: Sequence[AlertEvent]) -> None:
    """What the deliveries do, as rows that commit or vanish with the events."""
    for event in events:
        row = (org_id, one.name, event.event_id)
        conn.execute(b"INSERT INTO public.routed VALUES (%s::uuid, %s::text, %s::uuid)", row)


@dataclass
class World:
    """A ledger whose rule has running evaluations, an object store, and a sink."""

    ledger: Ledger
    url: str
    store: ObjectStore
    scratch: Path
    opened: list[Database] = field(default_factory=list[Database])

    def database(self) -> Database:
        self.opened.append(Database(self.url, application_name="trace-test"))
        return self.opened[-1]

    def sink(self, **changes: Any) -> Sink:
        parts: dict[str, Any] = {"store": self.store, "scratch": self.scratch, "route": routed}
        return Sink(state=self.database(), data=self.database(), **(parts | changes))

    def run(self, **changes: Any) -> Sunk:
        return self.sink(**changes).run_once()

    def put(self, data: bytes, key: str) -> None:
        path = self.scratch / "made"
        path.write_bytes(data)
        self.store.put(path, key)

    def emit(self, lease: EvaluationLease, data: bytes, **changes: Any) -> EventBatch:
        """End an attempt as its worker would: store the batch, then complete."""
        batch = replace(watching.batch(lease, data), **changes)
        self.put(data, batch.batch_uri)
        assert watching.complete(self.ledger, lease, batch).accepted
        return batch

    def events(self, org_id: OrgId = DEFAULT_ORG) -> list[str]:
        return sorted(one.event.draft.dedupe_key for one in alerts.recent(self.ledger.conn, org_id))

    def routes(self) -> int:
        """How many events were routed; one that is routed twice counts twice."""
        return int(str(self.ledger.one(b"SELECT count(*) FROM public.routed")))

    def letters(self) -> list[str | None]:
        return [one.last_error for one in buffer.dead_letters(self.ledger.conn)]

    def waiting(self) -> int:
        return int(str(self.ledger.one(b"SELECT count(*) FROM state.buffer_queue")))

    def later(self) -> None:
        """Let every delivery that was not acknowledged come again."""
        self.ledger.conn.execute(b"UPDATE state.buffer_queue SET available_at = now()")


def evaluations(world: World, one: Rule) -> list[EvaluationLease]:
    world.ledger.sync(replace(job("blocks", to_block=300), org_id=one.org_id))
    watch(world.ledger, one)
    for group in world.ledger.claim(9):
        world.ledger.complete(*map(publication, group.leases))
    watching.drain(world.ledger)
    return watching.claim(world.ledger, 9)
