"""Brings a database to the schema of this code: numbered SQL files, forward only, each applied once.

Head lines of a file: `-- trace:database state` names the ledger that it belongs to. A file is one transaction. Several
processes may migrate at once: an advisory lock lets one work and the others find nothing left to do.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

from state.db import PATIENT, Connection, connect
from trace_ray.errors import LedgerConflict, RefusedInput, SchemaAhead

Ledger = Literal["state", "data"]

LOCK: Final = 0x7472_6163  # "trac": any constant will do, as long as it is ours

HISTORY: Final = b"""
CREATE TABLE IF NOT EXISTS public.trace_migrations (
  ledger text NOT NULL, version int NOT NULL, name text NOT NULL, sha256 text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (ledger, version))
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name and text."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(ledger: Ledger) -> list[Migration]:
    """Return the files of one ledger in order."""
    found: list[Migration] = []
    for file in files("state").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        text = file.read_text() if match else ""
        if match and f"-- trace:database {ledger}\n" in text:
            found.append(Migration(int(match[1]), match[2], text))
    return sorted(found, key=lambda migration: migration.version)


def migrate(url: str, ledger: Ledger = "state", *, files_: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing and return the names.

    Raises:
        SchemaAhead: the database was migrated by a newer trace_ray.
        LedgerConflict: an applied file was edited afterwards.
        DatabaseUnavailable
    """
    wanted = migrations(ledger) if files_ is None else files_
    applied: list[str] = []
    with connect(url, application_name="trace-migrate", settings=PATIENT) as conn:
        for migration in wanted:
            with conn.transaction():
                conn.execute(b"SELECT pg_advisory_xact_lock(%(lock)s::bigint)", {"lock": LOCK})
                conn.execute(HISTORY)
                if _is_applied(conn, ledger, migration, newest=wanted[-1].version):
                    continue
                conn.execute(migration.text.encode(), prepare=False)  # a prepared statement holds one command only
                conn.execute(
                    b"INSERT INTO public.trace_migrations (ledger, version, name, sha256)"
                    b" VALUES (%s::text, %s::int, %s::text, %s::text)",
                    (ledger, migration.version, migration.name, migration.sha256),
                )
                applied.append(migration.name)
    return applied


def pending(url: str, ledger: Ledger = "state") -> list[str]:
    """Return the names of the files that `migrate` would apply.

    Raises:
        SchemaAhead, LedgerConflict, DatabaseUnavailable
    """
    wanted = migrations(ledger)
    with connect(url, application_name="trace-migrate", settings=PATIENT) as conn:
        if not _exists(conn, "public.trace_migrations"):
            return [one.name for one in wanted]
        return [one.name for one in wanted if not _is_applied(conn, ledger, one, newest=wanted[-1].version)]


def foreign_leader(url: str, build: str) -> str | None:
    """Return who leads with the code of another build, as people know it; None when nobody does.

    Works on every schema that was ever released: it is asked before a migration.
    """
    with connect(url, application_name="trace-migrate", settings=PATIENT) as conn:
        if not _exists(conn, "state.dispatcher"):
            return None
        row = conn.execute(
            b"SELECT holder FROM state.dispatcher d WHERE expires_at > clock_timestamp()"
            b" AND to_jsonb(d) ->> 'build' IS DISTINCT FROM %(build)s::text",
            {"build": build},
        ).fetchone()
    return None if row is None else str(row["holder"])


def _exists(conn: Connection, table: str) -> bool:
    row = conn.execute(b"SELECT to_regclass(%s::text) IS NOT NULL AS yes", (table,)).fetchone()
    return row is not None and bool(row["yes"])


def check(url: str, ledger: Ledger = "state") -> None:
    """Refuse to work on a database that is not exactly at the schema of this code.

    Raises:
        SchemaAhead, LedgerConflict, RefusedInput, DatabaseUnavailable
    """
    if pending(url, ledger):
        raise RefusedInput("the database has no trace_ray schema of this version yet: run `trace-ray up`")


def _is_applied(conn: Connection, ledger: Ledger, migration: Migration, *, newest: int) -> bool:
    rows = conn.execute(
        b"SELECT version, sha256 FROM public.trace_migrations WHERE ledger = %s::text", (ledger,)
    ).fetchall()
    known = {int(row["version"]): str(row["sha256"]) for row in rows}
    if known and max(known) > newest:
        raise SchemaAhead("the database belongs to a newer trace_ray: install that version")
    if migration.version in known and known[migration.version] != migration.sha256:
        raise LedgerConflict(f"migration {migration.version:04} was edited after it was applied: restore the file")
    return migration.version in known
