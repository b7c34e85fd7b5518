"""The query service on real parts: a ledger in Postgres, published Parquet files, query processes, uvicorn, tokens."""

import hashlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn

from actors.questions import make_app
from state import audit, capabilities, readers
from state.db import Connection
from tests.conftest import free_port, wait_until
from tests.integration.query.conftest import ROWS
from tests.integration.state.ledger import Ledger, certificate, job, stream
from trace_ray import config, manifest, tokens
from trace_ray.access import AuditRow
from trace_ray.config import Settings
from trace_ray.contracts import DEFAULT_ORG, DataFile, Lease, OrgId, Publication
from trace_ray.extract.schema import SCHEMAS
from trace_ray.key_files import FileKeys

BLOCKS, CHUNK = 60, 10


def settings_for(directory: Path, database: str, **more: str) -> Settings:
    environ = {"TRACE_DATA_DIR": str(directory), "TRACE_STATE_DATABASE_URL": database, **more}
    return config.read_settings(environ)


def offer(
    settings: Settings,
    lease: Lease,
    *,
    blocks_of: str | None = None,
    made: Callable[[int], list[dict[str, object]]] | None = None,
) -> Publication:
    """Write a range's real rows into the file store and return the publication that offers them.

    `made` gives the rows of a block; without it they are those of its dataset, or of another one (`blocks_of`).
    """
    task = lease.task
    made = made or ROWS[blocks_of or task.cryo_dataset_name]
    rows = [row for number in range(task.blocks.start, task.blocks.end) for row in made(number)]
    table = pa.Table.from_pylist(rows, SCHEMAS[task.cryo_dataset_name].columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(content).hexdigest()
    key = manifest.object_key(lease, digest=digest[:16])
    path = settings.data_dir / "objects" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    file = DataFile(key, len(content), len(rows), digest, task.blocks.start, task.blocks.end - 1)
    return manifest.publication(lease, files=[file], certificate=certificate(task.blocks), seconds={})


def publish(settings: Settings, conn: Connection, *, blocks: int = BLOCKS) -> Ledger:
    """Sync `blocks` blocks of three datasets through the ledger, and leave one attempt running."""
    ledger = Ledger.lead(conn)
    streams = [stream(key, chunk_size=CHUNK, max_inflight=blocks // CHUNK) for key in ROWS]
    ledger.sync(job(*streams, to_block=blocks))
    while groups := ledger.claim(slots=16):
        ledger.complete(*(offer(settings, lease) for group in groups for lease in group.leases))
    return ledger


@dataclass
class Served:
    """A running service. `ask` is for people, `ask_task` for tasks."""

    url: str
    settings: Settings
    conn: Connection
    ledger: Ledger
    observed: list[AuditRow]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=90))

    def token(self, name: str = "ann", *roles: str, org_id: OrgId = DEFAULT_ORG, lifetime_s: float = 3600) -> str:
        with self.conn.transaction():
            user = readers.add_user(self.conn, org_id, name, list(roles))
        ring = FileKeys(self.settings.data_dir).ring()
        return tokens.sign_user(ring, subject=user.subject, now=datetime.now(UTC), lifetime_s=lifetime_s)

    def running(self, dataset_key: str = "errand", *, ttl_s: float = 60.0) -> Lease:
        """Return the lease of an attempt that runs."""
        self.ledger.sync(job(stream(dataset_key), name=dataset_key, to_block=100))
        return self.ledger.lease(ttl_s=ttl_s)

    def capability(self, lease: Lease, *names: str, as_of: int | None = None) -> str:
        with self.conn.transaction():
            grant = capabilities.grant_for_task(self.conn, lease.task.task_id, lease.attempt, names, as_of)
        ring = FileKeys(self.settings.data_dir).ring()
        return tokens.sign_capability(
            ring,
            grant=grant,
            task_id=lease.task.task_id,
            attempt=lease.attempt,
            now=datetime.now(UTC),
            lifetime_s=600,
        )

    def ask(self, sql: str, token: str | None = None, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token() if token is None else token}"}
        return self.client.post(f"{self.url}/v1/query", json={"sql": sql, **body}, headers=headers)

    def ask_task(self, sql: str, token: str, lease: Lease, **body: Any) -> httpx.Response:
        content = {"sql": sql, "task_id": str(lease.task.task_id), "attempt": lease.attempt, **body}
        return self.client.post(f"{self.url}/v1/task/query", json=content, headers={"X-Trace-Task-Capability": token})

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token() if token is None else token}"}
        return self.client.get(f"{self.url}{path}", headers=headers)

    def audited(self, query_id: str, org_id: OrgId = DEFAULT_ORG) -> AuditRow:
        with self.conn.transaction():
            return audit.find(self.conn, org_id, UUID(query_id))

    def audited_stranger(self, query_id: str) -> AuditRow:
        """Return the audit row of a question whose token did not hold."""
        with self.conn.transaction():
            rows = audit.recent(self.conn, DEFAULT_ORG, strangers=True, limit=1000)
        return next(row for row in rows if str(row.query_id) == query_id)


@contextmanager
def served(
    settings: Settings,
    ledger: Ledger,
    *,
    query_s: float = config.QUERY_S,
    task_query_s: float = config.TASK_QUERY_S,
) -> Generator[Served]:
    """Run the app of a stack under uvicorn until the block ends."""
    observed: list[AuditRow] = []
    port = free_port()
    app = make_app(
        settings,
        build="test",
        stack="here",
        observe=observed.append,
        query_s=query_s,
        task_query_s=task_query_s,
    )
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    found = Served(f"http://127.0.0.1:{port}", settings, ledger.conn, ledger, observed)
    try:
        wait_until(lambda: server.started, what="the query service")
        yield found
    finally:
        server.should_exit = True
        thread.join(30)
        found.client.close()
