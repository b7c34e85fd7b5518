"""Wires the query service: tokens, ledgers, object store and query processes behind its HTTP app. Knows no Ray."""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from fastapi import FastAPI

from query import confine, run
from query.app import Parts, create_app
from query.cancel import Cancel
from query.pool import MAX_AGE_S, Pool
from query.process import Reach
from query.question import Answer, DryRun, Export, Limits, Question
from query.refusals import SnapshotUnknown
from query.service import Held, Service
from state import audit, capabilities, datasets, readers
from state.db import Database
from trace_ray import config, tokens
from trace_ray.access import AuditRow, Caller, Reader, StoredResult, sql_hash
from trace_ray.config import Settings
from trace_ray.contracts import Grant, OrgId
from trace_ray.errors import DatabaseUnavailable, NotFound
from trace_ray.key_files import AUDIT_KEY, Keys, audit_key, open_keys
from trace_ray.reports import Coverage
from trace_ray.storage import ObjectStore, open_store
from trace_ray.token_keys import jwks

FRESH_S: Final = 1.0  # a user's roles and a grant may be so old: what was taken away counts after it
READERS_KEPT: Final = 1024
GRANTS_KEPT: Final = 64
CONNECTIONS: Final = 4  # to each ledger; a question needs one for milliseconds, the others wait
SIGNED_EXTRA_S: Final = 60.0  # clocks differ
SIGNED_AGAIN_S: Final = 240.0  # handed out again so long; 15 min in all, which a role's credentials have left
SIGNED_KEPT: Final = 20_000  # URLs, of half a kilobyte each
RESULT_URL_S: Final = 300.0  # a stored answer's signed URL

Key = TypeVar("Key")
Made = TypeVar("Made")


class Ledgers:
    """Who may read what, what there is, and the audit; the `Ledger` and `Catalogue` of the query service."""

    def __init__(self, state: Database, data: Database, keys: Keys, store: ObjectStore) -> None:
        self._state = state
        self._data = data
        self._keys = keys
        self._store = store
        self._readers = Recent(self._reader, fresh_s=FRESH_S, most=READERS_KEPT)
        self._grants = Recent(self._pin, fresh_s=FRESH_S, most=GRANTS_KEPT)  # the same until somebody publishes

    # --- who asks -------------------------------------------------------------------------------------------------

    def user(self, token: str) -> Held:
        identity = tokens.verify_user(self._keys.users.ring_for(token), token, now=datetime.now(UTC))
        reader = self._readers.get(identity.subject)
        return Held(Caller(reader.org_id, reader.user, reader.roles))

    def _reader(self, subject: str) -> Reader:
        return self._state.find(lambda conn: readers.reader(conn, subject))

    def task(self, token: str) -> Held:
        capability = tokens.verify_capability(self._keys.tasks.ring_for(token), token, now=datetime.now(UTC))
        grant = self._state.read(lambda conn: capabilities.granted(conn, capability))
        caller = Caller(capability.org_id, task_id=capability.task_id, attempt=capability.attempt)
        return Held(caller, grant, capability.read)

    def grant(self, caller: Caller, as_of: int | None) -> Grant:
        return self._grants.get((caller.org_id, caller.roles, as_of))

    def _pin(self, key: tuple[OrgId, frozenset[str], int | None]) -> Grant:
        org_id, roles, as_of = key
        try:
            return self._state.read(lambda conn: datasets.pin(conn, org_id, None, as_of, roles))
        except NotFound as error:
            raise SnapshotUnknown(str(error)) from None

    def record(self, entry: AuditRow) -> None:
        with self._data.statement() as conn:
            audit.record(conn, entry)

    # --- what there is --------------------------------------------------------------------------------------------

    def datasets(self, caller: Caller) -> list[Coverage]:
        return self._state.read(lambda conn: datasets.listing(conn, caller.org_id, caller.roles))

    def dataset(self, caller: Caller, name: str) -> Coverage:
        return self._state.read(lambda conn: datasets.coverage(conn, caller.org_id, name, roles=caller.roles))

    def entry(self, caller: Caller, query_id: UUID) -> tuple[AuditRow, StoredResult | None]:
        row, stored = self._data.read(
            lambda conn: (audit.find(conn, caller.org_id, query_id), audit.result(conn, caller.org_id, query_id))
        )
        if row.user != caller.user:
            raise NotFound(f"there is no query {query_id}: take the id from an answer")
        return row, stored

    def result(self, caller: Caller, query_id: UUID) -> str:
        _, stored = self.entry(caller, query_id)
        if stored is None:
            raise NotFound(f"query {query_id} has no stored answer: it was small, or it has expired")
        return self._store.presign(stored.key, RESULT_URL_S)

    def jwks(self) -> dict[str, Any]:
        return dict(jwks(self._keys.tasks.ring()))

    # --- large answers --------------------------------------------------------------------------------------------

    def keep(self, caller: Caller, query_id: UUID, export: Export) -> str:
        key = f"results/{caller.org_id}/{query_id}/result.{export.sha256[:16]}.parquet"
        kept = StoredResult(query_id, caller.org_id, key, export.rows, export.bytes, export.sha256)
        try:
            shared = self._share(kept)
            if shared is not None:
                return self._store.location(shared.key)
            self._store.put(export.path, key)
        finally:
            export.path.unlink(missing_ok=True)
        with self._data.transaction() as conn:
            audit.save_result(conn, kept, kept_s=config.RESULTS_KEPT_S)
        return self._store.location(key)

    def _share(self, kept: StoredResult) -> StoredResult | None:
        """Keep a result in the object of an equal one of its organisation, when there is one."""
        with self._data.transaction() as conn:
            same = audit.same_content(conn, kept.org_id, kept.digest)
            if same is None:
                return None
            return audit.save_result(conn, replace(kept, key=same.key), kept_s=config.RESULTS_KEPT_S)

    def missing(self) -> dict[str, str]:
        """Return which ledger does not answer, by part."""
        found: dict[str, str] = {}
        for part, database in (("state", self._state), ("data", self._data)):
            try:
                database.read(lambda conn: conn.execute("select 1"))
            except DatabaseUnavailable:
                found[part] = "the database does not answer"
        return found


