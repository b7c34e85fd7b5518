"""An answer as bytes: JSON (SPEC section 6), NDJSON, CSV, Arrow, Parquet.

In JSON, NDJSON and nested CSV values: BLOB is `0x...`; HUGEINT and DECIMAL are exact strings; instants are ISO 8601,
with `Z` where they have a zone; NaN and the infinities are strings; a map is a list of `{"key", "value"}`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the element types of nested arrays open; everything is turned into `object` here)

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from query.question import Answer

AT_ONCE: Final = 500  # rows that one call encodes: no other thread runs meanwhile
NANOSECONDS: Final = 1_000_000_000
INFINITE_DAYS: Final = 2**31 - 1  # how the engine writes an infinite DATE, and below an infinite TIMESTAMP
INFINITE_TIME: Final = 2**63 - 1
PER_DAY: Final = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
CYCLE_DAYS, CYCLE_YEARS = 146_097, 400  # the calendar repeats
FAR: Final = "<value"  # how Arrow begins a text that it cannot write: years beyond +-32767


def to_json(answer: Answer) -> bytes:
    """Return the HTTP answer: columns, rows (arrays in the order of the columns), truncated, query_id, snapshot."""
    described = [{"name": column.name, "type": column.type} for column in answer.columns]
    rows = list(zip(*columns(answer.table), strict=True))
    pieces = [orjson.dumps(rows[start : start + AT_ONCE])[1:-1] for start in range(0, len(rows), AT_ONCE)]
    stored = {} if answer.location is None else {"location": answer.location, "result": result_route(answer)}
    rest = {
        "truncated": answer.truncated,
        "query_id": str(answer.query_id),
        "snapshot": _snapshot(answer),
        **stored,
    }
    head = (b'{"columns":', orjson.dumps(described), b',"rows":[', b",".join(pieces), b"],")
    return b"".join((*head, orjson.dumps(rest)[1:]))


def result_route(answer: Answer) -> str:
    """Return the route of the service that hands out a stored answer."""
    return f"/v1/queries/{answer.query_id}/result"


def snapshot_json(answer: Answer) -> bytes:
    """Return what was read, as JSON: one object per dataset."""
    return orjson.dumps(_snapshot(answer))


def _snapshot(answer: Answer) -> list[dict[str, object]]:
    return [
        {
            "name": entry.name,
            "snapshot": entry.snapshot,
            "from_block": entry.from_block,
            "to_block": entry.to_block,
            "gaps": [[gap.start, gap.end] for gap in entry.gaps],
        }
        for entry in answer.snapshot
    ]


def to_ndjson(answer: Answer) -> bytes:
    """Return one object per row. A repeated column name gets `_1`, `_2`, so that no value is lost."""
    names = unique([column.name for column in answer.columns])
    rows = zip(*columns(answer.table), strict=True)
    return b"".join(orjson.dumps(dict(zip(names, row, strict=True))) + b"\n" for row in rows)


def to_csv(answer: Answer) -> bytes:
    """Return CSV with a header. NULL is empty and unquoted, an empty text is quoted; a nested value is JSON."""
    arrays = [_csv_column(column.combine_chunks()) for column in answer.table.columns]
    table = pa.Table.from_arrays(arrays, names=[column.name for column in answer.columns])
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


def to_arrow(answer: Answer) -> bytes:
    """Return an Arrow stream. Its schema metadata says `query_id`, `truncated`, `snapshot`, and `types`: DuckDB's."""
    table = _with_metadata(answer)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def to_parquet(answer: Answer) -> bytes:
    """Return a Parquet file with the metadata of `to_arrow`; enumerations become texts, intervals ISO 8601 texts."""
    sink = pa.BufferOutputStream()
    pq.write_table(for_parquet(_with_metadata(answer)), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def for_parquet(table: pa.Table) -> pa.Table:
    """Return the table with texts in the columns whose types Parquet does not have."""
    for index, column in enumerate(table.columns):
        if pa.types.is_interval(column.type) or pa.types.is_union(column.type):
            table = table.set_column(index, table.schema.field(index).name, _text_column(column.combine_chunks()))
    return table


def unique(names: Sequence[str]) -> list[str]:
    """Return the names with `_1`, `_2` at repeated ones."""
    taken: dict[str, None] = {}
    for name in names:
        candidate, number = name, 0
        while candidate in taken or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken[candidate] = None
    return list(taken)


def columns(table: pa.Table) -> list[list[object]]:
    """Return each column as a list of values that JSON can carry exactly."""
    return [plain(column.combine_chunks()) for column in table.columns]


def plain(array: "pa.Array[Any]") -> list[object]:
    """Return an array's values for JSON, nested ones included."""
    if isinstance(array, pa.StructArray):
        return _structs(array)
    if isinstance(array, pa.MapArray):
        pairs = zip(plain(array.keys), plain(array.items), strict=True)
        return _slices(array, [{"key": key, "value": value} for key, value in pairs])
    if isinstance(array, pa.FixedSizeListArray):
        return _blocks(array)
    if isinstance(array, pa.ListArray | pa.LargeListArray):
        return _slices(array, plain(array.values))
    if isinstance(array, pa.UnionArray):
        members = [plain(array.field(index)) for index in range(array.type.num_fields)]
        return [members[int(code or 0)][row] for row, code in enumerate(array.type_codes.to_pylist())]
    if isinstance(array, pa.DictionaryArray):
        return plain(array.dictionary_decode())
    return _leaves(array)


def _leaves(array: "pa.Array[Any]") -> list[object]:
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return [None if value is None else f"0x{value.hex()}" for value in array.to_pylist()]
    if pa.types.is_decimal(kind):
        return [None if value is None else f"{value:f}" for value in array.to_pylist()]
    if pa.types.is_floating(kind):
        return [_float(value) for value in array.to_pylist()]
    if pa.types.is_timestamp(kind):
        return _instants(array, INFINITE_TIME)
    if pa.types.is_date(kind):
        return _instants(array, INFINITE_DAYS)
    if pa.types.is_time(kind):
        return [_without_zeros(text) for text in array.cast(pa.string()).to_pylist()]
    if pa.types.is_interval(kind):
        return [None if value is None else _duration(*value) for value in array.to_pylist()]
    return list(array.to_pylist())


def _structs(array: pa.StructArray) -> list[object]:
    """Objects; arrays where the fields have no or equal names (an unnamed row)."""
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    members = [plain(member) for member in array.flatten()]
    rows = zip(*members, strict=True)
    if "" in names or len(set(names)) < len(names):
        return [list(row) if ok else None for row, ok in zip(rows, _valid(array), strict=True)]
    return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, _valid(array), strict=True)]


