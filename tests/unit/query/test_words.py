"""Numbers, amounts and addresses as people write them, against Python's own integers and the vectors of EIP-55."""

from decimal import Decimal

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from query import words
from query.words import BadText

MAX = 2**256 - 1
EIP_55 = (
    "0x52908400098527886E0F7030069857D2E4169EE7", "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77", "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)  # fmt: skip


@pytest.mark.parametrize("address", EIP_55)
def test_addresses_have_the_capitals_of_eip_55(address: str) -> None:
    assert words.checksum_address(bytes.fromhex(address[2:])) == address


@given(st.binary(min_size=20, max_size=20))
def test_any_address_has_the_capitals_of_another_implementation(address: bytes) -> None:
    assert words.checksum_address(address) == to_checksum_address(address)


@given(st.integers(0, MAX))
def test_unsigned_words_are_their_numbers(number: int) -> None:
    assert words.unsigned(number.to_bytes(32, "big")) == str(number)
    assert words.to_unsigned(str(number)) == number.to_bytes(32, "big")


@given(st.integers(-(2**255), 2**255 - 1))
def test_signed_words_are_twos_complement(number: int) -> None:
    word = (number % 2**256).to_bytes(32, "big")
    assert words.signed(word) == str(number)
    assert words.to_signed(str(number)) == word


@pytest.mark.parametrize("size", [0, 19, 21, 31, 33])
def test_another_size_is_no_value(size: int) -> None:
    content = bytes(size)
    assert (words.unsigned(content), words.signed(content), words.checksum_address(content)) == (None, None, None)


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "0x1", "1_000", "٣", "--1", "9" * 79])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    for read in (words.to_unsigned, words.to_signed, words.whole):
        with pytest.raises(BadText):
            read(text)


@pytest.mark.parametrize(
    ("read", "number"),
    [
        (words.to_unsigned, -1), (words.to_unsigned, MAX + 1), (words.to_signed, 2**255),
        (words.to_signed, -(2**255) - 1),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_word_is_refused(read: object, number: int) -> None:
    assert callable(read)
    with pytest.raises(BadText):
        read(str(number))


@pytest.mark.parametrize(
    ("number", "decimals", "shown"),
    [
        ("1500000000000000000", 18, "1.5"), ("1", 18, "0.000000000000000001"), ("0", 6, "0"), ("-0", 6, "0"),
        ("-1230", 2, "-12.3"), ("100", 2, "1"), ("42", 0, "42"), (str(MAX), 77, f"{str(MAX)[0]}.{str(MAX)[1:]}"),
        ("7", 255, "0." + "0" * 254 + "7"),
    ],
)  # fmt: skip
def test_units_are_exact(number: str, decimals: int, shown: str) -> None:
    assert words.format_units(number, decimals) == shown


@given(st.integers(-MAX, MAX), st.integers(0, 80))
def test_units_read_back_give_the_number(number: int, decimals: int) -> None:
    shown = words.format_units(str(number), decimals)
    assert int(words.parse_units(shown, decimals)) == number
    assert Decimal(shown).scaleb(decimals) == number or len(str(number)) > 28


@pytest.mark.parametrize(
    ("text", "decimals", "number"),
    [("1.5", 18, "1500000000000000000"), ("2", 0, "2"), (".5", 1, "5"), ("1e18", 18, "1" + "0" * 36), ("1.0", 0, "1"),
     ("-1.25", 2, "-125"), ("2.50e1", 0, "25"), ("1E-6", 6, "1")],
)  # fmt: skip
def test_amounts_become_whole_numbers(text: str, decimals: int, number: str) -> None:
    assert words.parse_units(text, decimals) == number


@pytest.mark.parametrize("text", ["", ".", "1.5", "x", "1e", "0.5.5", "inf", "nan", "1e-1"])
def test_amounts_with_more_digits_than_decimals_are_refused(text: str) -> None:
    with pytest.raises(BadText):
        words.parse_units(text, 0)


@pytest.mark.parametrize("decimals", [-1, 256, 10**9])
def test_no_token_has_such_decimals(decimals: int) -> None:
    for read in (words.parse_units, words.format_units):
        with pytest.raises(BadText):
            read("1", decimals)
