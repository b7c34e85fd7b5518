"""Accepted rows become Parquet that says what it holds, the same bytes for the same rows."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import chain_rows
from trace_ray.contracts import BlockRange
from trace_ray.errors import UnsupportedExtraction
from trace_ray.extract.rewrite import ROW_GROUP_ROWS, Written, write
from trace_ray.extract.schema import SCHEMAS

RANGE = BlockRange(1000, 1100)
MAX_U256 = 2**256 - 1


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def logs(places: list[tuple[int, int]], *, data: int = 8) -> pa.Table:
    """One log for each (block, log index), its data unlike any other's."""
    return chain_rows.table([_log(block, index, data) for block, index in places], "logs")


def _log(block: int, index: int, data: int) -> dict[str, Any]:
    own = hashlib.sha256(f"{block}/{index}".encode()).digest()
    return {
        "block_number": block,
        "block_hash": hashlib.sha256(str(block).encode()).digest(),
        "transaction_index": index // 3,
        "log_index": index,
        "transaction_hash": own,
        "address": chain_rows.USDC,
        "topic0": chain_rows.TRANSFER,
        "data": b"".join(hashlib.sha256(own + bytes([n])).digest() for n in range(data // 32 + 1))[:data],
        "chain_id": 1,
    }


def read(files: list[Written]) -> pa.Table:
    return pa.concat_tables([pq.read_table(file.path) for file in files])


PLACES = st.lists(st.tuples(st.integers(1000, 1099), st.integers(0, 40)), unique=True, max_size=60)


@given(PLACES)
def test_every_row_survives_in_the_stable_order(places: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as name:
        files = write(logs(places), "logs", Path(name), blocks=RANGE)
        assert read(files).equals(logs(sorted(places)))


@settings(max_examples=30)
@given(PLACES, st.randoms())
def test_the_same_rows_give_the_same_bytes(places: list[tuple[int, int]], random: Any) -> None:
    shuffled = random.sample(places, len(places))
    halves = pa.concat_tables([logs(shuffled[::2]), logs(shuffled[1::2])])
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        (first,) = write(logs(places), "logs", Path(one), blocks=RANGE)
        (second,) = write(halves.replace_schema_metadata({"made": "otherwise"}), "logs", Path(two), blocks=RANGE)
        assert first.path.read_bytes() == second.path.read_bytes()
        assert first.digest == second.digest


def test_a_file_is_described_as_it_is(directory: Path) -> None:
    (file,) = write(logs([(1007, 0), (1003, 0), (1003, 1)]), "logs", directory, blocks=RANGE)
    content = file.path.read_bytes()
    assert file == Written(file.path, len(content), 3, hashlib.sha256(content).hexdigest(), 1003, 1007)


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_rows_are_one_typed_file_that_stands_for_the_whole_range(name: str, directory: Path) -> None:
    (file,) = write(SCHEMAS[name].columns.empty_table(), name, directory, blocks=RANGE)
    assert (file.rows, file.min_block, file.max_block) == (0, 1000, 1099)
    assert pq.read_table(file.path).schema.equals(SCHEMAS[name].columns)


def test_row_groups_can_be_skipped_by_their_statistics(directory: Path) -> None:
    rows = 2 * ROW_GROUP_ROWS + 10
    headers = pa.table(
        [
            pa.array(range(rows)) if field.name == "block_number" else pa.array([_constant(field)] * rows, field.type)
            for field in SCHEMAS["blocks"].columns
        ],
        schema=SCHEMAS["blocks"].columns,
    )
    (file,) = write(headers, "blocks", directory, blocks=BlockRange(0, rows))
    footer = pq.ParquetFile(file.path).metadata
    spans: list[tuple[int, int]] = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        assert all(group.column(column).is_stats_set for column in range(group.num_columns))
        assert {group.column(column).compression for column in range(group.num_columns)} == {"ZSTD"}
        blocks: Any = group.column(0).statistics
        spans.append((blocks.min, blocks.max))
    half = ROW_GROUP_ROWS
    assert spans == [(0, half - 1), (half, 2 * half - 1), (2 * half, rows - 1)]
    assert [column.column_index for column in footer.row_group(0).sorting_columns] == [0]


def _constant(field: "pa.Field[Any]") -> object:
    return b"\1" * 32 if field.type == pa.binary() else 1


def test_a_dictionary_is_used_where_values_repeat_and_only_there(directory: Path) -> None:
    (file,) = write(logs([(block, 0) for block in range(1000, 1099)]), "logs", directory, blocks=RANGE)
    group = pq.ParquetFile(file.path).metadata.row_group(0)
    has = {group.column(n).path_in_schema: group.column(n).has_dictionary_page for n in range(group.num_columns)}
    assert has["address"]
    assert has["topic0"]
    assert not has["transaction_hash"]
    assert not has["block_number"]


@pytest.mark.parametrize("value", [0, 2**63, 2**255, MAX_U256])
def test_256_bit_values_survive(value: int, directory: Path) -> None:
    rows = chain_rows.build().rows["transactions"]
    rows[0] |= {"value_binary": value.to_bytes(32, "big"), "value_string": str(value)}
    (file,) = write(chain_rows.table(rows, "transactions"), "transactions", directory, blocks=BlockRange(1200, 1204))
    row = pq.read_table(file.path).to_pylist()[0]
    assert (int.from_bytes(row["value_binary"], "big"), int(row["value_string"])) == (value, value)


def test_files_are_cut_between_blocks_so_that_none_passes_the_limit(directory: Path) -> None:
    table = logs([(1000 + block, index) for block in range(37) for index in range(23)], data=900)
    files = write(table, "logs", directory, blocks=RANGE, max_file_bytes=200_000)
    assert len(files) > 3
    assert all(file.bytes <= 200_000 for file in files)
    assert all(before.max_block < after.min_block for before, after in pairwise(files))
    assert read(files).equals(table)
    assert sorted(directory.iterdir()) == [file.path for file in files]


def test_a_block_larger_than_the_limit_is_cut_inside(directory: Path) -> None:
    table = logs([(1000, index) for index in range(200)] + [(1001, 0)], data=900)
    files = write(table, "logs", directory, blocks=RANGE, max_file_bytes=60_000)
    assert all(file.bytes <= 60_000 for file in files)
    assert read(files).equals(table)


def test_a_single_row_larger_than_the_limit_stays_whole(directory: Path) -> None:
    table = logs([(1000, 0), (1001, 0)], data=7_000)
    files = write(table, "logs", directory, blocks=RANGE, max_file_bytes=4_000)
    assert [file.rows for file in files] == [1, 1]
    assert read(files).equals(table)


def test_another_schema_is_refused(directory: Path) -> None:
    with pytest.raises(UnsupportedExtraction, match="stable schema"):
        write(logs([(1000, 0)]).drop_columns(["data"]), "logs", directory, blocks=RANGE)
    assert list(directory.iterdir()) == []
