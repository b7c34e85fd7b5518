"""Lost objects are found, withdrawn and made anew, with every part real but Ray."""

from pathlib import Path

from actors.repairer import withdraw_lost
from state import repair
from state.db import Database
from tests import drive, truth
from tests.conftest import Replay
from tests.integration.test_sync import complete
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.extract.choice import make_engine
from trace_ray.storage import ObjectStore, open_store


def mend(sync: drive.Line) -> int:
    """Look for lost objects, repair, and sync until the job is complete; return how many ranges were planned."""
    withdraw_lost(sync.database, sync.store, DEFAULT_ORG, "devnet")
    with sync.database.transaction() as conn:
        planned = sum(stream.ranges for stream in repair.repair(conn, DEFAULT_ORG, "devnet"))
    sync.run(until=complete)
    return planned


def keys(store: ObjectStore, name: str) -> list[str]:
    return sorted(found.key for found in store.list("cryo/") if f"/{name}_" in found.key)


def test_lost_and_damaged_objects_are_made_anew_and_every_row_is_there_once(
    state_url: str, tmp_path: Path, replay: Replay
) -> None:
    store = open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
    database = Database(state_url, application_name="test")
    sync = drive.Line(database, make_engine("native"), store, tmp_path / "staging", replay.url)
    sync.apply(drive.job(end=60, chunk_size=10))
    sync.run(until=complete)
    assert mend(sync) == 0  # nothing is lost
    lost, damaged = keys(store, "logs")[2], keys(store, "blocks")[4]
    store.delete(lost)
    (tmp_path / "objects" / damaged).write_bytes(b"half of it")
    assert mend(sync) == 2
    assert mend(sync) == 0
    wanted = truth.rows(replay.url, 0, 60)
    for name in ("blocks", "transactions", "logs"):
        assert sync.table(f"devnet_{name}", tmp_path).to_pylist() == wanted[name]
