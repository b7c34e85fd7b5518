"""An evaluation's whole way on real parts: leased, run in a sandbox that asks the query service, kept, and counted."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from actors.direct import DirectDoor
from actors.door import Door
from actors.orders import EvaluationGroup
from actors.questions import Processes, open_pool
from actors.sandbox.invoker import QueryCall
from state import alerts, bundles, datasets, deliveries
from tests import pg
from tests.bundles import Packed, make
from tests.integration.evaluated import World, opened
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.lite.postgres import LocalPostgres

HANDLER = """
from datetime import datetime, timezone

def handler(event, context):
    span = event["range"]
    rows = context.trace.query(
        f"select block_number, block_hash, timestamp from devnet_blocks"
        f" where block_number >= {span['from_block']} and block_number < {span['to_block']} order by 1"
    )
    context.trace.emit([
        {
            "alert_definition_id": event["alert_definition_id"],
            "dedupe_key": f"{event['rule']}:{row['block_hash']}",
            "event_time": datetime.fromtimestamp(row["timestamp"], timezone.utc).isoformat(),
            "chain_id": event["chain_id"],
            "block_number": row["block_number"],
            "block_hash": row["block_hash"],
            "tx_hash": None,
            "payload": {"parameters": event["parameters"], "snapshot": event["snapshot"]},
        }
        for row in rows
    ])
