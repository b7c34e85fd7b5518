"""Logs and calldata as JSON, against another implementation of the ABI and against hostile data."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from hypothesis import given, settings
from hypothesis import strategies as st

from query import abi
from query.abi import decode_event, decode_input

TRANSFER = "Transfer(address indexed from, address indexed to, uint256 value)"
ALICE, BOB = bytes(12) + b"a" * 20, bytes(12) + b"b" * 20


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def shown(value: object) -> object:
    """What the other implementation decodes, as our JSON writes it."""
    match value:
        case bool():
            return value
        case int():
            return str(value)
        case bytes():
            return "0x" + value.hex()
        case tuple() | list():
            return [shown(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def flat(value: object) -> object:
    """Our JSON without names."""
    match value:
        case dict():
            return [flat(item) for item in value.values()]
        case list():
            return [flat(item) for item in value]
        case _:
            return value


# --- types and values of them -------------------------------------------------------------------------------------

WORDS = st.sampled_from(["address", "bool", "uint8", "uint24", "uint256", "int8", "int128", "int256", "bytes1",
                         "bytes20", "bytes32"])  # fmt: skip
LEAVES = WORDS | st.sampled_from(["bytes", "string"])


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arrays = st.tuples(inner, st.sampled_from(["[]", "[1]", "[3]"])).map("".join)
    tuples = st.lists(inner, min_size=1, max_size=3).map(lambda types: f"({','.join(types)})")
    return arrays | tuples


TYPES = st.recursive(LEAVES, wider, max_leaves=5)


def values(kind: str) -> st.SearchStrategy[Any]:
    if kind.endswith("]"):
        item, _, length = kind[:-1].rpartition("[")
        sizes = (int(length), int(length)) if length else (0, 3)
        return st.lists(values(item), min_size=sizes[0], max_size=sizes[1])
    if kind.startswith("("):
        return st.tuples(*[values(part) for part in split(kind[1:-1])])
    if kind.startswith("uint"):
        return st.integers(0, 2 ** int(kind[4:]) - 1)
    if kind.startswith("int"):
        limit = 2 ** (int(kind[3:]) - 1)
        return st.integers(-limit, limit - 1)
    if kind == "address":
        return st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
    if kind == "bool":
        return st.booleans()
    if kind == "string":
        return st.text(max_size=40)
    size = int(kind[5:] or 0)
    return st.binary(min_size=size, max_size=size or 40)


def split(types: str) -> list[str]:
    """Split at the commas that stand in no parentheses."""
    parts, depth = [""], 0
    for letter in types:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


CALLS = st.lists(TYPES, min_size=1, max_size=4).flatmap(
    lambda types: st.tuples(st.just(types), st.tuples(*[values(kind) for kind in types]))
)


@given(CALLS)
@settings(max_examples=300)
def test_calldata_is_decoded_as_by_another_implementation(call: tuple[list[str], Sequence[Any]]) -> None:
    types, arguments = call
    encoded = encode(types, arguments)
    found = decode_input(f"f({','.join(types)})", b"\0\0\0\0" + encoded)
    assert found is not None
    assert flat(json.loads(found)) == shown(decode(types, encoded))


@given(CALLS)
@settings(max_examples=150)
def test_data_of_logs_is_decoded_as_calldata_is(call: tuple[list[str], Sequence[Any]]) -> None:
    types, arguments = call
    encoded = encode(types, arguments)
    assert decode_event(f"E({','.join(types)})", (None, None, None), encoded) == decode_input(
        f"f({','.join(types)})", b"\0\0\0\0" + encoded
    )


@given(CALLS, st.data())
@settings(max_examples=300)
def test_damaged_data_gives_the_same_values_or_none(call: tuple[list[str], Sequence[Any]], data: st.DataObject) -> None:
    """Whatever the strict implementation still takes must read the same here."""
    types, arguments = call
    damaged = bytearray(encode(types, arguments))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
    found = decode_input(f"f({','.join(types)})", b"\0\0\0\0" + bytes(damaged))
    try:
        wanted = shown(decode(types, bytes(damaged)))
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return
    assert found is not None
    assert flat(json.loads(found)) == wanted


# --- events -------------------------------------------------------------------------------------------------------


def test_parameters_keep_their_names_and_their_order() -> None:
    found = decode_event("E(uint8 a, address indexed b, bytes c, bool d)", (BOB, None, None),
                         encode(["uint8", "bytes", "bool"], [7, b"xyz", True]))  # fmt: skip
    assert found == '{"a":"7","b":"0x' + "62" * 20 + '","c":"0x78797a","d":true}'


def test_tuples_are_objects_by_the_names_of_their_parts() -> None:
    found = decode_event("E((address token, uint256)[] orders)", (None, None, None),
                         encode(["(address,uint256)[]"], [[("0x" + "61" * 20, 5)]]))  # fmt: skip
    assert found == '{"orders":[{"token":"0x' + "61" * 20 + '","arg1":"5"}]}'


@pytest.mark.parametrize("kind", ["string", "bytes", "uint256[]", "uint8[2]", "(uint8,uint8)"])
def test_indexed_values_larger_than_a_word_are_their_hash(kind: str) -> None:
    assert decode_event(f"E({kind} indexed s)", (word(5), None, None), None) == '{"s":"0x' + word(5).hex() + '"}'


@pytest.mark.parametrize(
    "topics",
    [(None, None, None), (ALICE, None, None), (None, ALICE, BOB), (ALICE, BOB, word(1)), (ALICE, None, BOB),
     (ALICE, BOB[1:], None), (ALICE, b"", None), (word(2**160), BOB, None)],
)  # fmt: skip
def test_topics_that_do_not_fit_the_signature_give_none(topics: tuple[bytes | None, ...]) -> None:
    assert decode_event(TRANSFER, topics, word(1)) is None
    assert decode_event(TRANSFER, (ALICE, BOB, None), word(1)) is not None


@pytest.mark.parametrize("data", [None, b"", bytes(31)])
def test_data_that_is_too_short_gives_none(data: bytes | None) -> None:
    assert decode_event(TRANSFER, (ALICE, BOB, None), data) is None


def test_data_behind_the_last_value_is_ignored() -> None:
    assert decode_event(TRANSFER, (ALICE, BOB, None), word(1) + b"more") == decode_event(
        TRANSFER, (ALICE, BOB, None), word(1)
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [("bool", word(2)), ("uint8", word(256)), ("int8", word(128)), ("bytes4", b"abcde" + bytes(27)),
     ("address", word(2**160)), ("string", word(32) + word(5) + b"abc"), ("bytes[]", word(32) + word(2**255)),
     ("string", word(2**255)), ("uint8[3]", word(1))],
)  # fmt: skip
def test_words_out_of_their_range_and_false_pointers_give_none(kind: str, content: bytes) -> None:
    assert decode_event(f"E({kind})", (None, None, None), content) is None
    assert decode_input(f"f({kind})", bytes(4) + content) is None


def test_texts_that_are_no_utf8_are_marked() -> None:
    content = word(32) + word(4) + b'\xff"\x00a'
    assert decode_event("E(string s)", (None, None, None), content) == '{"s":"�\\"\\u0000a"}'


def test_values_without_padding_are_read() -> None:
    """As Solidity does; old contracts emit them."""
    assert decode_event("E(bytes b)", (None, None, None), word(32) + word(3) + b"abc") == '{"b":"0x616263"}'


@pytest.mark.parametrize("size", [0, 3])
def test_calldata_without_a_selector_gives_none(size: int) -> None:
    assert decode_input("f()", bytes(size)) is None
    assert decode_input("f()", bytes(4)) == "{}"


def test_data_above_its_cap_gives_none() -> None:
    assert decode_input("f()", bytes(abi.MAX_DATA)) == "{}"
    assert decode_input("f()", bytes(abi.MAX_DATA + 1)) is None
    assert decode_event("E()", (None, None, None), bytes(abi.MAX_DATA + 1)) is None


# --- bombs --------------------------------------------------------------------------------------------------------


def bomb(fan: int, payload: int) -> bytes:
    """`bytes[][]` whose pointers all lead to one place: fan^2 copies of the payload."""
    inner = word(fan) + word(32 * fan) * fan + word(payload) + bytes(payload)
    return word(32) + word(fan) + word(32 * fan) * fan + inner


def test_shared_pointers_do_not_multiply_data() -> None:
    small, large = bomb(2, 32), bomb(500, 100_000)
    assert decode_input("f(bytes[][] x)", bytes(4) + small) is not None
    assert flat(json.loads(decode_input("f(bytes[][] x)", bytes(4) + small) or "")) == shown(
        decode(["bytes[][]"], small)
    )
    started = time.process_time()
    assert decode_input("f(bytes[][] x)", bytes(4) + large) is None  # it would be 25 GB
    assert time.process_time() - started < 0.5
    assert decode_input("f(bytes[][] x)", bytes(4) + bomb(40, 320)) is None  # 0.5 MB out of 3 KB


def test_a_pointer_to_itself_ends() -> None:
    deep = "uint8" + "[]" * 7
    assert decode_input(f"f({deep} x)", bytes(4) + word(0) * 100) is not None
    assert decode_input(f"f({deep} x)", bytes(4) + (word(32) + word(50)) * 500) is None


def test_a_false_count_is_not_believed() -> None:
    started = time.process_time()
    assert decode_input("f(uint8[] x)", bytes(4) + word(32) + word(2**64)) is None
    assert time.process_time() - started < 0.5
