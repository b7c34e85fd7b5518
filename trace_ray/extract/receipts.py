"""Receipts as block headers commit to them: blooms and the encoding since Byzantium. Pure.

Source: Ethereum yellow paper, section 4.4.1 (bloom), and EIP-2718 (the type byte in front).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from eth_hash.auto import keccak

from trace_ray.extract.rlp import Rlp, encode, number

BLOOM_BYTES: Final = 256


@lru_cache(maxsize=1 << 16)  # a few tokens and events make most logs: 12 MB spare most of the hashing
def bloom_bits(entry: bytes) -> int:
    """Return the 2048-bit filter of one address or topic, as an integer."""
    digest = keccak(entry)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << ((digest[at] << 8 | digest[at + 1]) & 2047)
    return bits


def union(blooms: Iterable[int]) -> int:
    """Return the filter of everything that one of the filters has."""
    bits = 0
    for bloom in blooms:
        bits |= bloom
    return bits


def bloom_of(entries: Iterable[bytes]) -> int:
    """Return the filter of several addresses and topics."""
    return union(map(bloom_bits, entries))


def encode_receipt(
    *, transaction_type: int, success: bool, cumulative_gas: int, bloom: int, logs: Sequence[Rlp]
) -> bytes:
    """Return the bytes that the receipts trie holds for one transaction.

    Args:
        cumulative_gas: Gas used in the block up to and with this transaction.
        logs: `[address, topics, data]` of each log, in order.
    """
    body = encode([b"\x01" if success else b"", number(cumulative_gas), bloom.to_bytes(BLOOM_BYTES, "big"), logs])
    return number(transaction_type) + body  # nothing in front of type 0
