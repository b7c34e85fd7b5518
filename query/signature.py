"""Signatures of events and functions: their types, and how one word of each is shown in JSON. Pure.

Source: Solidity's contract ABI specification. Whoever asks writes them, so their size and depth are capped.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from eth_hash.auto import keccak

WORD: Final = 32
ADDRESS: Final = 20
SELECTOR: Final = 4
BYTE: Final = 8
BEFORE_ADDRESS: Final = bytes(WORD - ADDRESS)
MAX_SIGNATURE: Final = 4096  # characters; the longest verified ones stay below 1,500
MAX_DEPTH: Final = 8
MAX_HEAD: Final = 1024**2  # bytes of a static type: `uint256[9999][9999]` is a mistake

TOKEN: Final = re.compile(r"\s*([A-Za-z_$][A-Za-z0-9_$]{0,127}|[(),;]|\[[0-9]{0,4}\])")
INTEGER: Final = re.compile(r"(u?)int([1-9][0-9]{0,2})")
FIXED: Final = re.compile(r"bytes([1-9][0-9]?)")
NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
ALIASES: Final = {"uint": "uint256", "int": "int256", "function": "bytes24"}
PLACES: Final = frozenset({"memory", "calldata", "storage", "payable"})  # written in sources, no part of the ABI

Show = Callable[[bytes], str]


class BadSignature(ValueError):
    """The text is no signature of an event or a function."""


class Malformed(Exception):
    """The data does not encode these types."""


@dataclass(frozen=True, slots=True)
class Word:
    """A value of one word. `show` turns it into JSON, or raises Malformed."""

    text: str
    show: Show
    size: int = WORD
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """`bytes` or `string`."""

    text: str
    size: int = WORD
    dynamic: bool = True


@dataclass(frozen=True, slots=True)
class Array:
    """Items of one type; `length` is None where the data says it. `size` counts the bytes in the head."""

    text: str
    item: "Type"
    length: int | None
    size: int
    dynamic: bool


@dataclass(frozen=True, slots=True)
class Tuple:
    """A struct, or all the values of a call."""

    text: str
    parameters: tuple["Parameter", ...]
    size: int
    dynamic: bool


Type = Word | Blob | Array | Tuple


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value of a signature; `key` is its name in JSON with what stands around it."""

    name: str
    type: Type
    indexed: bool

    @property
    def key(self) -> str:
        return f'"{self.name}":'


# --- signatures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """An event or a function: its canonical text, and its hash."""

    text: str
    parameters: tuple[Parameter, ...]
    hash: bytes

    @property
    def selector(self) -> bytes:
        return self.hash[:SELECTOR]


@lru_cache(maxsize=256)
def signature(text: str) -> Signature:
    """Read `Name(type [indexed] [name], ...)`, with or without `event` or `function` in front.

    Raises:
        BadSignature: it is none, or larger than any contract's.
    """
    reader = _Tokens(text)
    name = reader.name()
    if name in {"event", "function"} and reader.peek() != "(":
        name = reader.name()
    whole = reader.parameters(depth=0)
    if reader.peek() == ";":
        reader.take()
    if reader.peek():
        raise BadSignature("more text")
    canonical = name + whole.text
    return Signature(canonical, whole.parameters, keccak(canonical.encode()))


