"""The root of an ordered list, as block headers commit to transactions, receipts and withdrawals. Pure.

Own code beside the `trie` library, which stays the oracle of its property test: building the nodes of a complete list
once, bottom up, takes 0.2 ms for 20 items and 1.3 ms for 150, where inserting one item after another takes 1.2 ms and
12 ms. Every accepted block pays this price. Source of the format: Ethereum yellow paper, appendix D.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from eth_hash.auto import keccak

from trace_ray.extract.rlp import encode, number

Nibbles = tuple[int, ...]
Node = bytes | list["Node"]

EMPTY_ROOT: Final = keccak(encode(b""))
HASH_BYTES = 32  # a node with a shorter encoding stands inside its parent, any other is named by its hash


def ordered_root(values: Sequence[bytes]) -> bytes:
    """Return the root of the trie that maps the RLP of each index to the value at that index."""
    if not values:
        return EMPTY_ROOT
    items = sorted((_key(index), value) for index, value in enumerate(values))
    return keccak(encode(_node(items, 0)))


@lru_cache(maxsize=4096)
def _key(index: int) -> Nibbles:
    encoded = encode(number(index))
    return tuple(nibble for byte in encoded for nibble in (byte >> 4, byte & 15))


def _node(items: list[tuple[Nibbles, bytes]], depth: int) -> Node:
    """Return the node above `items`, which are sorted, not empty, and agree in their first `depth` nibbles."""
    (first, value), (last, _) = items[0], items[-1]
    if len(items) == 1:
        return [_path(first[depth:], leaf=True), value]
    end = depth
    while first[end] == last[end]:  # no key is the beginning of another: RLP of an integer is prefix-free
        end += 1
    groups: list[list[tuple[Nibbles, bytes]]] = [[] for _ in range(16)]
    for item in items:
        groups[item[0][end]].append(item)
    branch: Node = [_child(group, end + 1) if group else b"" for group in groups] + [b""]
    return [_path(first[depth:end], leaf=False), _named(branch)] if end > depth else branch


def _child(items: list[tuple[Nibbles, bytes]], depth: int) -> Node:
    return _named(_node(items, depth))


def _named(node: Node) -> Node:
    encoded = encode(node)
    return node if len(encoded) < HASH_BYTES else keccak(encoded)


def _path(nibbles: Nibbles, *, leaf: bool) -> bytes:
    flag = 2 * leaf + len(nibbles) % 2
    padded = (flag, *nibbles) if len(nibbles) % 2 else (flag, 0, *nibbles)
    return bytes(high << 4 | low for high, low in zip(padded[::2], padded[1::2], strict=True))
