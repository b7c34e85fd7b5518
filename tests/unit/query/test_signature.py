"""Signatures: what is read from the texts that people write, and what is refused."""

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from query.signature import MAX_SIGNATURE, BadSignature, signature


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Transfer(address,address,uint256)", "Transfer(address,address,uint256)"),
        (
            "event Transfer(address indexed from, address indexed to, uint256 value);",
            "Transfer(address,address,uint256)",
        ),
        ("function transfer(address to,uint amount)", "transfer(address,uint256)"),
        (" f ( int x , function cb ) ", "f(int256,bytes24)"),
        ("f()", "f()"),
        ("event(uint8)", "event(uint8)"),
        ("function(uint8)", "function(uint8)"),
        ("f(address payable to, bytes calldata data, string memory s)", "f(address,bytes,string)"),
        ("f(tuple(uint8 a, bytes32[2][] b)[3] c, (bool,int8) d)", "f((uint8,bytes32[2][])[3],(bool,int8))"),
        ("f(address indexed indexed)", "f(address)"),
        ("$f_1(bytes1 $a)", "$f_1(bytes1)"),
    ],
)
def test_signature_has_its_canonical_form(text: str, canonical: str) -> None:
    read = signature(text)
    assert read.text == canonical
    assert read.hash == keccak(canonical.encode())
    assert read.selector == read.hash[:4]


def test_known_hashes() -> None:
    assert signature("Transfer(address,address,uint256)").hash.hex() == (
        "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    )
    assert signature("transfer(address,uint256)").selector.hex() == "a9059cbb"


def test_parameters_without_names_are_numbered() -> None:
    read = signature("E(address indexed, uint8 n, address indexed)")
    assert [(p.name, p.indexed) for p in read.parameters] == [("arg0", True), ("n", False), ("arg2", True)]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Transfer", "Transfer(", "Transfer()()", "Transfer(address", "Transfer(address,)", "f(,address)",
        "Transfer(address address address)", "(address)", "1f()", "f(IERC20 token)", "f(uint7)", "f(uint264)",
        "f(int0)",        "f(uint08)", "f(bytes0)", "f(bytes33)", "f(fixed128x18)", "f(uint256[0])",
        "f(uint256[00])", "f(())",
        "f((uint8 indexed a))", "f(address indexed indexed indexed)", "f(uint8 a, uint8 a)", "f(uint8, uint8 arg0)",
        "f(uint8 a memory)", "f(uint8) returns (bool)", "f(uint256[99999])", "f(uint256[-1])", "f(é)", "f(uint8'); --",
        "f(uint256[9999][9999])", "f((uint256[9999],uint256[9999],uint256[9999],uint256[9999]) x)",
        "f(" + "(" * 9 + "uint8" + ")" * 9 + ")", "f(uint8" + "[]" * 9 + ")", "f(" + "a" * MAX_SIGNATURE + ")",
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(BadSignature):
        signature(text)


@given(st.text(alphabet="f(),[]09 uintbyesadrxmp;\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = signature(text)
    except BadSignature:
        return
    assert signature(read.text).hash == read.hash
