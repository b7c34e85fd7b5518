"""Small relations in real Parquet files, with a gap and with files that overlap, for random statements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.contracts import GrantedFile

BLOCKS: Final = 60
MISSING: Final = range(30, 35)  # a gap in what is published
COLUMNS: Final = ("block_number", "i", "v", "g")
Row = dict[str, int | None]
# The blocks that each file claims, end-exclusive. Some hold no row; two of logs overlap: late rows of blocks 20 to 29.
FILES: Final[Mapping[str, Sequence[tuple[int, int]]]] = {
    "blocks": [(0, 10), (10, 20), (20, 30), (30, 35), (35, 45), (45, 60)],
    "transactions": [(0, 5), (5, 6), (6, 25), (25, 35), (35, 50), (50, 60), (60, 70)],
    "logs": [(0, 15), (15, 30), (20, 30), (30, 60)],
}


def row(name: str, block: int, index: int) -> Row:
    value = None if (block + index) % 7 == 0 else (block * 3 + index) % 11
    return {"block_number": block, "i": index, "v": value, "g": block % 5 if name == "blocks" else (block + index) % 4}


def rows_of(name: str, place: int) -> list[Row]:
    start, end = FILES[name][place]
    blocks = [block for block in range(start, min(end, BLOCKS)) if block not in MISSING]
    late = name == "logs" and start == 20
    if name == "blocks":
        return [row(name, block, 0) for block in blocks]
    return [row(name, block, 9 if late else index) for block in blocks for index in range(1 if late else block % 3)]


@dataclass(frozen=True)
class Store:
    """The files of each relation. `dataset` is another name of blocks, as a request gives it."""

    root: Path
    files: Mapping[str, Sequence[GrantedFile]]

    @classmethod
    def write(cls, root: Path) -> "Store":
        files: dict[str, list[GrantedFile]] = {}
        schema = pa.schema([(name, pa.int64()) for name in COLUMNS])
        for name, spans in FILES.items():
            for place, (start, end) in enumerate(spans):
                rows = rows_of(name, place)
                key = f"{name}_{place}.parquet"
                pq.write_table(pa.Table.from_pylist(rows, schema), root / key, row_group_size=7)
                files.setdefault(name, []).append(GrantedFile(key, start, end - 1, 1, len(rows)))
        return cls(root, {**files, "dataset": files["blocks"]})