"""
BAD = {
    "user_error": "def handler(event, context):\n    raise KeyError('here')\n",
    "bad_output": "def handler(event, context):\n    context.trace.emit([{'dedupe_key': 'x', 'more': 1}])\n",
    "query_denied": "def handler(event, context):\n    context.trace.query('from dataset', dataset_id='devnet_logs')\n",
}


@pytest.fixture(scope="module")
def world(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Iterator[World]:
    with opened(pg.fresh_database(postgres), tmp_path_factory.mktemp("stack"), workspace) as one:
        yield one


def test_a_rule_makes_one_event_of_each_block(world: World) -> None:
    rule = world.watch("every_block", world.push(HANDLER))
    while groups := world.lease(4):
        world.settle([one for group in groups for one in world.run(group)])
    while world.sink().messages:
        pass

    with world.service.conn.transaction():
        events = [one.event for one in alerts.recent(world.service.conn, DEFAULT_ORG, limit=1000)]
        sent = deliveries.listing(world.service.conn, DEFAULT_ORG, limit=1000)
    truth = world.service.ask("select block_number, block_hash from devnet_blocks", limit=1000).json()["rows"]
    found = sorted([one.draft.block_number, one.draft.block_hash] for one in events if one.rule_id == rule.rule_id)
    assert found == sorted(truth)
    assert len(found) == 60
    assert {json.dumps(one.draft.payload["parameters"]) for one in events} == {'{"threshold": 5}'}
    assert sorted(one.delivery.channel for one in sent) == ["ops"] * 60
    counts, troubles = world.report("every_block")
    assert (counts["succeeded"], counts["queued"], troubles) == (6, 0, [])


@pytest.mark.parametrize("outcome", list(BAD))
def test_a_bundle_that_fails_publishes_nothing_and_says_why(world: World, outcome: str) -> None:
    world.watch(f"bad_{outcome}", world.push(BAD[outcome], version=f"bad.{outcome.replace('_', '.')}"))
    while groups := world.lease():
        world.settle([one for group in groups for one in world.run(group)])

    counts, troubles = world.report(f"bad_{outcome}")
    assert (counts["dead"], counts["succeeded"]) == (6, 0)
    assert all(one.startswith(f"{outcome}: ") for one in troubles)
    assert world.sink().messages == 0


SILENT = {
    "query_denied": ({"query": False}, HANDLER),
    "bad_output": ({"events": False}, HANDLER),
    "succeeded": ({"query": False, "events": False}, "def handler(event, context):\n    return {'events': []}\n"),
}


@pytest.mark.parametrize("outcome", list(SILENT))
def test_a_bundle_gets_only_what_its_statement_asks_for(world: World, outcome: str) -> None:
    requests, handler = SILENT[outcome]
    name = f"silent_{outcome}"
    world.watch(name, world.push(handler + f"#{name}\n", version=name.replace("_", "."), **requests))
    while groups := world.lease():
        world.settle([one for group in groups for one in world.run(group)])

    counts, troubles = world.report(name)
    assert counts == ({"succeeded": 6} if outcome == "succeeded" else {"dead": 6})
    assert all(one.startswith(f"{outcome}: ") and "requests." in one for one in troubles)
    assert world.sink().messages == 0


def test_a_bundle_whose_key_is_revoked_is_never_leased_again(world: World) -> None:
    made = make({"handler.py": Packed(HANDLER.encode() + b"#2\n", False)}, version="2.0")
    digest = world.push(HANDLER + "#2\n", version="2.0")
    assert digest == made.digest
    world.watch("revoked", digest)
    conn = world.service.conn
    with conn.transaction():
        bundles.revoke(conn, DEFAULT_ORG, digest)

    assert world.lease(4) == []
    counts, _ = world.report("revoked")
    assert counts["queued"] == 6


def door(world: World, group: EvaluationGroup) -> Door:
    http = httpx.Client(base_url=world.service.url, timeout=90)
    return Door(http, world.objects, group.lease, group.token, scratch=world.scratch)


@pytest.fixture(scope="module")
def group(world: World) -> EvaluationGroup:
    world.watch("asks", world.push(HANDLER))
    (leased,) = world.lease()
    return leased


def test_the_door_hands_on_more_rows_than_an_answer_carries(world: World, group: EvaluationGroup) -> None:
    ask = door(world, group)
    sql = "select a.block_number as n, b.block_hash from devnet_blocks a, devnet_blocks b, range(4) order by 1"

    answer = ask(QueryCall(sql, None, 12_000, "json"))
    body: dict[str, Any] = json.loads(answer.body)
    assert (answer.status, len(body["rows"]), body["truncated"]) == (200, 12_000, True)
    assert "location" not in body
    assert [column["name"] for column in body["columns"]] == ["n", "block_hash"]
    assert body["rows"][0][1].startswith("0x")
    whole = json.loads(ask(QueryCall(sql, None, None, "json")).body)
    assert (len(whole["rows"]), whole["truncated"]) == (14_400, False)


def test_the_door_tells_nothing_of_the_service_that_is_away(world: World, group: EvaluationGroup) -> None:
    http = httpx.Client(base_url="http://127.0.0.1:9", timeout=5)
    ask = Door(http, world.objects, group.lease, group.token, scratch=world.scratch)

    answer = ask(QueryCall("select 1", None, None, "json"))

    assert answer.status == 502
    assert group.token.encode() not in answer.body


def test_a_dataset_that_the_rule_does_not_name_is_not_there(world: World, group: EvaluationGroup) -> None:
    answer = door(world, group)(QueryCall("select 1 from devnet_logs", None, None, "json"))

    assert answer.status == 400
    assert json.loads(answer.body)["error"]["detail"]["reason"] == "relation"


QUESTIONS = [
    QueryCall("select block_number, block_hash from devnet_blocks order by 1", None, None, "json"),
    QueryCall("select block_number from devnet_blocks order by 1", None, 7, "json"),
    QueryCall(
        "select a.block_number, b.block_hash from devnet_blocks a, devnet_blocks b, range(4) order by 1, 2",
        None,
        None,
        "json",
    ),
    QueryCall(
        "select a.block_number n from devnet_blocks a, devnet_blocks b, range(4) order by 1", None, 12_000, "json"
    ),
    QueryCall("select repeat('x', 4000) from devnet_blocks a, devnet_blocks b", None, 10_000, "json"),
    QueryCall("select count(*) from dataset", "devnet_blocks", None, "json"),
    QueryCall("select count(*) from dataset", "devnet_logs", None, "json"),
    QueryCall("select 1 from devnet_logs", None, None, "json"),
    QueryCall("select nothing from devnet_blocks", None, None, "json"),
    QueryCall("copy devnet_blocks to '/tmp/x'", None, None, "json"),
]


@pytest.mark.parametrize("call", QUESTIONS, ids=lambda call: call.sql[:40])
def test_a_backtest_is_told_what_a_live_evaluation_is_told(
    world: World, group: EvaluationGroup, direct: DirectDoor, call: QueryCall
) -> None:
    live, tried = door(world, group)(call), direct(call)
    assert (tried.status, tried.content_type) == (live.status, live.content_type)
    expected, found = json.loads(live.body), json.loads(tried.body)
    for document in (expected, found):
        document.pop("query_id", None)
        document.pop("location", None)  # of what was cut: a backtest stores nothing
        document.pop("result", None)
        document.get("error", {}).get("detail", {}).pop("query_id", None)
    assert found == expected


def test_a_backtest_is_told_the_same_in_arrow(world: World, group: EvaluationGroup, direct: DirectDoor) -> None:
    call = replace(QUESTIONS[0], format="arrow")
    live, tried = door(world, group)(call), direct(call)
    assert tried.content_type == live.content_type
    assert pa.ipc.open_stream(tried.body).read_all() == pa.ipc.open_stream(live.body).read_all()


@pytest.fixture(scope="module")
def direct(world: World, group: EvaluationGroup) -> Iterator[DirectDoor]:
    rule, evaluation = group.lease.rule, group.lease.evaluation
    with world.service.conn.transaction():
        grant = datasets.pin(world.service.conn, DEFAULT_ORG, rule.datasets, evaluation.as_of)
    with open_pool(world.scratch / "direct", world.objects) as pool:
        limits = replace(pool.limits, timeout_s=60.0)
        yield DirectDoor(Processes(pool, world.objects, question_s=60.0), grant, limits)
