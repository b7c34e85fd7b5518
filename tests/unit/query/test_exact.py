"""Values that Arrow cannot carry, made by the engine itself."""

from typing import Any

import duckdb
import pyarrow as pa
import pytest

from query import exact

LONGEST = 2**63 // 1000  # microseconds


def column(expression: str) -> Any:
    return duckdb.connect().execute(f"select unnest({expression}) as v").to_arrow_table().column("v").combine_chunks()


@pytest.mark.parametrize(
    "expression",
    [
        f"[to_microseconds({LONGEST}), null, to_microseconds(-{LONGEST}), interval '900 years 3 days']",
        "[to_hours(2), to_hours(-2)]",
        f"[{{'i': [to_microseconds({LONGEST})]}}, null]",
        f"[map {{to_days(1): to_microseconds({LONGEST})}}]",
        f"[union_value(i := to_microseconds({LONGEST}))]",
        "['a'::enum('a')]",
        "[[1], null]",
        "[time '23:59:59.999999']",
        "[]::interval[]",
        "[]::map(int, interval)[]",
        "[null::map(int, interval)]",
    ],
)
def test_what_fits_is_let_through(expression: str) -> None:
    exact.validate(column(expression))


@pytest.mark.parametrize("micros", [LONGEST + 1, -LONGEST - 1, 2 * LONGEST, 9 * LONGEST, 126 * LONGEST])
@pytest.mark.parametrize("shape", ["{}", "[{}]", "{{'a': 1, 'i': {}}}", "map {{1: {}}}", "union_value(i := {})"])
def test_interval_that_overflowed_is_seen(micros: int, shape: str) -> None:
    found = column(f"[{shape.format('to_days(1)')}, {shape.format(f'to_microseconds({micros})')}]")
    with pytest.raises(pa.ArrowInvalid):
        exact.validate(found)
    exact.validate(found.slice(0, 1))


@pytest.mark.parametrize(
    ("kind", "may"),
    [
        (pa.month_day_nano_interval(), True),
        (pa.decimal128(38), True),
        (pa.time64("us"), True),
        (pa.list_(pa.struct([pa.field("a", pa.int64()), pa.field("t", pa.time64("us"))])), True),
        (pa.dictionary(pa.int8(), pa.string()), False),
        (pa.list_(pa.int64()), False),
        (pa.timestamp("us"), False),
    ],
)
def test_only_some_types_have_to_be_looked_at(kind: pa.DataType, may: bool) -> None:
    assert exact.may_overflow(kind) is may