def _blocks(array: "pa.FixedSizeListArray[Any]") -> list[object]:
    size, values = array.type.list_size, plain(array.values)
    starts = range(array.offset * size, (array.offset + len(array)) * size, size)
    return [values[at : at + size] if ok else None for at, ok in zip(starts, _valid(array), strict=True)]


def _slices(array: "pa.ListArray[Any] | pa.LargeListArray[Any]", values: list[object]) -> list[object]:
    offsets = array.offsets.to_pylist()
    bounds = zip(offsets, offsets[1:], _valid(array), strict=False)
    return [values[start:end] if ok else None for start, end, ok in bounds]


def _valid(array: "pa.Array[Any]") -> list[bool]:
    return [valid is True for valid in array.is_valid().to_pylist()]


def _float(value: float | None) -> object:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _instants(array: "pa.Array[Any]", infinite: int) -> list[object]:
    """Dates and timestamps in ISO 8601. Years beyond 9999 and infinities have no Python value, so Arrow writes them.

    An instant with a zone is counted in UTC; it is written without the zone, since Arrow would need a zone database.
    """
    kind, zone = array.type, ""
    if isinstance(kind, pa.TimestampType) and kind.tz is not None:
        kind, zone = pa.timestamp(kind.unit), "Z"
    numbers = array.view(pa.int32() if pa.types.is_date32(kind) else pa.int64())
    endless = pc.is_in(numbers, pa.array([infinite, -infinite], numbers.type))
    finite = pc.if_else(endless, pa.scalar(None, kind), numbers.view(kind))
    per_day = PER_DAY[kind.unit] if isinstance(kind, pa.TimestampType) else 1
    found: list[object] = []
    for text, number in zip(finite.cast(pa.string()).to_pylist(), numbers.to_pylist(), strict=True):
        if number in (infinite, -infinite):
            found.append("infinity" if number == infinite else "-infinity")
        elif text is None:
            found.append(None)
        else:
            near = _far(int(number or 0), per_day) if text.startswith(FAR) else text
            found.append(_without_zeros(near.replace(" ", "T"), zone))
    return found


def _far(number: int, per_day: int) -> str:
    """An instant whose year Arrow does not write: that of its day in the first cycle after 1970, and the cycles."""
    days, part = divmod(number, per_day)
    cycles, day = divmod(days, CYCLE_DAYS)
    near = datetime(1970, 1, 1) + timedelta(days=day, microseconds=part * PER_DAY["us"] // per_day)
    text = near.isoformat(" ") if per_day > 1 else near.date().isoformat()
    return f"{near.year + CYCLE_YEARS * cycles}{text[4:]}"


def _without_zeros(text: str | None, zone: str = "") -> str | None:
    """Drop a fraction that is zero, and add the zone: 12:00:00.000000 -> 12:00:00."""
    if text is None:
        return None
    return (text.rstrip("0").rstrip(".") if "." in text else text) + zone


def _duration(months: int, days: int, nanoseconds: int) -> str:
    """An ISO 8601 duration; its parts may be negative and do not convert into each other."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    seconds, fraction = divmod(rest, NANOSECONDS)
    decimals = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"P{months}M{days}DT{sign}{seconds}{decimals}S"


def _csv_column(array: "pa.Array[Any]") -> "pa.Array[Any]":
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_null(kind):
        return array
    return _text_column(array)


def _text_column(array: "pa.Array[Any]") -> "pa.Array[Any]":
    values = plain(array)
    texts = [value if value is None or isinstance(value, str) else orjson.dumps(value).decode() for value in values]
    return pa.array(texts, pa.string())


def _with_metadata(answer: Answer) -> pa.Table:
    metadata = {
        "query_id": str(answer.query_id),
        "truncated": "true" if answer.truncated else "false",
        "types": orjson.dumps([column.type for column in answer.columns]).decode(),
        "snapshot": snapshot_json(answer).decode(),
    }
    if answer.location is not None:
        metadata |= {"location": answer.location, "result": result_route(answer)}
    return answer.table.replace_schema_metadata(metadata)
