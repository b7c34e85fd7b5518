"""The handlers that `bundle init` writes, over real rows: their SQL passes the gate, and their events are right."""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from actors.sandbox.invoker import QueryAnswer, QueryCall
from actors.sandbox.store import BundleStore
from query.results import to_json
from tests.bundles import NOW, make, ring
from tests.integration.query.asking import Asker, asking
from tests.integration.query.conftest import TXS, Store, hash_of
from tests.integration.sandbox import arena
from trace_ray.alerts import Invocation, OutcomeKind
from trace_ray.bundle import project
from trace_ray.bundle.pushed import PushedBundle, object_key
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.storage import FileStore

TEMPLATES = Path(str(files("trace_ray").joinpath("bundle/templates")))
RULE = "6f1c1d1e-0000-5000-8000-000000000001"
EVENT: dict[str, Any] = {
    "alert_definition_id": RULE, "rule": "large", "severity": "info", "parameters": {"min_ether": 1}, "chain_id": 31337,
    "range": {"from_block": 5, "to_block": 8}, "snapshot": 1,
    "datasets": {
        name: {"snapshot": 1, "from_block": 0, "to_block": 60} for name in ("devnet_blocks", "devnet_transactions")
    },
}  # fmt: skip

DRIVER = """
const handler = require(process.argv[1]).handler;
const lines = require("node:readline").createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (kind, value) => console.log(JSON.stringify({ kind, value }));
const query = async (sql, options) => {
  say("query", { sql, ...options });
  const answer = JSON.parse((await lines.next()).value);
  const names = answer.columns.map((column) => column.name);
  const rows = answer.rows.map((row) => Object.fromEntries(names.map((name, place) => [name, row[place]])));
  return Object.assign(rows, { truncated: answer.truncated });
};
const emit = async (events) => say("emit", events);
handler(JSON.parse(process.argv[2]), { trace: { query, emit } }).then(
  (value) => { say("return", value); process.exit(0); },
  (error) => { say("error", error.message); process.exit(0); },
);
"""

Answerer = Callable[[str, int], dict[str, Any]]


class Rows(list[dict[str, Any]]):
    truncated = False


class Trace:
    """What a sandbox gives a handler, without the sandbox: real questions, and a list of events."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.events: list[dict[str, Any]] = []
        self.trace = self

    def query(self, sql: str, limit: int = 1000) -> Rows:
        found = self.answer(sql, limit)
        names = [column["name"] for column in found["columns"]]
        rows = Rows(dict(zip(names, row, strict=True)) for row in found["rows"])
        rows.truncated = found["truncated"]
        return rows

    def emit(self, events: list[dict[str, Any]]) -> None:
        self.events += events


def by_python(event: dict[str, Any], answer: Answerer) -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("handler", TEMPLATES / "python/handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = Trace(answer)
    assert module.handler(event, context) == {"alerts": len(context.events)}
    return context.events


def by_node(event: dict[str, Any], answer: Answerer) -> list[dict[str, Any]]:
    command = ["node", "-e", DRIVER, str(TEMPLATES / "node/index.js"), json.dumps(event)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        events: list[dict[str, Any]] = []
        for line in process.stdout:
            said = json.loads(line)
            if said["kind"] == "query":
                process.stdin.write(json.dumps(answer(said["value"]["sql"], said["value"]["limit"])) + "\n")
                process.stdin.flush()
            elif said["kind"] == "emit":
                events += said["value"]
            elif said["kind"] == "error":
                raise RuntimeError(said["value"])
    return events


@pytest.fixture
def asker(store: Store) -> Iterator[Asker]:
    with asking(store) as one:
        yield one


@pytest.fixture
def answer(asker: Asker) -> Answerer:
    return lambda sql, limit: json.loads(to_json(asker.ask(sql, limit=limit)))


@pytest.mark.parametrize("handle", [by_python, by_node])
def test_a_template_raises_an_alert_for_each_large_transfer(
    handle: Callable[[dict[str, Any], Answerer], list[dict[str, Any]]], answer: Answerer
) -> None:
    events = handle(EVENT, answer)
    assert [one["block_number"] for one in events] == [5, 5, 6, 6, 7, 7]  # the third of each block has failed
    first = events[0]
    hashes = "0x" + hash_of(5).hex(), "0x" + hash_of(5 * 100).hex()
    assert (first["block_hash"], first["tx_hash"]) == hashes
    assert first["dedupe_key"] == ":".join((RULE, *hashes))
    assert (first["alert_definition_id"], first["chain_id"]) == (RULE, 31337)
    assert datetime.fromisoformat(first["event_time"]) == datetime.fromtimestamp(1_700_000_000 + 12 * 5, UTC)
    assert (first["payload"]["wei"], first["payload"]["to"]) == (str(10**18), None)
    assert set(first) == {
        "alert_definition_id", "dedupe_key", "event_time", "chain_id", "block_number", "block_hash", "tx_hash",
        "payload",
    }  # fmt: skip
    assert handle(EVENT, answer) == events
    above = {**EVENT, "parameters": {"min_ether": "1.000001"}}
    assert handle(above, answer) == []
    assert handle({**EVENT, "parameters": {}}, answer) == []


@pytest.mark.parametrize("handle", [by_python, by_node])
def test_a_template_fails_rather_than_miss_a_transfer(
    handle: Callable[[dict[str, Any], Answerer], list[dict[str, Any]]], answer: Answerer
) -> None:
    with pytest.raises(RuntimeError, match="raise min_ether"):
        handle(EVENT, lambda sql, limit: answer(sql, TXS))


# --- the whole way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "entrypoint"), [("python", "handler.handler"), ("node", "index.handler")])
def test_a_template_that_was_built_signed_and_stored_does_the_same_in_a_sandbox(
    template: str, entrypoint: str, answer: Answerer, workspace: Path, tmp_path: Path
) -> None:
    settings = project.read(TEMPLATES / template)
    packed = project.collect(TEMPLATES / template, settings)
    made = make(packed, language=settings.language, entrypoint=settings.entrypoint)
    (tmp_path / "upload").write_bytes(made.zip)
    objects = FileStore(tmp_path / "objects")
    objects.put(tmp_path / "upload", object_key(DEFAULT_ORG, made.digest))
    bundle = PushedBundle(
        DEFAULT_ORG, made.digest, "alarm", "1.0", settings.language, entrypoint, len(made.zip), made.envelope,
        object_key(DEFAULT_ORG, made.digest), NOW,
    )  # fmt: skip

    def ask(call: QueryCall) -> QueryAnswer:
        body = json.dumps(answer(call.sql, call.limit or 1000)).encode()
        return QueryAnswer(200, "application/json", body)

    store = BundleStore(workspace / f"store-{template}", objects)
    with store.use(bundle, ring()) as stored:
        invocation = Invocation(
            UUID(int=7), str(stored.directory), stored.manifest.language, stored.manifest.entrypoint, "f", "1",
            json.dumps(EVENT).encode(), settings.query, settings.events,
        )  # fmt: skip
        done = arena.supervisor().invoke(invocation, ask, lambda: False)
    assert done.outcome is OutcomeKind.OK, done.detail + done.log
    events = [json.loads(line) for line in done.events]
    same = by_python(EVENT, answer)
    assert len(same) == 6
    assert [{**one, "event_time": datetime.fromisoformat(one["event_time"])} for one in events] == [
        {**one, "event_time": datetime.fromisoformat(one["event_time"])} for one in same
    ]
