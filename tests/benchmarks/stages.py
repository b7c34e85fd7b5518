"""How long each stage of a range takes when nothing runs beside it: the operator's own steps, one after another.

The Dispatcher's histogram of stages cannot tell: Ray sums it up from the middles of its buckets.
"""

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trace_ray.contracts import BlockRange, Receipts
from trace_ray.extract.choice import make_engine
from trace_ray.extract.engine import Provider, Request
from trace_ray.extract.rewrite import write
from trace_ray.extract.verify import Proof, verify
from trace_ray.storage import open_store

KINDS = ("blocks", "transactions", "logs")
RANGE_S = 60.0


class Stages:
    """Seconds by stage, summed over ranges; what the engine tells of its own stages is taken over."""

    def __init__(self, url: str, directory: Path) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._provider = Provider("bench", 0, url, None)
        self._directory = directory
        self._engine = make_engine("cryo")
        self._store = open_store((directory / "objects").as_uri(), data_dir=directory)

    def run(self, blocks: BlockRange) -> None:
        """Extract, verify, rewrite and upload one range."""
        staging = self._directory / f"stages-{blocks.start}"
        staging.mkdir()
        request = Request(31337, KINDS, blocks, Receipts.ETHEREUM)
        found = self._engine.extract(request, self._provider, staging, deadline=time.monotonic() + RANGE_S)
        for stage, seconds in found.seconds.items():
            self.seconds[stage] += seconds
        with self._timed("verify"):
            verdicts = verify(
                found.tables,
                blocks=blocks,
                receipts=Receipts.ETHEREUM,
                datasets=KINDS,
                neighbours={},
                proofs=found.proofs,
            )
        if not all(isinstance(verdict, Proof) for verdict in verdicts.values()):
            raise RuntimeError(f"{blocks} was refused: {verdicts}")
        for kind in KINDS:
            output = staging / kind
            output.mkdir()
            with self._timed("rewrite"):
                written = write(found.tables[kind], kind, output, blocks=blocks)
            with self._timed("upload"):
                for file in written:
                    self._store.put(file.path, f"stages/{kind}/{blocks.start}/{file.path.name}")

    @contextmanager
    def _timed(self, stage: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began
