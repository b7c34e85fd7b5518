"""Retractions: an event whose block was replaced is taken back once, and no other one, whoever dies in between."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors import blockhashes
from actors.alerting import for_stack
from actors.dispatcher import HANDLERS
from actors.retract import Retracted, Retractor
from actors.sink import Sink, Sunk
from state import alerts, buffer, datasets, deliveries, outbox, repair, retractions
from state.db import Connection, Database, connect
from tests import alert_events, pg
from tests.conftest import wait_until
from tests.integration.query.conftest import block, hash_of, log
from tests.integration.sink.sunk import line
from tests.integration.state import watching
from tests.integration.state.ledger import POLICY, Ledger
from tests.served import offer, publish, settings_for
from trace_ray.alerts import AlertEvent, DeliveryId, DeliveryKind, DeliveryState, EvaluationLease, Rule, event_id
from trace_ray.channels import Sent
from trace_ray.config import DELIVERY_RETRIES, Settings
from trace_ray.contracts import DEFAULT_ORG, GrantedFile, OrgId
from trace_ray.errors import DatabaseUnavailable, StoreUnavailable
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.notices import DeliveryView
from trace_ray.storage import FileStore

OTHER = OrgId(UUID(int=7))
Rows = Callable[[int], list[dict[str, object]]]


def forked(*numbers: int, row: Callable[[int], dict[str, object]] = block) -> Rows:
    """Rows of a chain on which these blocks are others."""
    return lambda number: [row(number) | ({"block_hash": b"\1" * 32} if number in numbers else {})]


@dataclass
class World:
    """Three published datasets of 20 blocks, a rule that watches one, and two databases."""

    settings: Settings
    ledger: Ledger
    data: Connection
    urls: tuple[str, str]
    rule: Rule
    opened: list[Database] = field(default_factory=list[Database])

    @property
    def store(self) -> FileStore:
        return FileStore(self.settings.data_dir / "objects")

    def databases(self) -> dict[str, Database]:
        made = {
            name: Database(url, application_name="trace-test")
            for name, url in zip(("state", "data"), self.urls, strict=True)
        }
        self.opened += made.values()
        return made

    def retractor(self) -> Retractor:
        return Retractor(store=self.store, scratch=self.settings.data_dir / "scratch", **self.databases())

    def run(self) -> Retracted:
        return self.retractor().run_once()

    def event(self, number: int, *, key: int | None = None, of: Rule | None = None) -> AlertEvent:
        """Keep an event about a block as it was first published, with its deliveries."""
        rule = of or self.rule
        made = alert_events.event(rule, number if key is None else key)
        draft = replace(made.draft, block_number=number, block_hash=f"0x{hash_of(number).hex()}")
        made = replace(made, draft=draft)
        with self.data.transaction():
            alert_events.accept(self.data, made)
            deliveries.create(self.data, rule.org_id, rule, [made])
        return made

    def send(self) -> list[DeliveryId]:
        """Deliver what is due."""
        with self.data.transaction():
            leased = deliveries.lease(self.data, {}, other=100, lease_s=60)
            for one in leased:
                deliveries.record(self.data, one.delivery, Sent(), policy=DELIVERY_RETRIES)
        return [one.delivery.delivery_id for one in leased]

    def replace(self, dataset: str, rows: Rows, start: int = 0, *, handled: bool = True) -> None:
        """Replace a range of a dataset, and let a tick hand its event over."""
        self.withdraw(dataset, start)
        conn = self.ledger.conn
        with conn.transaction():
            repair.repair(conn, DEFAULT_ORG, "devnet")
        offers = [offer(self.settings, one, made=rows) for group in self.ledger.claim(9) for one in group.leases]
        assert [settled.accepted for settled in self.ledger.complete(*offers)] == [True]
        if handled:
            watching.drain(self.ledger)

    def withdraw(self, dataset: str, start: int = 0) -> None:
        conn = self.ledger.conn
        (version,) = (
            one.dataset_version
            for one in datasets.coverage(conn, DEFAULT_ORG, dataset).versions
            if one.blocks.start == start
        )
        repair.withdraw(conn, [version], reason="the chain replaced its blocks")

    def evaluate(self, lease: EvaluationLease, *numbers: int) -> Sunk:
        """End an attempt that emits an event about each of these blocks, and sink them."""
        hashes = {number: f"0x{hash_of(number).hex()}" for number in numbers}
        lines = b"".join(line(lease, f"k{n}", block_number=n, block_hash=hashes[n]) for n in numbers)
        batch = watching.batch(lease, lines)
        made = self.settings.data_dir / "batch"
        made.write_bytes(lines)
        self.store.put(made, batch.batch_uri)
        assert watching.complete(self.ledger, lease, batch).accepted
        scratch = self.settings.data_dir / "sink"
        return Sink(store=self.store, scratch=scratch, route=deliveries.create, **self.databases()).run_once()

    def retracted(self, org_id: OrgId = DEFAULT_ORG) -> list[int]:
        found = [one.event for one in alerts.recent(self.data, org_id) if one.event.retracted_at is not None]
        return sorted(one.draft.block_number for one in found)

    def views(self, event: AlertEvent) -> list[DeliveryView]:
        return [one for one in deliveries.listing(self.data, event.org_id) if one.delivery.event_id == event.event_id]

    def waiting(self) -> int:
        return sum(one.ready for one in buffer.depths(self.ledger.conn) if one.queue == retractions.QUEUE)

    def later(self) -> None:
        self.ledger.conn.execute(b"UPDATE state.buffer_queue SET available_at = now()")


@pytest.fixture
def world(postgres: LocalPostgres, tmp_path: Path) -> Iterator[World]:
    with replaceable(postgres, tmp_path) as made:
        yield made


@contextmanager
def replaceable(postgres: LocalPostgres, tmp_path: Path) -> Generator[World]:
    """A world whose ranges may be replaced; its connections end with it."""
    urls = (pg.fresh_database(postgres), pg.fresh_database(postgres))
    settings = settings_for(tmp_path, urls[0], TRACE_DATA_DATABASE_URL=urls[1])
    with connect(urls[0], application_name="test") as conn, connect(urls[1], application_name="test") as data:
        ledger = publish(settings, conn, blocks=20)
        rule = watching.rule()
        watching.watch(ledger, rule)
        watching.drain(ledger)
        made = World(settings, ledger, data, urls, rule)
        yield made
        for database in made.opened:
            database.close()


# --- what is taken back -------------------------------------------------------------------------------------------


def test_an_event_whose_block_changed_is_taken_back_and_no_other_one(world: World) -> None:
    for number in (3, 4, 13):
        world.event(number)
    world.replace("devnet_blocks", forked(3, 13))
    assert world.run() == Retracted(handled=1, events=1)
    assert (world.retracted(), world.waiting()) == ([3], 0)
    assert world.run() == Retracted()


def test_a_delivered_alert_is_followed_by_a_retraction_that_names_it_and_a_queued_one_is_suppressed(
    world: World,
) -> None:
    sent = world.event(3)
    (delivered,) = world.send()
    queued = world.event(3, key=99)
    world.replace("devnet_blocks", forked(3))
    assert world.run() == Retracted(handled=1, events=2, retractions=1)
    views = {view.delivery.kind: view for view in world.views(sent)}
    assert views[DeliveryKind.ALERT].state is DeliveryState.DELIVERED
    assert views[DeliveryKind.RETRACTION].state is DeliveryState.QUEUED
    assert views[DeliveryKind.RETRACTION].delivery.retracts == delivered
    (other,) = world.views(queued)
    assert (other.state, other.reason) == (DeliveryState.SUPPRESSED, "retracted")
    assert world.send() == [views[DeliveryKind.RETRACTION].delivery.delivery_id]


def test_a_block_without_rows_in_the_new_version_decides_nothing(world: World) -> None:
    for number in (3, 4):
        world.event(number)
    fork = forked(4, row=lambda number: log(number, 0))
    world.replace("devnet_logs", lambda number: [] if number == 3 else fork(number))
    assert world.run() == Retracted(handled=1, events=1)
    assert world.retracted() == [4]


def test_a_version_that_is_out_of_sight_again_decides_nothing(world: World) -> None:
    world.event(3)
    world.replace("devnet_blocks", forked(3))
    world.withdraw("devnet_blocks")
    assert world.run() == Retracted(handled=1)
    assert world.retracted() == []


def test_what_was_taken_back_stays_so_when_the_same_block_comes_back(world: World) -> None:
    sent = world.event(3)
    world.send()
    world.replace("devnet_blocks", forked(3))
    assert world.run() == Retracted(handled=1, events=1, retractions=1)
    world.replace("devnet_blocks", forked())
    assert world.run() == Retracted(handled=1)
    assert world.retracted() == [3]
    assert len(world.views(sent)) == 2


def test_events_of_many_blocks_and_keys_are_taken_back_in_parts(world: World) -> None:
    for key in range(7):
        world.event(key % 3, key=key)
    with patch("actors.retract.PART", 2):
        world.replace("devnet_blocks", forked(0, 2))
        assert world.run() == Retracted(handled=1, events=5)
    assert world.retracted() == [0, 0, 0, 2, 2]


def test_the_events_of_another_organisation_and_of_another_chain_stay(world: World) -> None:
    world.event(3)
    world.data.execute(b"UPDATE data.alert_events SET chain_id = 1")
    world.event(3, key=99)
    foreign = world.event(3, of=replace(world.rule, org_id=OTHER))
    world.replace("devnet_blocks", forked(3))
    assert world.run() == Retracted(handled=1, events=1)
    assert (world.retracted(), world.retracted(OTHER)) == ([3], [])
    assert [view.state for view in world.views(foreign)] == [DeliveryState.QUEUED]
    assert retractions.showing(world.ledger.conn, OTHER, 31337, 3) == []


def test_objects_without_block_hashes_decide_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"block_number": [3], "gas": [1]}), tmp_path / "a.parquet")
    file = GrantedFile("a.parquet", 0, 9, 1, 1)
    assert blockhashes.read(FileStore(tmp_path), [file], [3], scratch=tmp_path) == {}


# --- what is announced --------------------------------------------------------------------------------------------


def test_first_generations_and_stacks_without_rules_announce_nothing(world: World) -> None:
    assert world.waiting() == 0  # six ranges were published
    world.ledger.conn.execute(b"DELETE FROM state.rule_datasets")
    world.ledger.conn.execute(b"DELETE FROM state.rules")
    world.replace("devnet_blocks", forked(3))
    assert world.waiting() == 0


def test_a_paused_rule_has_its_events_taken_back(world: World) -> None:
    world.event(3)
    world.ledger.conn.execute(b"UPDATE state.rules SET enabled = false")
    world.replace("devnet_blocks", forked(3))
    assert world.run() == Retracted(handled=1, events=1)


def test_an_event_that_is_kept_after_its_block_was_replaced_is_taken_back_too(world: World) -> None:
    """The evaluation read the old version, and ends when the replacement was compared already."""
    watching.backfill(world.ledger, world.rule)
    old = next(one for one in watching.claim(world.ledger, 9) if 3 in one.evaluation.blocks)
    world.replace("devnet_blocks", forked(3))
    assert world.run() == Retracted(handled=1)
    assert world.evaluate(old, 3, 4) == Sunk(kept=1, new=2)
    assert world.send() != []
    assert world.run() == Retracted(handled=1, events=1, retractions=1)
    assert world.retracted() == [3]
    assert alerts.find(world.data, OTHER, event_id(DEFAULT_ORG, "k3")) is None


def test_a_tick_that_fails_announces_nothing(world: World) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("away")

    with patch("state.retractions.announce", broken), pytest.raises(DatabaseUnavailable):
        world.replace("devnet_blocks", forked(3))
    assert world.waiting() == 0
    watching.drain(world.ledger)  # its event was not lost
    assert world.waiting() == 1


def test_a_statement_that_fails_postpones_its_event_and_not_the_tick(world: World) -> None:
    with patch.dict(retractions.SQL, announce=b"SELECT %(versions)b::uuid[], %(max_deliveries)s::int / 0, %(queue)s"):
        world.replace("devnet_blocks", forked(3), handled=False)
        conn = world.ledger.conn
        with conn.transaction():
            drained = outbox.drain(conn, world.ledger.epoch, HANDLERS, limit=9, policy=POLICY)
            assert [one.error for one in drained.unhandled] == ["unexpected DivisionByZero: see the Dispatcher's log"]
    assert (world.waiting(), len(outbox.listing(conn))) == (0, 1)


def test_the_alerts_of_a_stack_take_events_back_by_themselves(world: World) -> None:
    sent = world.event(3)
    world.send()
    alerting = for_stack(lambda: world.settings)
    alerting.start()
    try:
        world.replace("devnet_blocks", forked(3))
        wait_until(lambda: len(world.views(sent)) == 2, what="the retraction")
    finally:
        alerting.close()
    assert world.retracted() == [3]


# --- what fails in between ----------------------------------------------------------------------------------------


def test_killed_between_commit_and_acknowledgement_it_finds_nothing_left_to_do(world: World) -> None:
    sent = world.event(3)
    world.send()
    world.replace("devnet_blocks", forked(3))
    with patch("state.buffer.ack", side_effect=DatabaseUnavailable("away")), pytest.raises(DatabaseUnavailable):
        world.run()
    assert (world.retracted(), len(world.views(sent))) == ([3], 2)
    world.later()
    assert world.run() == Retracted(handled=1)
    assert (len(world.views(sent)), world.waiting()) == (2, 0)


def test_event_and_deliveries_are_taken_back_together_or_not_at_all(world: World) -> None:
    world.event(3)
    world.send()
    world.replace("devnet_blocks", forked(3))
    with patch("state.deliveries.retract", side_effect=ZeroDivisionError):
        assert world.run() == Retracted(postponed=1)
    assert world.retracted() == []
    world.later()
    assert world.run() == Retracted(handled=1, events=1, retractions=1)


def test_an_object_store_that_is_away_postpones(world: World) -> None:
    world.event(3)
    world.replace("devnet_blocks", forked(3))
    with patch("trace_ray.storage.FileStore.get", side_effect=StoreUnavailable("away")):
        assert world.run() == Retracted(postponed=1)
    world.later()
    assert world.run() == Retracted(handled=1, events=1)


def test_replacements_of_two_datasets_take_an_event_back_once(world: World) -> None:
    world.event(3)
    world.send()
    world.replace("devnet_blocks", forked(3))
    world.replace("devnet_logs", forked(3, row=lambda number: log(number, 0)))
    assert world.run() == Retracted(handled=2, events=1, retractions=1)
