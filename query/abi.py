"""What logs and calldata hold, as JSON text by their signature. Pure.

Data is judged as by Solidity's own decoder (ABI coder v2): a word out of its type's range is malformed, the padding of
dynamic values is not looked at, what follows the last value is ignored. Data is hostile: pointers may share their
target, so what is read in all is capped by the length of the data. (The library eth-abi, which does not cap it, made
0.9 GB of 29 KB as `bytes[][]`; 23 KB as `bytes[][][]` did not fit into 3 GiB.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson

from query.signature import (
    SELECTOR,
    WORD,
    Array,
    Blob,
    Malformed,
    Parameter,
    Show,
    Type,
    Word,
    head_size,
    hexadecimal,
    signature,
)

MAX_DATA: Final = 1024**2  # bytes of a log or of calldata; the largest of mainnet are a tenth of it
SHARED: Final = 4  # times that each byte may be read: hand-made encodings share tails, bombs do so by the thousand
SLACK: Final = 1024

# --- data ---------------------------------------------------------------------------------------------------------


class _Data:
    """The bytes of one call or log, and how many of them may still be read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.left = SHARED * len(content) + SLACK

    def take(self, at: int, size: int) -> bytes:
        self.left -= size
        if at + size > len(self.content) or self.left < 0:
            raise Malformed
        return self.content[at : at + size]

    def number(self, at: int) -> int:
        return int.from_bytes(self.take(at, WORD))


def _value(kind: Type, data: _Data, *, base: int, head: int) -> str:
    """Return a value as JSON; the pointer of a dynamic one counts from `base`."""
    at = base + data.number(head) if kind.dynamic else head
    if isinstance(kind, Word):
        return kind.show(data.take(at, WORD))
    if isinstance(kind, Blob):
        content = data.take(at + WORD, data.number(at))
        return hexadecimal(content) if kind.text == "bytes" else text_json(content)
    if isinstance(kind, Array):
        return _items(kind, data, at)
    return _members(kind.parameters, data, at)


def _items(kind: Array, data: _Data, at: int) -> str:
    count = kind.length
    if count is None:
        count, at = data.number(at), at + WORD
    size = head_size(kind.item)
    if at + count * size > len(data.content):  # a count is believed when its items can be there
        raise Malformed
    return "[" + ",".join(_value(kind.item, data, base=at, head=at + size * index) for index in range(count)) + "]"


def _members(parameters: Sequence[Parameter], data: _Data, base: int) -> str:
    shown: list[str] = []
    head = base
    for parameter in parameters:
        shown.append(parameter.key + _value(parameter.type, data, base=base, head=head))
        head += head_size(parameter.type)
    return "{" + ",".join(shown) + "}"


def text_json(content: bytes) -> str:
    """Return a text as JSON; what is no UTF-8 becomes U+FFFD."""
    return orjson.dumps(content.decode(errors="replace")).decode()


# --- logs and calldata --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Event:
    """Where the parameters of an event are. `words` are in topics or have one word in the data: (key, place, show),
    the topics counted first; `others` are read by their type: (position, key, type, head)."""

    indexed: int
    heads: tuple[int, ...]
    size: int
    words: tuple[tuple[str, int, Show], ...]
    others: tuple[tuple[int, str, Type, int], ...]


@lru_cache(maxsize=256)
def _event(text: str) -> _Event:
    parameters = signature(text).parameters
    indexed = sum(parameter.indexed for parameter in parameters)
    words: list[tuple[str, int, Show]] = []
    others: list[tuple[int, str, Type, int]] = []
    heads: list[int] = []
    head = topics = 0
    for position, parameter in enumerate(parameters):
        kind = parameter.type
        if parameter.indexed:
            words.append((parameter.key, topics, kind.show if isinstance(kind, Word) else hexadecimal))
            topics += 1
            continue
        if isinstance(kind, Word):
            words.append((parameter.key, indexed + len(heads), kind.show))
            heads.append(head)
        else:
            others.append((position, parameter.key, kind, head))
        head += head_size(kind)
    return _Event(indexed, tuple(heads), head, tuple(words), tuple(others))


def decode_event(text: str, topics: Sequence[bytes | None], data: bytes | None) -> str | None:
    """Return a log's parameters as a JSON object in the order of the signature, or None when it does not fit.

    Args:
        text: The signature. An indexed string, `bytes`, array or tuple is in the log as its hash only.
        topics: topic1 to topic3; the event's own hash is the caller's to compare.
    """
    event, content = _event(text), data or b""
    if not event.size <= len(content) <= MAX_DATA:
        return None
    given = [topic for topic in topics if topic is not None and len(topic) == WORD]
    if len(given) != event.indexed or None in topics[: event.indexed] or any(topics[event.indexed :]):
        return None
    words = given + [content[at : at + WORD] for at in event.heads]
    try:
        shown = [key + show(words[place]) for key, place, show in event.words]
        if event.others:
            reader = _Data(content)
            for position, key, kind, head in event.others:
                shown.insert(position, key + _value(kind, reader, base=0, head=head))
    except Malformed:
        return None
    return "{" + ",".join(shown) + "}"


def decode_input(text: str, calldata: bytes) -> str | None:
    """Return a call's arguments as a JSON object, or None when the calldata does not fit; the selector is skipped."""
    if not SELECTOR <= len(calldata) <= MAX_DATA:
        return None
    try:
        return _members(signature(text).parameters, _Data(calldata[SELECTOR:]), 0)
    except Malformed:
        return None
