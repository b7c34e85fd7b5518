"""Asks `verify` about built rows, and takes its verdicts apart."""

from collections.abc import Collection

import pyarrow as pa

from tests.chain_rows import SAMPLE, START, Rows
from trace_ray.contracts import BlockRange, Receipts
from trace_ray.extract.verify import Neighbours, Problem, Proof, verify

CORE = ("blocks", "transactions", "logs")
SAMPLE_BLOCKS = BlockRange(START, START + len(SAMPLE))


def judge(
    made: Rows | dict[str, pa.Table],
    datasets: Collection[str] = CORE,
    *,
    receipts: Receipts = Receipts.ETHEREUM,
    neighbours: dict[str, Neighbours] | None = None,
    proofs: Collection[str] = (),
    blocks: BlockRange = SAMPLE_BLOCKS,
) -> dict[str, Proof | Problem]:
    tables = made.tables() if isinstance(made, Rows) else made
    verdicts = verify(
        tables, blocks=blocks, receipts=receipts, datasets=datasets, neighbours=neighbours or {}, proofs=proofs
    )
    assert list(verdicts) == list(datasets)
    return verdicts


def proof(verdict: Proof | Problem) -> Proof:
    assert isinstance(verdict, Proof), verdict
    return verdict


def problem(verdict: Proof | Problem) -> Problem:
    assert isinstance(verdict, Problem), verdict
    assert "\n" not in verdict.message
    return verdict
