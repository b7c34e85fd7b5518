"""One real Postgres per run, and a fresh migrated database per test, copied from a template."""

import os
import secrets
import signal
import time
from pathlib import Path

from state import db, migrate
from trace_ray.lite.postgres import LocalPostgres

TEMPLATE = "trace_template"


def server(directory: Path, *, durable: bool = True) -> LocalPostgres:
    """Start a server in a directory of its own, with the schema in a template database.

    As root the server runs as a user of its own, so every parent of `directory` must let all pass (not `tmp_path`).

    Args:
        durable: Whether it waits for the disk. What it was told survives any death of its processes either way; that
            of the machine would end the tests too.
    """
    postgres = LocalPostgres(directory)
    postgres.start()
    if not durable:
        with db.connect(postgres.url("postgres"), application_name="trace-setup") as conn:
            conn.execute(b"ALTER SYSTEM SET fsync = off")
            conn.execute(b"SELECT pg_reload_conf()")
    postgres.ensure_database(TEMPLATE)
    migrate.migrate(postgres.url(TEMPLATE), "state")
    migrate.migrate(postgres.url(TEMPLATE), "data")
    return postgres


def end(postgres: LocalPostgres, directory: Path) -> None:
    """End the server of `directory`, whose files nobody needs any more, without its last checkpoint."""
    pids = [int(found.read_text(encoding="utf-8").split()[0]) for found in directory.rglob("postmaster.pid")]
    for pid in pids:
        os.kill(pid, signal.SIGQUIT)
    while postgres.running():
        time.sleep(0.05)


def fresh_database(postgres: LocalPostgres) -> str:
    """Return the URL of a new migrated database."""
    name = f"test_{secrets.token_hex(6)}"
    db.ensure_database(postgres.url("postgres"), name, template=TEMPLATE)
    return postgres.url(name)
