"""Writes accepted rows as Parquet: sorted, compressed, with statistics in row groups that queries can skip.

The same rows give the same bytes, so an object's name can carry its digest. Files are on disk when `write` returns.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (pyarrow-stubs leave the overloads of pyarrow.compute partly unknown)

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trace_ray.contracts import BlockRange
from trace_ray.errors import UnsupportedExtraction
from trace_ray.extract.order import in_order
from trace_ray.extract.schema import SCHEMAS, DatasetSchema
from trace_ray.manifest import MAX_FILE_BYTES

ROW_GROUP_ROWS: Final = 50_000  # small enough to skip, large enough to read in one piece
ZSTD_LEVEL: Final = 3  # level 9 took 4 times as long for 3 % fewer bytes
REPEATS: Final = 2  # a dictionary pays when a value stands in at least so many rows, on average


@dataclass(frozen=True, slots=True)
class Written:
    """One Parquet file. Its rows lie in the blocks `min_block` to `max_block`, both included."""

    path: Path
    bytes: int
    rows: int
    digest: str
    min_block: int
    max_block: int


def write(
    table: pa.Table,
    cryo_dataset_name: str,
    directory: Path,
    *,
    blocks: BlockRange,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[Written]:
    """Write the rows of one range into as few files as the size limit allows, in order of their blocks.

    No rows give one empty file that stands for the whole range. A file is cut between blocks where it can be; a single
    row larger than the limit stays in a file of its own.

    Raises:
        UnsupportedExtraction: the table does not have the stable schema.
    """
    dataset = SCHEMAS[cryo_dataset_name]
    if not table.schema.equals(dataset.columns):
        raise UnsupportedExtraction(f"the engine's table of {cryo_dataset_name} does not have the stable schema")
    ordered = in_order(table, dataset).combine_chunks().replace_schema_metadata(None)
    paths = (directory / f"{cryo_dataset_name}_{number:04}.parquet" for number in range(len(table) + 1))
    written = list(_write_parts(ordered, dataset, paths, blocks, max_file_bytes))
    _sync_directory(directory)
    return written


def _write_parts(
    table: pa.Table, dataset: DatasetSchema, paths: Iterator[Path], blocks: BlockRange, max_file_bytes: int
) -> Iterator[Written]:
    path = next(paths)
    _write_file(table, dataset, path)
    size = path.stat().st_size
    if size <= max_file_bytes or table.num_rows < 2:  # noqa: PLR2004 - one row cannot be cut
        yield _described(path, table, blocks)
        return
    cut = _middle(table)
    path.unlink()
    for part in (table.slice(0, cut), table.slice(cut)):
        yield from _write_parts(part, dataset, paths, blocks, max_file_bytes)


def _middle(table: pa.Table) -> int:
    """Return the row to cut at: the start of the middle row's block, or of the next block, or the middle row itself."""
    numbers = cast(list[int], table.column("block_number").to_pylist())
    middle = len(numbers) // 2
    first = numbers.index(numbers[middle])
    if first > 0:
        return first
    after = next((row for row in range(middle, len(numbers)) if numbers[row] != numbers[middle]), None)
    return after or middle


def _write_file(table: pa.Table, dataset: DatasetSchema, path: Path) -> None:
    with path.open("xb") as file:
        pq.write_table(
            table,
            file,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            use_dictionary=_repeating(table),  # pyright: ignore[reportArgumentType] - the stub knows no list
            write_statistics=True,
            sorting_columns=_declared_order(dataset),
        )
        file.flush()
        os.fsync(file.fileno())


def _repeating(table: pa.Table) -> list[str]:
    """Return the columns whose values repeat."""
    return [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if not pa.types.is_boolean(column.type)
        and pc.count_distinct(column, mode="all").as_py() * REPEATS <= table.num_rows
    ]


def _declared_order(dataset: DatasetSchema) -> list[pq.SortingColumn]:
    """Return the order as readers may rely on it: up to a path, whose order of numbers Parquet cannot name."""
    names = dataset.sort[: dataset.sort.index("trace_address")] if "trace_address" in dataset.sort else dataset.sort
    return [pq.SortingColumn(dataset.columns.get_field_index(name)) for name in names]


def _described(path: Path, table: pa.Table, blocks: BlockRange) -> Written:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    first, last = blocks.start, blocks.end - 1
    if table.num_rows:
        numbers = table.column("block_number")
        first, last = cast(int, numbers[0].as_py()), cast(int, numbers[-1].as_py())
    return Written(path, path.stat().st_size, table.num_rows, digest, first, last)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
