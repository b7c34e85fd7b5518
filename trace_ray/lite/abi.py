"""What the devnet's contracts understand: ABI encoding, and the contracts themselves as package data. Pure.

Encoded values are hex without `0x` until they become the data of a transaction. Addresses are lower-case hex with `0x`.
The contracts' source is devnet_contracts.sol; devnet_contracts.json holds what its first lines say it was compiled to.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from eth_hash.auto import keccak

from trace_ray.extract import rlp

WORD_BITS: Final = 256
ADDRESS_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Contract:
    """A compiled contract: its init code, and the selector of each function by its signature."""

    bytecode: str
    selectors: dict[str, str]

    def creation(self, *words: str) -> str:
        """Return the data of a transaction that creates the contract with these constructor arguments."""
        return self.bytecode + "".join(words)

    def call(self, signature: str, *words: str) -> str:
        """Return the data of a call; dynamic arguments are laid out by the caller."""
        return "0x" + self.selectors[signature] + "".join(words)


@cache
def contract(name: str) -> Contract:
    """Return `Tok` (ERC-20), `Nft` (ERC-721 transfers) or `Multi` (internal calls, a log without topics, a revert)."""
    text = (files("trace_ray.lite") / "devnet_contracts.json").read_text(encoding="utf-8")
    found = json.loads(text)["contracts"][name]
    return Contract(found["bytecode"], found["selectors"])


def number(value: int) -> str:
    """Encode a uint256."""
    if not 0 <= value < 1 << WORD_BITS:
        raise ValueError(f"{value} is not a uint256")
    return f"{value:064x}"


def address(value: str) -> str:
    """Encode an address."""
    return number(int.from_bytes(raw_address(value), "big"))


def addresses(values: list[str]) -> str:
    """Encode the tail of an `address[]`: its length and its items."""
    return number(len(values)) + "".join(map(address, values))


def raw_address(value: str) -> bytes:
    """Return the 20 bytes of an address."""
    raw = bytes.fromhex(value.removeprefix("0x"))
    if len(raw) != ADDRESS_BYTES:
        raise ValueError(f"{value} is not an address")
    return raw


def created_address(sender: str, nonce: int) -> str:
    """Return where a creation by `sender` with `nonce` puts its contract (yellow paper, section 7)."""
    return "0x" + keccak(rlp.encode([raw_address(sender), rlp.number(nonce)]))[-ADDRESS_BYTES:].hex()


def named_address(name: str) -> str:
    """Return an address that nobody holds the key of, the same for the same name."""
    return "0x" + keccak(name.encode())[-ADDRESS_BYTES:].hex()
