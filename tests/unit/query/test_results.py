"""An answer in each format: exact values, nothing lost."""

import io
import json
from dataclasses import replace
from uuid import UUID

import duckdb
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from query import results
from query.question import Answer, Column, SnapshotEntry
from trace_ray.contracts import BlockRange

QUERY = UUID("00000000-0000-4000-8000-000000000001")


def answer(sql: str, *, truncated: bool = False) -> Answer:
    """The answer that a statement of the real engine gives."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    found = connection.execute(sql)
    columns = tuple(Column(str(entry[0]), str(entry[1])) for entry in found.description)
    table = found.to_arrow_reader(2).read_all()
    snapshot = (SnapshotEntry("devnet_blocks", 3, 0, 60, (BlockRange(10, 20),)),)
    return Answer(QUERY, columns, table, truncated, snapshot, 1, 2, 0.5)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("'\\x00\\xFF'::blob", "0x00ff"),
        ("''::blob", "0x"),
        ("null::blob", None),
        ("9007199254740993::bigint", 9007199254740993),
        ("18446744073709551615::ubigint", 18446744073709551615),
        ("12345678901234567890123::hugeint", "12345678901234567890123"),
        ("-1::hugeint", "-1"),
        ("1.10::decimal(10, 2)", "1.10"),
        ("0.0000000001::decimal(38, 10)", "0.0000000001"),
        ("1.5::double", 1.5),
        ("'nan'::double", "NaN"),
        ("'-inf'::double", "-Infinity"),
        ("true", True),
        ("date '2024-02-29'", "2024-02-29"),
        ("date 'infinity'", "infinity"),
        ("timestamp '2024-01-01 10:00:00'", "2024-01-01T10:00:00"),
        ("timestamp '2024-01-01 10:00:00.120'", "2024-01-01T10:00:00.12"),
        ("timestamp '-infinity'", "-infinity"),
        ("timestamp_ns '2024-01-01 10:00:00.123456789'", "2024-01-01T10:00:00.123456789"),
        ("timestamp_s '2024-01-01 10:00:00'", "2024-01-01T10:00:00"),
        ("timestamptz '2024-01-01 10:00:00+02'", "2024-01-01T08:00:00Z"),
        ("timestamp '12345-01-01 00:00:00'", "12345-01-01T00:00:00"),
        ("timestamp '290000-12-31 23:59:59.999999'", "290000-12-31T23:59:59.999999"),
        ("timestamp_s '290000-01-01 00:00:01'", "290000-01-01T00:00:01"),
        ("timestamptz '32768-02-29 12:00:00+02'", "32768-02-29T10:00:00Z"),
        ("date '5881580-07-10'", "5881580-07-10"),
        ("date '5877642-06-25 (BC)'", "-5877641-06-25"),
        ("[date '32767-12-31', null, date '32767-12-31' + 1]", ["32767-12-31", None, "32768-01-01"]),
        ("time '10:00:00.5'", "10:00:00.5"),
        ("interval '1 month 2 days 3.5 s'", "P1M2DT3.5S"),
        ("interval '-3.5 s'", "P0M0DT-3.5S"),
        ("'a'::enum('a', 'b')", "a"),
        ("[1, null]::hugeint[]", ["1", None]),
        ("[]::int[]", []),
        ("null::int[]", None),
        ("[[unhex('ab')], null]", [["0xab"], None]),
        ("[1, 2]::int[2]", [1, 2]),
        ("{'a': 1::hugeint, 'b': {'c': unhex('00')}}", {"a": "1", "b": {"c": "0x00"}}),
        ("null::struct(a int)", None),
        ("row(1, 'x')", [1, "x"]),
        ("map {'k': 1::hugeint}", [{"key": "k", "value": "1"}]),
        ("union_value(a := 1)", 1),
        ("'{\"a\": 1}'::json", '{"a": 1}'),
        *((f"null::{kind}", None) for kind in ("decimal(5, 2)", "double", "date", "timestamp", "time", "interval")),
        ("uuid '00000000-0000-4000-8000-000000000002'", "00000000-0000-4000-8000-000000000002"),
    ],
)
def test_json_value_is_exact(expression: str, wanted: object) -> None:
    found = json.loads(results.to_json(answer(f"select {expression} as v")))
    assert found["rows"] == [[wanted]]


def test_nested_values_keep_their_rows_apart() -> None:
    """Several chunks, slices and NULLs between the lists."""
    lists = "list_transform(range(n), lambda x: {'h': x::hugeint})"
    sql = f"select case when n % 3 = 0 then null else {lists} end from range(7) t(n)"
    found = json.loads(results.to_json(answer(sql)))
    assert found["rows"] == [[None if n % 3 == 0 else [{"h": str(x)} for x in range(n)]] for n in range(7)]


def test_json_answer_has_the_fields_of_the_api() -> None:
    found = json.loads(results.to_json(answer("select 1 as a, 2::hugeint as b", truncated=True)))
    assert found == {
        "columns": [{"name": "a", "type": "INTEGER"}, {"name": "b", "type": "HUGEINT"}],
        "rows": [[1, "2"]],
        "truncated": True,
        "query_id": str(QUERY),
        "snapshot": [{"name": "devnet_blocks", "snapshot": 3, "from_block": 0, "to_block": 60, "gaps": [[10, 20]]}],
    }


def test_json_answer_keeps_every_row_where_pieces_meet() -> None:
    for rows in (results.AT_ONCE - 1, results.AT_ONCE, 2 * results.AT_ONCE + 1):
        found = json.loads(results.to_json(answer(f"select range, 'x' from range({rows})")))
        assert found["rows"] == [[number, "x"] for number in range(rows)]


def test_answer_without_rows_keeps_its_columns() -> None:
    empty = answer("select 1 as a, [1] as b, unhex('00') as c where false")
    assert json.loads(results.to_json(empty))["rows"] == []
    assert results.to_ndjson(empty) == b""
    assert results.to_csv(empty) == b'"a","b","c"\n'
    assert pa.ipc.open_stream(results.to_arrow(empty)).read_all().num_rows == 0
    assert pq.read_table(io.BytesIO(results.to_parquet(empty))).column_names == ["a", "b", "c"]


def test_ndjson_loses_no_column_of_equal_name() -> None:
    found = results.to_ndjson(answer("select 1 as a, 2 as a, 3 as a_1")).decode().splitlines()
    assert [json.loads(line) for line in found] == [{"a": 1, "a_2": 2, "a_1": 3}]


def test_csv_reads_back() -> None:
    sql = (
        "select unhex('00ff') as b, 1.10::decimal(5, 2) as d, 'a,\"b\"' as t, null as n, [1, 2] as l, "
        "timestamp '2024-01-01' as at"
    )
    found = pa_csv.read_csv(io.BytesIO(results.to_csv(answer(sql))), convert_options=pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in "bdtnl"} | {"at": pa.string()}))  # fmt: skip
    assert found.to_pylist() == [
        {"b": "0x00ff", "d": "1.10", "t": 'a,"b"', "n": "", "l": "[1,2]", "at": "2024-01-01T00:00:00"}
    ]


def test_arrow_says_what_its_rows_cannot() -> None:
    found = pa.ipc.open_stream(
        results.to_arrow(answer("select 1::hugeint as h, unhex('00') as b", truncated=True))
    ).read_all()
    assert found.schema.metadata.pop(b"snapshot").startswith(b'[{"name":"devnet_blocks",')
    assert {b"query_id": str(QUERY).encode(), b"truncated": b"true", b"types": b'["HUGEINT","BLOB"]'}.items() <= (
        found.schema.metadata.items()
    )
    assert found.column("b").to_pylist() == [b"\x00"]


def test_parquet_takes_every_type_that_an_answer_can_have() -> None:
    sql = (
        "select interval '1 day' as i, union_value(a := 1) as u, 'a'::enum('a') as e, map {'a': 1} as m, "
        "unhex('00') as b, 1::hugeint as h"
    )
    found = pq.read_table(io.BytesIO(results.to_parquet(answer(sql))))
    assert found.column("i").to_pylist() == ["P0M1DT0S"]
    assert found.column("b").to_pylist() == [b"\x00"]
    assert [str(value) for value in found.column("h").to_pylist()] == ["1"]


def test_a_stored_answer_says_where_it_is() -> None:
    stored = replace(answer("select 1 as one"), location="s3://bucket/results/o/q/x.parquet")

    said = orjson.loads(results.to_json(stored))
    metadata = pa.ipc.open_stream(results.to_arrow(stored)).schema.metadata

    assert (said["location"], said["result"]) == (stored.location, f"/v1/queries/{QUERY}/result")
    assert (metadata[b"location"].decode(), metadata[b"result"].decode()) == (said["location"], said["result"])
