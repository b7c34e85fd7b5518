"""The audit of the query service and its stored results, in database `data`.

Rows are written once, never changed, and forgotten when they are old. They hold hashes and numbers: no SQL text, no
token, no URL, no value of a row.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from psycopg.types.json import Jsonb

from state.db import Connection, Row, statements
from trace_ray.access import AuditedDataset, AuditRow, StoredResult
from trace_ray.contracts import OrgId, TaskId
from trace_ray.errors import LedgerConflict, NotFound

SQL: Final = statements("audit")


def record(conn: Connection, row: AuditRow) -> None:
    """Write one row; commit it before the first byte of the answer."""
    values = {
        "query": row.query_id,
        "org": row.org_id,
        "user": row.user,
        "task": row.task_id,
        "attempt": row.attempt,
        "datasets": Jsonb([{"name": one.name, "snapshot": one.snapshot} for one in row.datasets]),
        "outcome": row.outcome,
        "reason": row.reason,
        "rows": row.rows,
        "bytes": row.bytes,
        "bytes_read": row.bytes_read,
        "seconds": row.seconds,
        "sql_hash": row.sql_hash,
        "hostile": row.hostile,
        "killed": row.killed,
    }
    conn.execute(SQL["record"], values)


def recent(
    conn: Connection,
    org_id: OrgId,
    *,
    user: str | None = None,
    outcome: str | None = None,
    strangers: bool = False,
    limit: int = 100,
) -> list[AuditRow]:
    """Return the newest rows of an organisation; with `strangers` also those whose token was refused."""
    values = {"org": org_id, "user": user, "outcome": outcome, "strangers": strangers, "limit": limit}
    return [_row(row) for row in conn.execute(SQL["recent"], values)]


def find(conn: Connection, org_id: OrgId, query_id: UUID) -> AuditRow:
    """Return the row of one query of an organisation.

    Raises:
        NotFound: there is none, or it is another organisation's.
    """
    row = conn.execute(SQL["find"], {"org": org_id, "query": query_id}).fetchone()
    if row is None:
        raise NotFound(f"there is no query {query_id}: take the id from an answer")
    return _row(row)


def forget_old(conn: Connection, *, kept_s: float, limit: int) -> int:
    """Remove up to `limit` of the oldest rows that are older than `kept_s`; return how many that were."""
    return conn.execute(SQL["forget_old"], {"kept_s": kept_s, "limit": limit}).rowcount


def old_count(conn: Connection, *, kept_s: float) -> int:
    """Return how many rows are older than `kept_s`."""
    (row,) = conn.execute(SQL["old_count"], {"kept_s": kept_s})
    return int(row["count"])


# --- stored results -----------------------------------------------------------------------------------------------


def save_result(conn: Connection, result: StoredResult, *, kept_s: float) -> StoredResult:
    """Keep a result; the same one again changes nothing, not even when it expires.

    Raises:
        LedgerConflict: the query has another result already.
    """
    values = {
        "query": result.query_id,
        "org": result.org_id,
        "key": result.key,
        "rows": result.rows,
        "bytes": result.bytes,
        "digest": result.digest,
        "kept_s": kept_s,
    }
    conn.execute(SQL["save_result"], values)
    found = conn.execute(SQL["result"], {"query": result.query_id, "org": result.org_id}).fetchone()
    kept = None if found is None else _result(found)
    if kept is None or replace(kept, expires_at=None) != replace(result, expires_at=None):
        raise LedgerConflict(f"query {result.query_id} has another result already: ask again")
    return kept


def result(conn: Connection, org_id: OrgId, query_id: UUID) -> StoredResult | None:
    """Return the stored result of a query; None when it has none or it has expired."""
    row = conn.execute(SQL["result"], {"org": org_id, "query": query_id}).fetchone()
    return None if row is None else _result(row)


def same_content(conn: Connection, org_id: OrgId, digest: str) -> StoredResult | None:
    """Return a stored result of the organisation with the same content, whose object another query may share.

    Its object stays until this transaction ends: save the result that shares it in the same one.
    """
    row = conn.execute(SQL["same_content"], {"org": org_id, "digest": digest}).fetchone()
    return None if row is None else _result(row)


@dataclass(frozen=True, slots=True)
class Expired:
    """A result to be forgotten. `shared`: its object must stay, since another result lies in it."""

    result: StoredResult
    shared: bool


def expired_results(conn: Connection, *, limit: int) -> list[Expired]:
    """Return results to be removed, locked for this transaction: delete their objects, then `forget_results`."""
    return [Expired(_result(row), row["shared"]) for row in conn.execute(SQL["expired_results"], {"limit": limit})]


def expired_count(conn: Connection) -> int:
    """Return how many results are to be removed."""
    (row,) = conn.execute(SQL["expired_count"])
    return int(row["count"])


def known_keys(conn: Connection, keys: Sequence[str]) -> set[str]:
    """Return which of the objects belong to a stored result."""
    return {row["key"] for row in conn.execute(SQL["known_keys"], {"keys": list(keys)})}


def forget_results(conn: Connection, query_ids: Collection[UUID]) -> None:
    """Remove the rows of results whose objects are gone."""
    conn.execute(SQL["forget"], {"queries": list(query_ids)})


def _row(row: Row) -> AuditRow:
    return AuditRow(
        query_id=row["query_id"],
        outcome=row["outcome"],
        reason=row["reason"],
        org_id=None if row["org_id"] is None else OrgId(row["org_id"]),
        user=row["user_name"],
        task_id=None if row["task_id"] is None else TaskId(row["task_id"]),
        attempt=row["attempt"],
        datasets=tuple(AuditedDataset(one["name"], one["snapshot"]) for one in row["datasets"]),
        rows=row["rows"],
        bytes=row["bytes"],
        bytes_read=row["bytes_read"],
        seconds=row["seconds"],
        sql_hash=row["sql_hash"],
        hostile=row["hostile"],
        killed=row["killed"],
        at=row["at"],
    )


def _result(row: Row) -> StoredResult:
    return StoredResult(
        query_id=row["query_id"],
        org_id=OrgId(row["org_id"]),
        key=row["key"],
        rows=row["rows"],
        bytes=row["bytes"],
        digest=row["digest"],
        expires_at=row["expires_at"],
    )
