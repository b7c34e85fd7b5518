"""What every command begins with: the settings that count, one transaction on the ledgers, the object store."""

from collections.abc import Generator
from contextlib import contextmanager

from state.db import Connection, Database
from trace_ray import config, logs
from trace_ray.config import Settings
from trace_ray.lite.effective import effective
from trace_ray.storage import ObjectStore, open_store


def settings_here() -> Settings:
    """Return the settings that count in this shell, with log lines set up to hide their secrets."""
    settings = effective(config.read_settings())
    logs.set_up(json=False, secrets=config.secrets(settings))
    return settings


def object_store(settings: Settings) -> ObjectStore:
    """Open the object store of the stack. Raises FatalError, StoreUnavailable."""
    return open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )


@contextmanager
def transaction(settings: Settings) -> Generator[Connection]:
    """One transaction on the ledger of jobs and tasks. Raises DatabaseUnavailable."""
    with _transaction(config.state_url(settings)) as conn:
        yield conn


@contextmanager
def data_transaction(settings: Settings) -> Generator[Connection]:
    """One transaction on what readers leave behind, the audit among it. Raises DatabaseUnavailable."""
    with _transaction(config.data_url(settings)) as conn:
        yield conn


@contextmanager
def _transaction(url: str) -> Generator[Connection]:
    database = Database(url, application_name="trace-cli")
    try:
        with database.transaction() as conn:
            yield conn
    finally:
        database.close()
