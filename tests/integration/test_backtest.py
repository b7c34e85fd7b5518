"""Rules tried on published blocks, as they are typed: ledger, Parquet files, query processes and sandboxes."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors import backtest
from state import bundles, datasets, evaluations, rules
from state.db import Connection, connect
from tests import pg
from tests.bundles import Packed, key, make
from tests.integration.query.conftest import hash_of
from tests.integration.sandbox import arena
from tests.integration.test_access_commands import Shell
from tests.integration.test_evaluate import BAD, HANDLER
from tests.rule_files import write
from tests.served import publish, settings_for
from trace_ray import rulefile
from trace_ray.bundle.keys import public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.pushed import object_key
from trace_ray.config import Settings
from trace_ray.contracts import DEFAULT_ORG, BlockRange
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.storage import FileStore

RULE = """\
kind: alert_rule
name: {name}
bundle: {bundle}
datasets: [devnet_blocks, devnet_transactions]
channels: [ops]
"""
OTHER = (  # without block 12, with another content of 13 and another key of 14
    HANDLER.replace("for row in rows", "for row in rows if row['block_number'] != 12")
    .replace('event["snapshot"]}', 'event["snapshot"], **({"odd": 1} if row["block_number"] == 13 else {})}')
    .replace("{row['block_hash']}\"", "{row['block_hash']}\" + \"+\" * (row['block_number'] == 14)")
)
LOUD = "def handler(event, context):\n    print('before\\x1b[31m it broke')\n    raise KeyError('here')\n"


@dataclass
class World:
    """Sixty published blocks in six ranges, one applied rule `watch`, and a shell. No stack runs."""

    shell: Shell
    settings: Settings
    objects: FileStore

    def push(self, handler: str, version: str) -> str:
        made = make({"handler.py": Packed(handler.encode(), False)}, version=version)
        path = self.shell.home / "zip"
        path.write_bytes(made.zip)
        self.objects.put(path, object_key(DEFAULT_ORG, made.digest))
        with self.shell.conn.transaction():
            bundles.trust(self.shell.conn, DEFAULT_ORG, public_bytes(key()), list(Language))
            return bundles.push(self.shell.conn, DEFAULT_ORG, made.digest, made.envelope).digest

    def file(self, bundle: str, name: str = "watch") -> str:
        return str(write(self.shell.home, RULE.format(name=name, bundle=bundle)))

    def test(self, *arguments: str) -> dict[str, Any]:
        return self.shell.json("alerts", "backtest", *arguments)


@pytest.fixture(scope="module")
def world(postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Iterator[World]:
    url, home = pg.fresh_database(postgres), tmp_path_factory.mktemp("stack")
    told = {
        "TRACE_SANDBOX_DIR": str(workspace),
        "TRACE_SANDBOX_CGROUPS": "none" if arena.groups() is None else "required",
    }
    settings = settings_for(home, url, **told)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
    environment = {**kept, **told, "TRACE_DATA_DIR": str(home), "TRACE_STATE_DATABASE_URL": url}
    with connect(url, application_name="trace-test") as conn:
        publish(settings, conn)
        made = World(Shell(conn, conn, home, environment), settings, FileStore(home / "objects"))
        made.push(HANDLER, "1.0")
        made.shell.run("alerts", "apply", "-f", made.file("alarm@1.0"))
        made.push(OTHER, "2.0")
        yield made


def everything(conn: Connection) -> dict[str, int]:
    """Return how many rows each ledger has: what a backtest may not change."""
    names = conn.execute(
        b"select format('%I.%I', schemaname, relname) as name from pg_stat_user_tables"
        b" where schemaname in ('state', 'data') order by 1"
    ).fetchall()
    found: dict[str, int] = {}
    for row in names:
        (counted,) = conn.execute(b"select count(*) as rows from " + row["name"].encode())
        found[row["name"]] = counted["rows"]
    return found


def test_a_rule_finds_in_published_blocks_what_it_would_find_live(world: World) -> None:
    before, objects = everything(world.shell.conn), {one.key for one in world.objects.list("")}
    found = world.test("watch", "--from", "15", "--to", "25", "--limit", "1000")
    assert [(one["from_block"], one["to_block"], one["outcome"]) for one in found["evaluations"]] == [
        (10, 20, "ok"),
        (20, 30, "ok"),
    ]
    assert [one["events"] for one in found["evaluations"]] == [10, 10]
    assert [one["dedupe_key"] for one in found["events"]] == [f"watch:0x{hash_of(n).hex()}" for n in range(10, 30)]
    assert {one["payload"]["snapshot"] for one in found["events"]} == {found["snapshot"]}
    assert (found["planned"], found["event_count"], found["compare"]) == (2, 20, None)
    assert len(before) > 10
    assert (everything(world.shell.conn), {one.key for one in world.objects.list("")}) == (before, objects)


def test_its_evaluations_are_those_of_planning(world: World) -> None:
    conn = world.shell.conn
    with conn.transaction(force_rollback=True):
        rule = rules.report(conn, DEFAULT_ORG, "watch").rule
        previewed = evaluations.preview(conn, rule, BlockRange(20, 60))
        assert previewed == evaluations.backfill(conn, rule.rule_id, 20)
        assert [one.blocks.start for one in previewed] == [20, 30, 40, 50]
        assert evaluations.preview(conn, rule, BlockRange(60, 90)) == []


def test_a_file_is_tried_before_it_is_applied(world: World) -> None:
    found = world.test("-f", world.file("alarm@2.0", "fresh"), "--from", "10", "--to", "20")
    assert (found["rule"], found["bundle"]["version"], found["event_count"]) == ("fresh", "2.0", 9)
    with world.shell.conn.transaction():
        assert [one.rule.name for one in rules.listing(world.shell.conn, DEFAULT_ORG)] == ["watch"]


def test_another_version_is_compared_by_key_and_content(world: World) -> None:
    words = ("alerts", "backtest", "watch", "--from", "0", "--to", "60", "--compare", "2.0")
    found = world.shell.json(*words)["compare"]
    assert (found["bundle"]["version"], found["event_count"]) == ("2.0", 59)
    assert found["counts"] == {"only_here": 2, "only_there": 1, "changed": 1}
    assert [one["block_number"] for one in found["only_here"]] == [12, 14]
    assert [one["dedupe_key"][-1] for one in found["only_there"]] == ["+"]
    assert [one["block_number"] for one in found["changed"]] == [13]
    done = world.shell.run(*words, "--workers", "1", "--limit", "3")
    assert "12 of 12 evaluations have ended" in done.stderr.splitlines()
    assert (
        "alarm@1.0 (here) and alarm@2.0 (there): 2 only here, 1 only there, 1 changed, the first 3 are shown"
        in done.stderr
    )
    assert "watch with alarm@1.0: 60 events in blocks [0, 60), snapshot" in done.stderr
    assert done.stdout.count(f"watch:0x{hash_of(2).hex()}") == 1
    assert f"watch:0x{hash_of(3).hex()}" not in done.stdout
    assert (done.stdout.count("only here"), done.stdout.count("only there"), done.stdout.count("changed")) == (2, 1, 0)


def test_failed_evaluation_ends_with_1_its_outcome_and_its_log(world: World) -> None:
    path = world.file(world.push(LOUD, "3.0"))
    done = world.shell.run("alerts", "backtest", "-f", path, "--from", "0", "--to", "10", code=1)
    assert "alarm@3.0 failed on blocks [0, 10): user_error: " in done.stderr
    assert "KeyError" in done.stderr
    assert "  before it broke" in done.stderr.splitlines()


@pytest.mark.parametrize("outcome", ["bad_output", "query_denied"])
def test_what_a_live_rule_would_refuse_is_refused(world: World, outcome: str) -> None:
    path = world.file(world.push(BAD[outcome], f"4.{outcome.replace('_', '.')}"))
    done = world.shell.run("alerts", "backtest", "-f", path, "--from", "0", "--to", "10", "--json", code=1)
    document = json.loads(done.stdout)
    assert [one["outcome"] for one in document["evaluations"]] == [outcome]
    assert (document["event_count"], document["events"]) == (0, [])
    assert document["evaluations"][0]["detail"]


def test_a_bundle_that_keeps_failing_is_not_started_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "MOST_FAILED", 2)
    conn = world.shell.conn
    bad = world.push(BAD["user_error"], "5.0")
    with conn.transaction():
        rule, _ = rules.pinned(conn, rulefile.read(Path(world.file(bad)), DEFAULT_ORG), lambda _conn, _org, name: name)
        planned = evaluations.preview(conn, rule, BlockRange(0, 60))
        grant = datasets.pin(conn, DEFAULT_ORG, rule.datasets, planned[0].as_of)
        bundle = bundles.usable(conn, DEFAULT_ORG, bad)
    told: list[int] = []
    with backtest.opened(world.settings, grant, workers=1, shown=1) as test:
        ended = test.run(rule, bundle, planned, told.append)
    assert 2 <= len(ended) < len(planned)
    assert told == list(range(1, len(ended) + 1))


def test_what_cannot_be_tried_is_refused_with_what_to_do(world: World) -> None:
    def refused(*arguments: str) -> str:
        return world.shell.refused("alerts", "backtest", *arguments)

    span = ("--from", "0", "--to", "10")
    assert refused("none", *span) == "there is no rule none: choose one of watch"
    assert "name a RULE, or a file with -f: one of them" in refused("watch", "-f", world.file("alarm@1.0"), *span)
    assert refused("watch", "--from", "60", "--to", "90").startswith("no block of that range is published of devnet_")
    assert refused("watch", *span, "--compare", "1.0").endswith("name another version after --compare")
    without = {"TRACE_SANDBOX_CGROUPS": "required", "TRACE_SANDBOX_CGROUP_PARENT": str(world.shell.home)}
    done = world.shell.run("alerts", "backtest", "watch", *span, code=1, more=without)
    assert done.stderr.strip().endswith("or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none")
