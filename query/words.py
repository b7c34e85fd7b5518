"""Values of chains as people write them: 256-bit numbers, amounts with decimals, addresses with a checksum. Pure.

What comes from the chain and has the wrong size gives None; what a person wrote and is wrong raises `BadText`.
"""

import re
from typing import Final

from eth_hash.auto import keccak

WORD: Final = 32
ADDRESS: Final = 20
MAX_DECIMALS: Final = 255  # a token's `decimals` is a uint8
HIGH: Final = "8"  # from this hexadecimal digit of the hash on, EIP-55 writes a capital
WHOLE: Final = re.compile(r"\s*([+-]?[0-9]{1,78})\s*")
AMOUNT: Final = re.compile(r"\s*([+-]?)([0-9]{0,78})(?:\.([0-9]{0,255}))?(?:[eE]([+-]?[0-9]{1,3}))?\s*")


class BadText(ValueError):
    """The text is no number, or its value does not fit."""


def unsigned(word: bytes) -> str | None:
    """Return 32 big-endian bytes in decimal."""
    return str(int.from_bytes(word)) if len(word) == WORD else None


def signed(word: bytes) -> str | None:
    """Return 32 bytes of two's complement in decimal."""
    return str(int.from_bytes(word, signed=True)) if len(word) == WORD else None


def to_unsigned(text: str) -> bytes:
    """Return the 32 bytes of a whole number from 0 to 2^256 - 1."""
    return _word(text, is_signed=False)


def to_signed(text: str) -> bytes:
    """Return the 32 bytes of a whole number from -2^255 to 2^255 - 1."""
    return _word(text, is_signed=True)


def _word(text: str, *, is_signed: bool) -> bytes:
    try:
        return whole(text).to_bytes(WORD, signed=is_signed)
    except OverflowError:
        raise BadText("out of range") from None


def whole(text: str) -> int:
    found = WHOLE.fullmatch(text)
    if found is None:
        raise BadText("no whole number")
    return int(found[1])


def checksum_address(address: bytes) -> str | None:
    """Return 20 bytes with the capitals of EIP-55."""
    if len(address) != ADDRESS:
        return None
    plain = address.hex()
    digits = keccak(plain.encode()).hex()
    return "0x" + "".join([c.upper() if d >= HIGH else c for c, d in zip(plain, digits, strict=False)])


def format_units(text: str, decimals: int) -> str:
    """Return a whole number divided by 10^decimals, exactly and without zeros at the end."""
    value = whole(text)
    integer, fraction = divmod(abs(value), 10 ** checked(decimals))
    digits = f"{fraction:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{'-' if value < 0 else ''}{integer}{'.' if digits else ''}{digits}"


def parse_units(text: str, decimals: int) -> str:
    """Return a number times 10^decimals as a whole number.

    Raises:
        BadText: it has more digits behind the point than there are decimals, or is no number.
    """
    found = AMOUNT.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        raise BadText("no number")
    fraction = found[3] or ""
    exponent = checked(decimals) + int(found[4] or 0) - len(fraction)
    value = int(found[1] + (found[2] + fraction))
    if exponent >= 0:
        return str(value * 10**exponent)
    quotient, rest = divmod(value, 10**-exponent)
    if rest:
        raise BadText("too many digits behind the point")
    return str(quotient)


def checked(decimals: int) -> int:
    if not 0 <= decimals <= MAX_DECIMALS:
        raise BadText("no number of decimals")
    return decimals
