"""Lists on their way to `unnest`, packed into Postgres' binary array format at once: a tick sends thousands of values.

A packed array is bound with `%(name)b` and takes its type from the cast of the parameter, which must name the same
element type: the server checks it. Lists without NULL only.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

BYTEA: Final = 17
INT8: Final = 20
INT4: Final = 23
TEXT: Final = 25
UUID_: Final = 2950
JSONB: Final = 3802

HEAD: Final = struct.Struct("!iiIii")  # dimensions, whether NULLs occur, type of the elements, how many, first index
EMPTY: Final = struct.Struct("!iiI")
SIZE: Final = struct.Struct("!i")


class Packed(bytes):
    """One array as Postgres receives it."""


class _PackedDumper(Dumper):
    format = Format.BINARY
    oid = 0  # left to the cast in the statement

    def dump(self, obj: Packed) -> Buffer | None:
        return obj


def register(adapters: AdaptersMap) -> None:
    """Let connections with these adapters bind packed arrays."""
    adapters.register_dumper(Packed, _PackedDumper)


def uuids(values: Iterable[UUID]) -> Packed:
    return _fixed(UUID_, 16, [value.bytes for value in values])


def bigints(values: Sequence[int]) -> Packed:
    return _numbers(INT8, "q", 8, values)


def ints(values: Sequence[int]) -> Packed:
    return _numbers(INT4, "i", 4, values)


def texts(values: Iterable[str]) -> Packed:
    return _varying(TEXT, [value.encode() for value in values])


def blobs(values: Iterable[bytes]) -> Packed:
    return _varying(BYTEA, list(values))


def documents(values: Iterable[bytes]) -> Packed:
    """Pack JSON texts as `jsonb[]`."""
    return _varying(JSONB, [b"\1" + value for value in values])  # 1 is the version of the format


def _head(element: int, count: int) -> bytes:
    return HEAD.pack(1, 0, element, count, 1) if count else EMPTY.pack(0, 0, element)


def _fixed(element: int, size: int, values: Sequence[bytes]) -> Packed:
    each = SIZE.pack(size)
    return Packed(_head(element, len(values)) + (each + each.join(values) if values else b""))


def _numbers(element: int, code: str, size: int, values: Sequence[int]) -> Packed:
    pairs = [number for value in values for number in (size, value)]
    return Packed(_head(element, len(values)) + struct.pack("!" + f"i{code}" * len(values), *pairs))


def _varying(element: int, values: Sequence[bytes]) -> Packed:
    pack = SIZE.pack
    return Packed(
        _head(element, len(values)) + b"".join([part for value in values for part in (pack(len(value)), value)])
    )
