"""Which values Arrow cannot carry as the engine holds them. Pure.

Arrow's decimals have 38 digits and a HUGEINT has 39; its times end before 24:00:00; and its intervals count nanoseconds
in 64 bits, where the engine counts microseconds: beyond 292 years of them the engine multiplies without a look.
"""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

NANOSECONDS: Final = 1000  # of a microsecond: what was multiplied without overflow is a multiple of it
WORDS: Final = 2  # of 64 bits in an interval: months and days, then nanoseconds


def may_overflow(kind: pa.DataType) -> bool:
    """Say whether a type is or holds one of fewer values than the engine's."""
    if isinstance(kind, pa.DictionaryType):
        return False
    if pa.types.is_decimal(kind) or pa.types.is_time(kind) or pa.types.is_interval(kind):
        return True
    nested: Any = kind  # the stubs know the fields of each nested type by another name
    return any(may_overflow(nested.field(index).type) for index in range(kind.num_fields))


def validate(column: Any) -> None:
    """Raise ArrowInvalid for a value that is not the engine's."""
    column.validate(full=True)
    for intervals in _intervals(column):
        if not _multiplied(intervals):
            raise pa.ArrowInvalid("an interval is too long")


def _intervals(array: Any) -> list[Any]:
    """Return the intervals in an array, however deep."""
    kind = array.type
    if pa.types.is_interval(kind):
        return [array]
    if kind.num_fields == 0 or not may_overflow(kind):
        return []
    if pa.types.is_map(kind) and len(array):
        first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        inside = [entries.slice(first, last - first) for entries in (array.keys, array.items)]
    elif pa.types.is_map(kind):
        inside = []
    elif pa.types.is_union(kind):
        inside = [array.field(index) for index in range(kind.num_fields)]
    else:
        flat = array.flatten()
        inside = flat if pa.types.is_struct(kind) else [flat]
    return [found for one in inside for found in _intervals(one)]


def _multiplied(intervals: Any) -> bool:
    """Say whether all that is there is whole microseconds.

    Of 2**64 nanoseconds 616 are left over; so an overflow shows, unless it is one of a multiple of 125 turns: beyond
    73,000 years of microseconds, which no difference of two timestamps of this millennium comes near.
    """
    words = pa.Array.from_buffers(
        pa.int64(), WORDS * (intervals.offset + len(intervals)), [None, intervals.buffers()[1]]
    )
    nanoseconds: Any = words[WORDS * intervals.offset + 1 :: WORDS] if len(intervals) else words
    there = nanoseconds.filter(intervals.is_valid()) if len(intervals) else nanoseconds
    whole: Any = pc.multiply(pc.divide(there, NANOSECONDS), NANOSECONDS)
    return bool(whole.equals(there))
