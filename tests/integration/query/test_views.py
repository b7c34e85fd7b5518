"""What a worker shows of earlier questions: nothing, also to a statement that no gate has judged."""

from pathlib import Path

import duckdb
import pytest

from query.engine import Engine, EngineLimits
from tests.integration.query.conftest import Store

VIEWS = "select view_name from duckdb_views() where not internal and sql ilike '%read_parquet%'"


@pytest.fixture
def engine(store: Store, tmp_path: Path) -> Engine:
    """An engine that shows all of the store, as after a first question."""
    return Engine(store.sources, limits=EngineLimits(threads=1, memory_mb=256, spill_mb=16), spill=tmp_path)


def count(engine: Engine, relation: str) -> object:
    return engine.connection.execute(f"select count(*) from {relation}").fetchone()


def test_relations_that_the_next_question_does_not_name_are_hidden(engine: Engine, store: Store) -> None:
    assert {count(engine, relation) for relation in store.sources} == {(60,), (120,), (180,)}
    engine.show({"devnet_logs": store.sources["devnet_logs"]})
    assert count(engine, "devnet_logs") == (120,)
    for stale in ("devnet_blocks", "devnet_transactions"):
        with pytest.raises(duckdb.CatalogException):
            engine.run(f"select 1 from {stale}")
    assert engine.connection.execute(VIEWS).fetchall() == [("devnet_logs",)]


def test_relation_of_another_snapshot_shows_its_own_files(engine: Engine, store: Store) -> None:
    for files in (1, 4, 6):
        engine.show({"devnet_blocks": store.sources["devnet_blocks"][:files]})
        assert count(engine, "devnet_blocks") == (10 * files,)


def test_name_goes_from_one_dataset_to_another(engine: Engine, store: Store) -> None:
    engine.show({"dataset": store.sources["devnet_blocks"]})
    engine.show({"dataset": store.sources["devnet_logs"]})
    assert count(engine, "dataset") == (120,)
