"""An answer as of a snapshot: rows of a replaced range, old and new, over a real ledger and real files."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from state import datasets
from state.db import connect
from tests.integration.query.conftest import Store
from tests.integration.state.ledger import Ledger, job, publication
from trace_ray.contracts import DEFAULT_ORG, Grant, Lease, Publication

SQL = "select marker, count(*) as n from devnet_blocks where block_number between 50 and 149 group by all order by all"


@pytest.fixture
def ledger(state_url: str) -> Iterator[Ledger]:
    with connect(state_url, application_name="trace-test") as conn:
        yield Ledger.lead(conn)


def publish(ledger: Ledger, root: Path, lease: Lease, marker: str) -> None:
    """Publish a range whose rows all carry a marker."""
    offer: Publication = publication(lease, content=marker)
    for file in offer.files:
        blocks = list(range(file.min_block, file.max_block + 1))
        (root / file.key).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"block_number": blocks, "marker": [marker] * len(blocks)}), root / file.key)
    assert ledger.complete(offer)[0].accepted


def test_answer_as_of_a_snapshot_has_its_rows_while_publishing_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    def pin(as_of: int | None = None) -> Grant:
        return datasets.pin(ledger.conn, DEFAULT_ORG, None, as_of)

    def rows(as_of: int | None = None) -> dict[str, int]:
        answer = Store(tmp_path, pin(as_of), tmp_path / "scratch").ask(SQL)
        return {row["marker"]: row["n"] for row in answer.table.to_pylist()}

    ledger.sync(job("blocks", to_block=300))
    first, second, third = (group.leases[0] for group in ledger.claim(slots=3))
    publish(ledger, tmp_path, first, "old")
    publish(ledger, tmp_path, second, "next")
    assert rows() == rows(2) == {"old": 50, "next": 50}
    ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL, generation = generation + 1, run_at = 'epoch'"
        b" WHERE task_id = %s::uuid",
        (first.task.task_id,),
    )
    publish(ledger, tmp_path, ledger.lease(), "new")
    assert rows(1) == {"old": 50}
    assert rows(2) == {"old": 50, "next": 50}
    assert rows(3) == rows() == {"new": 50, "next": 50}
    publish(ledger, tmp_path, third, "later")
    assert [rows(number) for number in (1, 2, 3)] == [{"old": 50}, {"old": 50, "next": 50}, {"new": 50, "next": 50}]
    assert [one.snapshot for one in pin(2).datasets] == [2]