class Recent(Generic[Key, Made]):
    """What was made within the last seconds, to be handed out again. Safe to share between threads."""

    def __init__(self, make: Callable[[Key], Made], *, fresh_s: float, most: int) -> None:
        """Hold nothing yet; `most` values at the most, each for `fresh_s` after its making began."""
        self._make = make
        self._fresh_s = fresh_s
        self._most = most
        self._lock = Lock()
        self._held: dict[Key, tuple[float, Made]] = {}  # the one made first is first

    def get(self, key: Key) -> Made:
        now = time.monotonic()
        with self._lock:
            held = self._held.get(key)
        if held is not None and now - held[0] < self._fresh_s:
            return held[1]
        made = self._make(key)
        with self._lock:
            self._held.pop(key, None)
            self._held[key] = (now, made)
            while len(self._held) > self._most:
                self._held.pop(next(iter(self._held)))
        return made


class Processes:
    """Runs each question in a query process of a pool."""

    def __init__(self, pool: Pool, store: ObjectStore, *, question_s: float) -> None:
        self._pool = pool
        # a signed URL serves as long as the process that is bound to it, and the last question of it
        signed_s = SIGNED_AGAIN_S + MAX_AGE_S + question_s + SIGNED_EXTRA_S
        sign = functools.partial(store.presign, expires_s=signed_s)
        self._urls = Recent(sign, fresh_s=SIGNED_AGAIN_S, most=SIGNED_KEPT)

    def run(
        self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel, export: bool
    ) -> Answer:
        return run.run(
            question,
            grant,
            pool=self._pool,
            locate=self._urls.get,
            limits=limits,
            cancel=cancel,
            export=export,
            query_id=query_id,
        )

    def plan(self, question: Question, grant: Grant, *, query_id: UUID, limits: Limits, cancel: Cancel) -> DryRun:
        return run.plan(question, grant, pool=self._pool, limits=limits, cancel=cancel)


def open_pool(scratch: Path, store: ObjectStore) -> Pool:
    """Return a pool of query processes, confined as far as this kernel can. Raises WorkerUnavailable."""
    limits = Limits(without_landlock=not confine.is_complete(confine.landlock_abi()))
    return Pool(scratch=scratch, reach=Reach.of([store.presign("any", 1.0)]), limits=limits)


def make_app(
    settings: Settings,
    *,
    build: str,
    stack: str,
    observe: Callable[[AuditRow], None],
    query_s: float = config.QUERY_S,
    task_query_s: float = config.TASK_QUERY_S,
) -> FastAPI:
    """Return the HTTP app of a stack; `observe` hears of every question that ended.

    `query_s` and `task_query_s` are the seconds that a question of a person and of a task may take.
    """
    state = Database(config.state_url(settings), application_name="trace-query", connections=CONNECTIONS)
    data = Database(config.data_url(settings), application_name="trace-audit", connections=CONNECTIONS)
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    keys = open_keys(
        settings.data_dir, pem=settings.token_keys, jwks_url=settings.jwks_url, issuer=settings.token_issuer
    )
    keys.tasks.ring()  # our own are made before the first token is checked; a provider may be down meanwhile
    ledgers = Ledgers(state, data, keys, store)
    secret = audit_key(settings.audit_key or settings.data_dir / AUDIT_KEY)
    pool = open_pool(settings.data_dir / "scratch", store)

    def close() -> None:
        pool.close()
        state.close()
        data.close()
        store.close()

    service = Service(
        ledger=ledgers,
        runner=Processes(pool, store, question_s=max(query_s, task_query_s)),
        results=ledgers,
        fingerprint=functools.partial(sql_hash, secret),
        observe=observe,
        people=replace(pool.limits, timeout_s=query_s),
        tasks=replace(pool.limits, timeout_s=task_query_s),
    )
    return create_app(Parts(service, ledgers, ledgers.missing, close, build, stack))