class _Tokens:
    """The tokens of a signature, read from left to right."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_SIGNATURE:
            raise BadSignature("too long")
        text = text.rstrip()
        self._tokens: list[str] = []
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None:
                raise BadSignature("unknown character")
            self._tokens.append(found[1])
            at = found.end()
        self._tokens.reverse()

    def peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def take(self) -> str:
        return self._tokens.pop() if self._tokens else ""

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise BadSignature("a parenthesis or a comma is missing")

    def name(self) -> str:
        token = self.take()
        if not NAME.fullmatch(token):
            raise BadSignature("a name is missing")
        return token

    def parameters(self, *, depth: int) -> Tuple:
        """Read a list of parameters in parentheses."""
        if depth > MAX_DEPTH:
            raise BadSignature("too deep")
        self.expect("(")
        found: list[Parameter] = []
        while self.peek() != ")":
            if found:
                self.expect(",")
            found.append(self._parameter(depth, position=len(found)))
        self.take()
        if depth and not found:
            raise BadSignature("an empty tuple")
        if len({parameter.name for parameter in found}) < len(found):
            raise BadSignature("a name stands twice")
        types = [parameter.type for parameter in found]
        text = "(" + ",".join(kind.text for kind in types) + ")"
        return Tuple(
            text, tuple(found), _sized(sum(head_size(kind) for kind in types)), any(kind.dynamic for kind in types)
        )

    def _parameter(self, depth: int, *, position: int) -> Parameter:
        kind = self._type(depth)
        indexed = False
        name = ""
        while NAME.fullmatch(self.peek()):
            word = self.take()
            if word == "indexed" and not indexed and not name and depth == 0:
                indexed = True
            elif not name and word not in PLACES:
                name = word
            elif name or word not in PLACES:
                raise BadSignature("two names for one parameter")
        return Parameter(name or f"arg{position}", kind, indexed)

    def _type(self, depth: int) -> Type:
        if self.peek() == "tuple":
            self.take()
        kind = self.parameters(depth=depth + 1) if self.peek() == "(" else _elementary(self.name())
        for _ in range(MAX_DEPTH):
            if not self.peek().startswith("["):
                return kind
            kind = _array(kind, self.take()[1:-1])
        raise BadSignature("too deep")


def _array(item: Type, length: str) -> Array:
    count = int(length) if length else None
    if count == 0:
        raise BadSignature("an array of nothing")
    text = f"{item.text}[{'' if count is None else count}]"
    if count is None or item.dynamic:
        return Array(text, item, count, WORD, dynamic=True)
    return Array(text, item, count, _sized(count * head_size(item)), dynamic=False)


def head_size(kind: Type) -> int:
    """Return how many bytes a value takes where it stands: a dynamic one leaves a pointer."""
    return WORD if kind.dynamic else kind.size


def _sized(size: int) -> int:
    if size > MAX_HEAD:
        raise BadSignature("too large")
    return size


# --- words --------------------------------------------------------------------------------------------------------


def _elementary(name: str) -> Word | Blob:
    text = ALIASES.get(name, name)
    if text in {"bytes", "string"}:
        return Blob(text)
    if text == "address":
        return Word(text, _address)
    if text == "bool":
        return Word(text, _bool)
    if found := INTEGER.fullmatch(text):
        bits = int(found[2])
        if bits % BYTE == 0 and bits <= WORD * BYTE:
            return Word(text, _unsigned(bits) if found[1] else _signed(bits))
    elif (found := FIXED.fullmatch(text)) and int(found[1]) <= WORD:
        return Word(text, _bytes(int(found[1])))
    raise BadSignature("an unknown type")


def hexadecimal(value: bytes) -> str:
    return f'"0x{value.hex()}"'


def _address(word: bytes) -> str:
    if word[:-ADDRESS] != BEFORE_ADDRESS:
        raise Malformed
    return f'"0x{word[-ADDRESS:].hex()}"'


def _bool(word: bytes) -> str:
    value = int.from_bytes(word)
    if value > 1:
        raise Malformed
    return "true" if value else "false"


def _unsigned(bits: int) -> Show:
    def show(word: bytes) -> str:
        value = int.from_bytes(word)
        if value >> bits:
            raise Malformed
        return f'"{value}"'

    return show


def _signed(bits: int) -> Show:
    limit = 1 << (bits - 1)

    def show(word: bytes) -> str:
        value = int.from_bytes(word, signed=True)
        if not -limit <= value < limit:
            raise Malformed
        return f'"{value}"'

    return show


def _bytes(length: int) -> Show:
    def show(word: bytes) -> str:
        if any(word[length:]):
            raise Malformed
        return f'"0x{word[:length].hex()}"'

    return show
