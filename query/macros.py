"""Functions that users of chain data expect, in every question: hexadecimal, 256-bit numbers, wei, Keccak-256, ABI.

Macros of the engine where it can do the work, and functions in Python behind them where it cannot. A macro of bytes
names that type, so that the text '0xab' is not read as the four bytes it is made of. None has several forms: the
engine cannot choose between them where an argument holds an aggregate. What the chain holds and has the wrong size
gives NULL; what the asker wrote and is wrong is an error (`query.failures`).

A question can give these functions anything. They run under its deadline and its memory, and each value is capped.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType
from duckdb.sqltypes import BLOB, INTEGER, VARCHAR, DuckDBPyType
from eth_hash.auto import keccak

from query import abi, words
from query.signature import signature

MAX_HASHED: Final = 4 * 1024**2  # bytes; more than any code or calldata
NEEDED: Final = ("numpy", "concurrent.futures", "json")  # by the engine to call Python
ABSENT: Final = ("pandas", "pyarrow.dataset")  # 0.3 s and 60 MB, for frames that no question gives to a function


class Values(Protocol):
    """One column of some rows, as the engine hands it over; a class of pyarrow, whose stubs do not fit it."""

    def to_pylist(self) -> list[Any]: ...


Columns = Callable[..., Any]

MACROS: Final = """
create temp macro hex_to_blob(digits varchar) as unhex(
    -- an odd number of digits gets one that is none: the engine would put a zero in front
    regexp_replace(digits, '^0[xX]', '') || case when length(digits) % 2 = 1 then '?' else '' end);
create temp macro blob_to_hex(bytes blob) as '0x' || lower(hex(bytes));

create temp macro topic_to_address(topic blob) as
    case when octet_length(topic) = 32 and array_slice(topic, 1, 12) = unhex(repeat('00', 12))
         then array_slice(topic, 13, 32) end;
create temp macro address_to_topic(address blob) as
    case when octet_length(address) = 20 then unhex(repeat('00', 12)) || address end;
create temp macro to_checksum_address(address blob) as _checksum_address(address);

create temp macro u256_to_string(word blob) as _u256_to_string(word);
create temp macro u256_to_double(word blob) as _u256_to_string(word)::double;
create temp macro u256_to_hugeint(word blob) as _u256_to_string(word)::hugeint;
create temp macro u256_sum(word blob) as sum(_u256_to_string(word)::bignum)::varchar;
create temp macro to_u256(number) as _to_u256(number::varchar);
create temp macro i256_to_string(word blob) as _i256_to_string(word);
create temp macro i256_to_double(word blob) as _i256_to_string(word)::double;
create temp macro i256_to_hugeint(word blob) as _i256_to_string(word)::hugeint;
create temp macro i256_sum(word blob) as sum(_i256_to_string(word)::bignum)::varchar;
create temp macro to_i256(number) as _to_i256(number::varchar);

