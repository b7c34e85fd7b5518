"""Which hash the rows of published objects give to a block. Reads two columns of the objects and nothing else."""

# pyright: reportUnknownMemberType=false
# (pyarrow-stubs leave the overloads of pyarrow.compute partly unknown)

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from state.retractions import Shown
from trace_ray.alert_reports import BlockStanding, BlockView
from trace_ray.contracts import GrantedFile
from trace_ray.errors import ObjectMissing, StoreUnavailable
from trace_ray.storage import ObjectStore

COLUMNS: Final = ("block_number", "block_hash")


def read(
    store: ObjectStore, files: Sequence[GrantedFile], wanted: Collection[int], *, scratch: Path
) -> dict[int, set[bytes]]:
    """Return the hashes of wanted blocks by number. A block without rows, or in a dataset without hashes, is absent.

    Args:
        scratch: Directory for one object at a time; only objects that may hold a wanted block are fetched.

    Raises:
        ObjectMissing, StoreUnavailable, DiskFull
    """
    found: dict[int, set[bytes]] = {}
    for file in files:
        blocks = sorted(block for block in wanted if file.min_block <= block <= file.max_block)
        if not blocks:
            continue
        with TemporaryDirectory(dir=scratch) as name:
            path = Path(name, "object.parquet")
            store.get(file.key, path)
            for number, block_hash in _pairs(path, blocks):
                found.setdefault(number, set()).add(block_hash)
    return found


def standing(store: ObjectStore, shown: Sequence[Shown], number: int, block_hash: bytes, *, scratch: Path) -> BlockView:
    """Tell whether a block is the published one: by the first visible version whose rows have its number."""
    reason = f"no dataset that is published has rows of block {number}"
    for one in shown:
        try:
            hashes = read(store, one.files, [number], scratch=scratch).get(number)
        except (ObjectMissing, StoreUnavailable) as error:
            reason = f"{one.dataset} could not be read: {error}"
            continue
        if hashes:
            found = BlockStanding.PUBLISHED if block_hash in hashes else BlockStanding.REPLACED
            other = "" if block_hash in hashes else f" has 0x{min(hashes).hex()} instead, since"
            return BlockView(found, f"{one.dataset}{other or ' has it, in'} version {one.version}")
    return BlockView(BlockStanding.UNKNOWN, reason)


def _pairs(path: Path, blocks: Sequence[int]) -> list[tuple[int, bytes]]:
    if not set(COLUMNS) <= set(pq.read_schema(path).names):
        return []
    chosen = pc.field("block_number").isin(pa.array(blocks, pa.int64()))
    rows = pq.read_table(path, columns=list(COLUMNS), filters=chosen).group_by(list(COLUMNS)).aggregate([])
    return [(row["block_number"], row["block_hash"]) for row in rows.to_pylist()]
