"""Rows that arrive from a hostile side are plain and sound, or they break the conversation."""

import contextlib
import random
import struct
from typing import Literal

import pyarrow as pa
import pytest

from query.protocol import ProtocolBroken
from query.wire import Frame, flat, flat_schema, flatten, is_compressed, is_known, read

TABLE = pa.table({"n": [1, None, 3], "t": ["a", "bb", None], "l": [[1], [], None]})


def stream(table: pa.Table, *, compression: Literal["lz4", "zstd"] | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_rows_arrive_as_they_were_sent() -> None:
    assert read(stream(TABLE)).equals(TABLE)


def test_frame_holds_its_batches_and_uses_its_memory_again() -> None:
    frame = Frame(TABLE.schema)
    for rows in ([TABLE], [TABLE, TABLE, TABLE], []):
        for batch in [batch for table in rows for batch in table.to_batches()]:
            frame.add(batch)
        assert (frame.size > 0) == bool(rows)
        arrived = read(frame.take())
        assert arrived.num_rows == 3 * len(rows)
        assert arrived.schema == TABLE.schema
        assert frame.size == 0


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_body_is_refused_before_it_is_unpacked(compression: Literal["lz4", "zstd"]) -> None:
    bomb = stream(pa.table({"t": ["x" * 50_000_000]}), compression=compression)
    assert len(bomb) < 1_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ProtocolBroken, match="plain"):
        read(bomb)
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.nulls(2),
        pa.array([[None], []], pa.list_(pa.null())),
        pa.array([{}, {}], pa.struct([])),
        pa.array([[], []], pa.list_(pa.int32(), 0)),
        pa.array(["a", "b"], pa.string_view()),
        pa.array([b"a", b"b"], pa.binary_view()),
        pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1])),
    ],
    ids=lambda column: str(column.type),
)
def test_type_whose_values_grow_is_refused(column: "pa.Array[pa.Scalar[pa.DataType]]") -> None:
    with pytest.raises(ProtocolBroken):
        read(stream(pa.table({"c": column})))


def test_damaged_stream_breaks_the_conversation_and_nothing_else() -> None:
    """Every cut, and bytes changed at random: rows, or ProtocolBroken."""
    sound, rng = stream(TABLE), random.Random(7)
    for end in range(len(sound)):
        damaged = [sound[:end]]
        for _ in range(4):
            changed = bytearray(sound)
            for _ in range(rng.randint(1, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            damaged.append(bytes(changed))
        for one in damaged:
            with contextlib.suppress(ProtocolBroken):
                assert read(one).num_rows <= 3 * len(sound)


@pytest.mark.parametrize(
    "metadata",
    [
        (4).to_bytes(4, "little") + (100).to_bytes(4, "little", signed=True),
        (4).to_bytes(4, "little") + (-4).to_bytes(4, "little", signed=True),
        b"\x01",
        (1 << 31).to_bytes(4, "little"),
    ],
)
def test_description_of_a_batch_that_points_nowhere_is_refused(metadata: bytes) -> None:
    with pytest.raises((ProtocolBroken, struct.error)):
        is_compressed(pa.py_buffer(metadata))


def test_types_with_dictionaries_get_plain_values() -> None:
    enum = pa.dictionary(pa.uint8(), pa.string())
    nested = pa.struct([("a", pa.list_(enum)), ("b", pa.map_(pa.string(), enum)), ("c", pa.list_(enum, 2))])
    assert flat(nested) == pa.struct(
        [("a", pa.list_(pa.string())), ("b", pa.map_(pa.string(), pa.string())), ("c", pa.list_(pa.string(), 2))]
    )
    assert flat(pa.int8()) == pa.int8()
    assert flat_schema(pa.schema([("e", enum)])) == pa.schema([("e", pa.string())])
    assert is_known(flat(nested))
    assert not is_known(nested)


def test_dictionaries_become_plain_rows() -> None:
    batch = pa.record_batch({"e": pa.array(["a", "b", "a"]).dictionary_encode(), "n": pa.array([1, 2, 3])})
    plain = flatten(batch, flat_schema(batch.schema))
    assert plain.to_pydict() == batch.to_pydict()
    assert is_known(plain.schema.types[0])
    assert flatten(plain, plain.schema) is plain