-- the engine divides DECIMAL into DOUBLE; these keep every digit
create temp macro wei_to_ether(wei) as (wei::hugeint // 1000000000000000000)::decimal(38, 18)
    + (wei::hugeint % 1000000000000000000)::decimal(18, 0) * 0.000000000000000001;
create temp macro wei_to_gwei(wei) as (wei::hugeint // 1000000000)::decimal(38, 9)
    + (wei::hugeint % 1000000000)::decimal(9, 0) * 0.000000001;
create temp macro ether_to_wei(ether) as _parse_units(ether::varchar, 18)::hugeint;
create temp macro format_units(number, decimals) as _format_units(number::varchar, decimals::integer);
create temp macro parse_units(number, decimals) as _parse_units(number::varchar, decimals::integer);

create temp macro keccak256(bytes blob) as _keccak256(bytes);
create temp macro event_topic(signature varchar) as _event_topic(signature);
create temp macro function_selector(signature varchar) as _function_selector(signature);
create temp macro decode_event(
    signature varchar, topic0 blob, topic1 blob, topic2 blob, topic3 blob, data blob
) as case when topic0 = _event_topic(signature) then _decode_event(signature, topic1, topic2, topic3, data) end;
create temp macro decode_input(signature varchar, input blob) as
    case when array_slice(input, 1, 4) = _function_selector(signature) then _decode_input(signature, input) end;
"""


class TooLong(ValueError):
    """A value is above the cap of its function."""


def prepare() -> None:
    """Load what the engine and these functions load late, since a confined process can no longer read it."""
    for name in NEEDED:
        import_module(name)
    for name in ABSENT:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType] - Python's own sign for: not to be imported
    with suppress(AttributeError):
        pa.array([])  # looks for pandas once, and stumbles over that sign
    keccak(b"")


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the functions to a connection, for as long as it lives. Works after its settings are locked."""
    for name, function, takes, gives in FUNCTIONS:
        connection.create_function(  # pyright: ignore[reportUnknownMemberType] - partial stub
            name,
            function,
            list(takes),
            gives,
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
            side_effects=False,
        )
    connection.execute(MACROS)


def hashed(content: bytes) -> bytes:
    if len(content) > MAX_HASHED:
        raise TooLong
    return keccak(content)


def topic(text: str) -> bytes:
    return signature(text).hash


def selector(text: str) -> bytes:
    return signature(text).selector


def _of_one(function: Callable[[bytes], object] | Callable[[str], object], gives: pa.DataType) -> Columns:
    """Return a function of one column; NULL stays NULL."""

    def column(values: Values) -> object:
        return pa.array([None if value is None else function(value) for value in values.to_pylist()], gives)

    return column


def _of_two(function: Callable[[str, int], str] | Callable[[str, bytes], str | None]) -> Columns:
    """Return a function of two columns; NULL in either is NULL."""

    def column(first: Values, second: Values) -> object:
        pairs = zip(first.to_pylist(), second.to_pylist(), strict=True)
        return pa.array([None if a is None or b is None else function(a, b) for a, b in pairs], pa.string())

    return column


def _decode_events(
    text: Values,
    topic1: Values,
    topic2: Values,
    topic3: Values,
    data: Values,
) -> object:
    topics = zip(topic1.to_pylist(), topic2.to_pylist(), topic3.to_pylist(), strict=True)
    rows = zip(text.to_pylist(), topics, data.to_pylist(), strict=True)
    return pa.array([abi.decode_event(*row) for row in rows], pa.string())


FUNCTIONS: Final[Sequence[tuple[str, Columns, tuple[DuckDBPyType, ...], DuckDBPyType]]] = (
    ("_keccak256", _of_one(hashed, pa.binary()), (BLOB,), BLOB),
    ("_checksum_address", _of_one(words.checksum_address, pa.string()), (BLOB,), VARCHAR),
    ("_u256_to_string", _of_one(words.unsigned, pa.string()), (BLOB,), VARCHAR),
    ("_i256_to_string", _of_one(words.signed, pa.string()), (BLOB,), VARCHAR),
    ("_to_u256", _of_one(words.to_unsigned, pa.binary()), (VARCHAR,), BLOB),
    ("_to_i256", _of_one(words.to_signed, pa.binary()), (VARCHAR,), BLOB),
    ("_format_units", _of_two(words.format_units), (VARCHAR, INTEGER), VARCHAR),
    ("_parse_units", _of_two(words.parse_units), (VARCHAR, INTEGER), VARCHAR),
    ("_event_topic", _of_one(topic, pa.binary()), (VARCHAR,), BLOB),
    ("_function_selector", _of_one(selector, pa.binary()), (VARCHAR,), BLOB),
    ("_decode_event", _decode_events, (VARCHAR, BLOB, BLOB, BLOB, BLOB), VARCHAR),
    ("_decode_input", _of_two(abi.decode_input), (VARCHAR, BLOB), VARCHAR),
)
