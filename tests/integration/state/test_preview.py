"""What a rule would have to look at: the evaluations of planning, and nothing is queued."""

import pytest

from state import evaluations
from tests.integration.state.ledger import Ledger, job, publication, stream
from tests.integration.state.watching import backfill, rule, watch
from trace_ray.contracts import BlockRange


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (BlockRange(85, 88), [(80, 100)]),
        (BlockRange(99, 101), [(80, 100), (100, 120)]),
        (BlockRange(120, 121), [(120, 160)]),
        (BlockRange(0, 900), [(0, 40), (40, 80), (80, 100), (100, 120), (120, 160), (160, 200)]),
        (BlockRange(200, 900), []),
    ],
    ids=str,
)
def test_evaluations_are_whole_and_overlap_the_asked_blocks(
    ledger: Ledger, blocks: BlockRange, expected: list[tuple[int, int]]
) -> None:
    one = rule("devnet_logs", "devnet_blocks")
    ledger.sync(job(stream("blocks", chunk_size=100), stream("logs", chunk_size=40, max_inflight=9), to_block=200))
    for group in ledger.claim(9):
        ledger.complete(*map(publication, group.leases))
    before = ledger.rows(b"SELECT count(*) FROM state.tasks")
    found = evaluations.preview(ledger.conn, one, blocks)
    assert [(each.blocks.start, each.blocks.end) for each in found] == expected
    assert ledger.rows(b"SELECT count(*) FROM state.tasks") == before
    watch(ledger, one)
    assert backfill(ledger, one, since=blocks.start)[: len(expected)] == [each.blocks for each in found]
    assert found == sorted(found, key=lambda each: each.blocks)
