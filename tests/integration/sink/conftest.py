"""A sink of each test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from state.db import connect
from tests.integration.sink.sunk import World, evaluations
from tests.integration.state.ledger import Ledger
from tests.integration.state.watching import rule
from trace_ray.alerts import EvaluationLease
from trace_ray.storage import open_store


@pytest.fixture
def world(state_url: str, tmp_path: Path) -> Iterator[World]:
    with connect(state_url, application_name="trace-test") as conn:
        store = open_store(f"file://{tmp_path}/objects", data_dir=tmp_path)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        conn.execute(b"CREATE TABLE public.routed (org_id uuid, rule text, event_id uuid)")
        made = World(Ledger.lead(conn), state_url, store, scratch)
        yield made
        for database in made.opened:
            database.close()


@pytest.fixture
def leases(world: World) -> list[EvaluationLease]:
    """Three running evaluations of one rule."""
    return evaluations(world, rule())
