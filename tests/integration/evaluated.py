"""A stack without Ray for the tests of evaluations: ledgers, published blocks, the query service, real sandboxes."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from actors.evaluate import Evaluator
from actors.evaluations import Evaluations
from actors.orders import Evaluated, EvaluationGroup
from actors.sandbox.store import BundleStore
from actors.sink import Sink, Sunk
from state import bundles, deliveries, rules
from state.db import Database, connect
from tests.bundles import Packed, key, make
from tests.integration.sandbox import arena
from tests.integration.state import watching
from tests.integration.state.ledger import POLICY
from tests.served import Served, publish, served, settings_for
from trace_ray.alerts import Rule
from trace_ray.bundle.keys import public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.pushed import object_key
from trace_ray.contracts import DEFAULT_ORG, WorkerId
from trace_ray.key_files import FileKeys
from trace_ray.storage import FileStore


@dataclass
class World:
    """A stack without Ray: one rule over `devnet_blocks`, whose bundle is pushed when it is wanted."""

    service: Served
    objects: FileStore
    evaluator: Evaluator
    evaluations: Evaluations
    url: str
    scratch: Path

    def push(self, handler: str, version: str = "1.0", **said: bool) -> str:
        made = make({"handler.py": Packed(handler.encode(), False)}, None, version=version, **said)
        path = self.scratch / "zip"
        path.write_bytes(made.zip)
        self.objects.put(path, object_key(DEFAULT_ORG, made.digest))
        conn = self.service.conn
        with conn.transaction():
            bundles.trust(conn, DEFAULT_ORG, public_bytes(key()), list(Language))
            return bundles.push(conn, DEFAULT_ORG, made.digest, made.envelope).digest

    def watch(self, name: str, digest: str) -> Rule:
        """Apply a rule and queue its evaluations over what is published."""
        one = replace(watching.rule(name=name), bundle=digest)
        conn = self.service.conn
        with conn.transaction():
            applied = rules.apply(conn, one, lambda _conn, _org, reference: reference)
        watching.backfill(self.service.ledger, one)
        return applied.rule

    def lease(self, slots: int = 1) -> list[EvaluationGroup]:
        conn, ledger = self.service.conn, self.service.ledger
        with conn.transaction():
            return self.evaluations.lease(conn, ledger.epoch, [WorkerId("evaluator/0.0")] * slots)

    def run(self, group: EvaluationGroup) -> list[Evaluated]:
        return self.evaluator.run(group, lambda: False)

    def settle(self, ended: list[Evaluated]) -> None:
        conn, ledger = self.service.conn, self.service.ledger
        with conn.transaction():
            assert all(one.accepted for one in self.evaluations.settle(conn, ledger.epoch, ended))

    def sink(self) -> Sunk:
        database = Database(self.url, application_name="trace-test")
        one = Sink(state=database, data=database, store=self.objects, scratch=self.scratch, route=deliveries.create)
        try:
            return one.run_once()
        finally:
            database.close()

    def report(self, name: str) -> tuple[Counter[str], list[str]]:
        with self.service.conn.transaction():
            found = rules.report(self.service.conn, DEFAULT_ORG, name)
        return Counter(found.evaluations), [one.message or "" for one in found.troubles]


@contextmanager
def opened(url: str, stack: Path, workspace: Path) -> Generator[World]:
    """Publish blocks into the ledgers of `url`, and serve them."""
    settings = settings_for(stack, url)
    with connect(url, application_name="trace-test") as conn, served(settings, publish(settings, conn)) as service:
        yield around(service, url, workspace)


@contextmanager
def unserved(url: str, stack: Path, workspace: Path) -> Generator[World]:
    """The same without a query service, for handlers that ask nothing."""
    settings = settings_for(stack, url)
    with connect(url, application_name="trace-test") as conn:
        yield around(Served("http://127.0.0.1:9", settings, conn, publish(settings, conn), []), url, workspace)


def around(service: Served, url: str, workspace: Path) -> World:
    data_dir = service.settings.data_dir
    scratch = data_dir / "scratch-of-tests"
    scratch.mkdir()
    objects = FileStore(data_dir / "objects")
    http = httpx.Client(base_url=service.url, timeout=90)
    store = BundleStore(workspace / "evaluated", objects)
    evaluator = Evaluator(arena.supervisor(), store, objects, http, scratch=scratch)
    evaluations = Evaluations(FileKeys(data_dir).ring, lease_s=60.0, policy=POLICY)
    return World(service, objects, evaluator, evaluations, url, scratch)
