"""What a run does to the ledger from outside: it ends connections, and sends the completions of ghosts.

A ghost presents the key of an attempt that is over, with the epoch that leads now, as a worker does that was paused and
whose Dispatcher has not noticed. None may be accepted; what the ledger answers is counted.
"""

import hashlib
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg

from state import tasks
from state.db import Connection, Database, Row
from tests.chaos.stack_world import World
from trace_ray import config
from trace_ray.contracts import (
    AttemptKey,
    BlockRange,
    Certificate,
    DataFile,
    DatasetUuid,
    Epoch,
    Failure,
    LeaseToken,
    Level,
    Publication,
    Receipts,
    TaskId,
    dataset_version_id,
)
from trace_ray.errors import DatabaseUnavailable, FencedError

BACKENDS = b"""
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
GHOSTS = b"""
SELECT a.task_id, a.attempt, a.lease_token, a.outcome, t.attempt AS newest, t.state, t.dataset_uuid, t.generation,
       t.range_start, t.range_end, t.payload, v.digest, v.row_count, v.parent_hash, v.end_hash, v.attempt AS published,
       (SELECT jsonb_agg(to_jsonb(f) ORDER BY f.position) FROM state.dataset_files f
        WHERE f.dataset_version = v.dataset_version) AS files
FROM state.attempts a JOIN state.tasks t USING (task_id)
LEFT JOIN state.dataset_versions v ON v.task_id = a.task_id AND v.replaced_snapshot IS NULL
WHERE (a.attempt < t.attempt OR t.state = 'succeeded') AND (a.outcome <> 'succeeded' OR random() < 0.2)
ORDER BY md5(a.task_id::text || a.attempt || %s::text) LIMIT 6
"""
EPOCH = b"SELECT epoch FROM state.dispatcher"
PAUSE_S = 0.4


def end_backends(world: World) -> int:
    """End every other connection to the ledger; 0 when the server is away."""
    try:
        with psycopg.connect(world.state_url, autocommit=True, connect_timeout=5) as conn:
            row = conn.execute(BACKENDS).fetchone()
    except psycopg.Error:
        return 0
    return int(row[0]) if row else 0


@dataclass
class Ghosts:
    """What ghosts sent, and what became of it. `accepted` must stay empty."""

    refused: Counter[str] = field(default_factory=Counter[str])
    accepted: list[str] = field(default_factory=list[str])

    def haunt(self, world: World, rng: random.Random, over: threading.Event) -> None:
        """Send completions until the run is over."""
        database = world.database("ghost")
        while not over.wait(PAUSE_S):
            try:
                self._round(database, rng)
            except DatabaseUnavailable:
                continue
        database.close()

    def _round(self, database: Database, rng: random.Random) -> None:
        with database.transaction() as conn:
            ghosts = conn.execute(GHOSTS, (str(rng.random()),)).fetchall()
            leader = conn.execute(EPOCH).fetchone()
        assert leader is not None
        for ghost in ghosts:
            self._send(database, ghost, Epoch(leader["epoch"]), rng)

    def _send(self, database: Database, ghost: Row, epoch: Epoch, rng: random.Random) -> None:
        way = rng.choice(("same", "other content", "other token", "failure", "old epoch"))
        try:
            with database.transaction() as conn:
                settlement = _present(conn, ghost, epoch, way)
        except FencedError:
            self.refused[f"{way}: fenced"] += 1
            return
        if settlement.accepted:
            self.accepted.append(f"{way} of attempt {ghost['attempt']} of task {ghost['task_id']} ({ghost['outcome']})")
        else:
            self.refused[f"{way}: {settlement.reason}"] += 1


def _present(conn: Connection, ghost: Row, epoch: Epoch, way: str) -> tasks.Settlement:
    token = uuid4() if way == "other token" else ghost["lease_token"]
    key = AttemptKey(TaskId(ghost["task_id"]), ghost["attempt"], LeaseToken(token))
    if way == "failure":
        late = Failure(key, "SourceLied", "a ghost", retryable=False)
        return tasks.fail(conn, epoch, [late], policy=config.LOCAL_RETRIES)[0]
    term = Epoch(epoch - 1) if way == "old epoch" else epoch
    offer = _publication(ghost, key, same=way == "same")
    return tasks.complete(conn, term, [offer], policy=config.LOCAL_RETRIES)[0]


def _publication(ghost: Row, key: AttemptKey, *, same: bool) -> Publication:
    """Return an offer that fits its task: what was published, or other content under the same name."""
    blocks = BlockRange(ghost["range_start"], ghost["range_end"])
    payload = ghost["payload"]
    uuid = DatasetUuid(ghost["dataset_uuid"])
    files = _files(ghost) if same and ghost["files"] else (_forged(ghost, blocks),)
    digest = ghost["digest"] if same and ghost["digest"] else hashlib.sha256(b"ghost").hexdigest()
    return Publication(
        attempt=key,
        dataset_version=dataset_version_id(uuid, payload["config_hash"], blocks, ghost["generation"]),
        dataset_uuid=uuid,
        chain_id=payload["chain_id"],
        dataset_key=payload["dataset_key"],
        config_hash=payload["config_hash"],
        blocks=blocks,
        generation=ghost["generation"],
        rows=sum(file.rows for file in files),
        digest=digest,
        files=files,
        certificate=Certificate(
            level=Level.RECEIPTS_ROOT,
            checks=("header_chain",),
            parent_hash=ghost["parent_hash"] or bytes(32),
            end_hash=ghost["end_hash"] or bytes(32),
            receipts=Receipts.ETHEREUM,
            engine="ghost",
            engine_version="0",
            engine_digest="00",
            provider="ghost#0",
        ),
    )


def _files(ghost: Row) -> tuple[DataFile, ...]:
    return tuple(
        DataFile(file["key"], file["bytes"], file["row_count"], file["digest"], file["min_block"], file["max_block"])
        for file in ghost["files"]
    )


def _forged(ghost: Row, blocks: BlockRange) -> DataFile:
    digest = hashlib.sha256(str(ghost["task_id"]).encode()).hexdigest()
    return DataFile(f"ghost/{digest}.parquet", 1, 1, digest, blocks.start, blocks.end - 1)
