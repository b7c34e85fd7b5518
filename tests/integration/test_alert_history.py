"""`alerts explain`: from a delivery or an event back to the objects that its bundle read, and to the chain as it is."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from state import bundles, datasets, rules, tasks
from tests.bundles import FILES, key, make
from tests.integration.query.conftest import hash_of
from tests.integration.state import watching
from tests.integration.state.ledger import NO_WAIT
from tests.integration.test_access_commands import Shell
from tests.integration.test_retract import World, forked, replaceable
from trace_ray.alerts import DeliveryId, DeliveryKind, Severity, delivery_id, event_id
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import keyid_of, public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.contracts import DEFAULT_ORG, WorkerId
from trace_ray.lite.postgres import LocalPostgres

EVENT = event_id(DEFAULT_ORG, "k3")


@dataclass
class Explained:
    """One event that was kept and delivered, and a shell that can be asked about it."""

    world: World
    shell: Shell
    digest: str
    delivery: DeliveryId

    def ask(self, asked: object) -> dict[str, Any]:
        return self.shell.json("alerts", "explain", str(asked))


@pytest.fixture
def explained(postgres: LocalPostgres, tmp_path: Path) -> Iterator[Explained]:
    with replaceable(postgres, tmp_path) as world:
        conn, made = world.ledger.conn, make()
        with conn.transaction():
            bundles.trust(conn, DEFAULT_ORG, public_bytes(key()), list(Language))
            bundles.push(conn, DEFAULT_ORG, made.digest, made.envelope)
            rules.apply(conn, replace(world.rule, bundle=made.digest), lambda _conn, _org, digest: digest)
        watching.backfill(world.ledger, world.rule)
        lease = next(one for one in watching.claim(world.ledger, 9) if 3 in one.evaluation.blocks)
        world.evaluate(lease, 3)
        (delivery,) = world.send()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
        environment |= {
            "TRACE_STATE_DATABASE_URL": world.urls[0],
            "TRACE_DATA_DATABASE_URL": world.urls[1],
            "TRACE_DATA_DIR": str(tmp_path),
        }
        yield Explained(world, Shell(conn, world.data, tmp_path, environment), made.digest, delivery)


def test_an_alert_is_explained_from_its_delivery_to_the_objects_that_were_read(explained: Explained) -> None:
    found = explained.ask(explained.delivery)
    assert (found["delivery_id"], found["event"]["event_id"]) == (str(explained.delivery), str(EVENT))
    (sent,) = found["deliveries"]
    assert (sent["delivery_id"], sent["state"], sent["attempts"]) == (str(explained.delivery), "delivered", 1)
    assert (found["rule"]["rule"], found["rule"]["mode"], found["rule"]["severity"]) == ("watch", "live", "warning")
    assert (found["rule"]["parameters"], found["rule"]["changed_since"]) == ({"threshold": 5}, False)
    assert (found["rule"]["revision"], found["rule"]["recorded"], found["rule"]["bundle"]) == (
        2,
        True,
        explained.digest,
    )
    assert (found["bundle"]["name"], found["bundle"]["version"]) == ("alarm", "1.0")
    assert found["bundle"]["sha256"] == explained.digest
    assert found["bundle"]["signers"] == [{"keyid": keyid_of(public_bytes(key())), "standing": "trusted"}]
    evaluation = found["evaluation"]
    assert (evaluation["range_start"], evaluation["range_end"]) == (0, 10)
    assert (evaluation["task"]["task_id"], evaluation["task"]["state"]) == (found["event"]["task_id"], "succeeded")
    assert [(one["attempt"], one["outcome"]) for one in evaluation["attempts"]] == [(1, "succeeded")]
    (version,) = found["versions"]
    assert (version["dataset"], version["ranges"][0]["standing"]) == ("devnet_blocks", "published")
    published = version["ranges"][0]["published"]
    assert published["published_snapshot"] <= evaluation["snapshot"]
    assert published["certificate"]["engine"] == "native"
    assert published["certificate"]["provider"] == "standard#0"
    assert (explained.world.settings.data_dir / "objects" / published["objects"][0]["key"]).is_file()
    assert found["exact"] is True
    block = found["block"]
    assert (block["number"], block["hash"], block["standing"]) == (3, f"0x{hash_of(3).hex()}", "published")

    assert explained.ask(EVENT) == found | {"delivery_id": None}
    told = explained.shell.run("alerts", "explain", "k3").stdout
    for words in (
        "Event", "block      published: devnet_blocks has it", "delivered", "Rule watch: warning, live",
        f"Bundle alarm@1.0, sha256 {explained.digest}", "trusted", "pinned to snapshot", "succeeded",
        "engine     native 1", "receipts_root", "blocks_0_9.",
    ):  # fmt: skip
        assert words in told, (words, told)


def test_an_event_that_went_to_no_channel_is_explained_all_the_same(explained: Explained) -> None:
    explained.world.data.execute(b"DELETE FROM data.alert_deliveries")
    told = explained.shell.run("alerts", "explain", "k3")
    assert "  delivered  to no channel\n" in told.stdout
    assert "No such delivery" not in told.stderr


def test_a_block_that_was_replaced_is_told_with_what_stands_there_now(explained: Explained) -> None:
    """The versions stay those that the evaluation read, and the retraction is one of the deliveries."""
    before = datasets.coverage(explained.world.ledger.conn, DEFAULT_ORG, "devnet_blocks").versions[0].dataset_version
    explained.world.replace("devnet_blocks", forked(3))
    assert explained.world.run().retractions == 1
    retraction = delivery_id(EVENT, "ops", DeliveryKind.RETRACTION)
    found = explained.ask(retraction)
    assert found["delivery_id"] == str(retraction)
    assert found["block"]["standing"] == "replaced"
    assert f"devnet_blocks has 0x{'01' * 32} instead" in found["block"]["reason"]
    assert found["event"]["retracted_at"] is not None
    assert {one["kind"]: one["retracts"] for one in found["deliveries"]} == {
        "alert": None,
        "retraction": str(explained.delivery),
    }
    (read,) = found["versions"][0]["ranges"]
    assert (read["published"]["dataset_version"], read["standing"], read["generation"]) == (str(before), "withdrawn", 0)
    assert found["exact"] is True


def test_another_dataset_answers_when_that_of_blocks_is_out_of_sight_or_lost(explained: Explained) -> None:
    explained.world.withdraw("devnet_blocks")
    block = explained.ask("k3")["block"]
    assert block["standing"] == "published"
    assert not block["reason"].startswith("devnet_blocks")
    for dataset in ("devnet_logs", "devnet_transactions"):
        explained.world.withdraw(dataset)
    assert explained.ask("k3")["block"] == {
        "number": 3,
        "hash": f"0x{hash_of(3).hex()}",
        "standing": "unknown",
        "reason": "no dataset that is published has rows of block 3",
    }


def change(explained: Explained, **changes: Any) -> None:
    conn = explained.world.ledger.conn
    with conn.transaction():
        changed = replace(explained.world.rule, **{"bundle": explained.digest, **changes})
        rules.apply(conn, changed, lambda _conn, _org, digest: digest)


def test_an_event_is_explained_by_what_its_attempt_ran_with_whatever_the_rule_says_since(explained: Explained) -> None:
    conn = explained.world.ledger.conn
    before = explained.ask("k3")
    other = make({**FILES, "more.py": Packed(b"", executable=False)}, version="2.0")
    with conn.transaction():
        bundles.push(conn, DEFAULT_ORG, other.digest, other.envelope)
    change(explained, bundle=other.digest, datasets=("devnet_logs",), parameters={}, severity=Severity.CRITICAL)
    found = explained.ask("k3")
    assert found["rule"].pop("changed_since") is True
    assert before["rule"].pop("changed_since") is False
    assert found == before
    assert (found["rule"]["parameters"], found["rule"]["datasets"]) == ({"threshold": 5}, ["devnet_blocks"])
    with conn.transaction():
        bundles.revoke(conn, DEFAULT_ORG, keyid_of(public_bytes(key())))
    done = explained.shell.run("alerts", "explain", "k3")
    assert "`trace-ray alerts show watch` shows revision 3" in done.stderr
    assert "revision   2, applied" in done.stdout
    assert f"{keyid_of(public_bytes(key()))}, revoked" in done.stdout
    conn.execute(b"UPDATE state.attempts SET rule_revision = NULL")  # as of an attempt that is older than the record
    rule = explained.ask("k3")["rule"]
    assert (rule["revision"], rule["recorded"], rule["changed_since"]) == (3, False, None)


def test_an_attempt_that_ran_with_other_datasets_than_its_evaluation_was_planned_for_is_told(
    explained: Explained,
) -> None:
    world = explained.world
    change(explained, datasets=("devnet_logs",))
    tasks.free(world.ledger.conn, world.ledger.epoch, [WorkerId("e/0.0")], policy=NO_WAIT)
    lease = next(one for one in watching.claim(world.ledger, 9) if 13 in one.evaluation.blocks)
    world.evaluate(lease, 13)
    found = explained.ask("k13")
    assert (found["rule"]["revision"], [one["dataset"] for one in found["versions"]]) == (3, ["devnet_logs"])
    assert found["exact"] is False
    said = explained.shell.run("alerts", "explain", "k13").stderr
    assert "The evaluation was planned for other versions" in said


def test_what_is_unknown_or_of_another_organisation_is_not_found(explained: Explained) -> None:
    explained.world.data.execute(b"UPDATE data.alert_events SET org_id = %s", (UUID(int=7),))
    explained.world.data.execute(b"UPDATE data.alert_deliveries SET org_id = %s", (UUID(int=7),))
    for asked in (str(explained.delivery), "k3"):
        said = explained.shell.refused("alerts", "explain", asked)
        assert said == f"there is no event, delivery or dedupe key {asked}: `trace-ray alerts events` lists events"


def test_an_event_whose_evaluation_is_unknown_is_explained_as_far_as_it_goes(explained: Explained) -> None:
    explained.world.data.execute(b"UPDATE data.alert_events SET task_id = %s", (uuid4(),))
    found = explained.ask("k3")
    assert (found["rule"], found["bundle"], found["evaluation"], found["versions"]) == (None, None, None, [])
    assert found["block"]["standing"] == "published"
