"""Rows on their way from a worker to the service: Arrow streams, one per frame. Pure.

The service takes each for hostile. What could grow on arrival is refused: compressed bodies, and types whose values
take less room than they will (dictionaries, views, run ends, nulls); then Arrow itself checks every offset.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave element types open)

import struct
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc  # an array's own cast imports it late, which a worker may not

from query.protocol import ProtocolBroken

LEAVES: Final = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_string,
    pa.types.is_binary, pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_interval,
)  # fmt: skip
NESTED: Final = (pa.ListType, pa.FixedSizeListType, pa.StructType, pa.MapType, pa.UnionType)
BATCH: Final = "record batch"
HEADER_FIELD, COMPRESSION_FIELD = 2, 3  # places in the tables Message and RecordBatch of Arrow's Message.fbs
Kind = pa.DataType


class Frame:
    """Batches that travel together, and the memory that they are written to, which each frame uses again."""

    def __init__(self, schema: pa.Schema) -> None:
        self.size = 0
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._memory: pa.Buffer | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self.size += batch.nbytes

    def take(self) -> memoryview:
        """Return an Arrow stream of the batches, which holds until the next is taken."""
        counted = pa.MockOutputStream()
        self._write(counted)
        size = counted.size()
        if self._memory is None or self._memory.size < size:
            self._memory = pa.allocate_buffer(size + size // 4)
        self._write(pa.FixedSizeBufferWriter(self._memory))
        self._batches, self.size = [], 0
        return memoryview(self._memory)[:size]

    def _write(self, sink: pa.NativeFile) -> None:
        with pa.ipc.new_stream(sink, self._schema) as writer:
            for batch in self._batches:
                writer.write(batch)


def flat(given: Kind) -> Kind:
    """Return the type with plain values in the place of dictionaries (ENUM): one row then takes the room it needs."""
    nested: Any = given  # the stubs know the parts of each nested type by another name
    if isinstance(given, pa.DictionaryType):
        return flat(nested.value_type)
    if isinstance(given, pa.MapType):
        return pa.map_(flat(nested.key_type), flat(nested.item_type))
    if isinstance(given, pa.FixedSizeListType):
        return pa.list_(nested.value_field.with_type(flat(nested.value_type)), nested.list_size)
    if isinstance(given, pa.ListType):
        return pa.list_(nested.value_field.with_type(flat(nested.value_type)))
    if isinstance(given, pa.StructType):
        fields = [nested.field(index) for index in range(given.num_fields)]
        return pa.struct([field.with_type(flat(field.type)) for field in fields])
    return given


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the plain type of each column."""
    kinds: list[Kind] = schema.types
    return pa.schema([pa.field(name, flat(kind)) for name, kind in zip(schema.names, kinds, strict=True)])


def flatten(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with plain values.

    Raises:
        pa.ArrowNotImplementedError: Arrow cannot, for a type of this depth.
    """
    if batch.schema.equals(schema):
        return batch
    kinds: list[Kind] = schema.types
    columns = [pc.cast(batch.column(index), kind) for index, kind in enumerate(kinds)]
    return pa.record_batch(columns, schema=schema)


def read(stream: bytes | memoryview) -> pa.Table:
    """Return the rows of one frame.

    Raises:
        ProtocolBroken: it is not a sound Arrow stream of types that an answer can have.
    """
    content = pa.py_buffer(stream)
    try:
        for message in pa.ipc.MessageReader.open_stream(content):
            if message.type not in {"schema", BATCH} or (message.type == BATCH and is_compressed(message.metadata)):
                raise ProtocolBroken("not plain rows")
        reader = pa.ipc.open_stream(content)
        if not all(is_known(kind) for kind in reader.schema.types):
            raise ProtocolBroken("a type that no answer has")
        table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error):
        raise ProtocolBroken("not an Arrow stream") from None
    return table


def is_known(kind: Kind) -> bool:
    """Say whether an answer can have a type."""
    nested: Any = kind
    if isinstance(kind, NESTED):
        parts = [nested.field(index).type for index in range(kind.num_fields)]
        empty = not parts or (isinstance(kind, pa.FixedSizeListType) and nested.list_size < 1)
        return not empty and all(is_known(part) for part in parts)
    return any(is_leaf(kind) for is_leaf in LEAVES)


def is_compressed(metadata: pa.Buffer) -> bool:
    """Say whether the body of a record batch is compressed; a few bytes could then become any amount of memory."""
    content = metadata.to_pybytes()
    message = _offset(content, 0)
    header = _field(content, message, HEADER_FIELD)
    return header is None or _field(content, _offset(content, header), COMPRESSION_FIELD) is not None


def _offset(content: bytes, place: int) -> int:
    """Follow a reference of a flatbuffer: it counts from where it stands."""
    return place + struct.unpack_from("<I", content, place)[0]


def _field(content: bytes, table: int, number: int) -> int | None:
    """Return where a field of a flatbuffer's table is, None where it is left out."""
    directory = table - struct.unpack_from("<i", content, table)[0]
    if directory < 0:
        raise ProtocolBroken("not an Arrow stream")
    entry = 4 + 2 * number
    if struct.unpack_from("<H", content, directory)[0] < entry + 2:
        return None
    place = struct.unpack_from("<H", content, directory + entry)[0]
    return table + place if place else None
