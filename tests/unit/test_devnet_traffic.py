import random
from collections import Counter, defaultdict
from typing import cast

import pytest
from eth_hash.auto import keccak
from eth_keys.datatypes import Signature
from rlp.codec import decode

from trace_ray.extract.rlp import encode, number
from trace_ray.lite import abi
from trace_ray.lite.traffic import BLOBS_PER_BLOCK, CHAIN_ID, Signer, Traffic, Transaction

ACCOUNTS = [abi.named_address(f"account {i}") for i in range(5)]
TOKEN_HOLDER = "0x00000000219ab540356cbb839cbe05303d7705fa"


def blocks_of(seed: int, *, count: int, transactions: int) -> list[list[Transaction]]:
    traffic, rng = Traffic(ACCOUNTS), random.Random(seed)
    setup = traffic.setup()
    heights = range(len(setup) + 1, count + 1)
    blocks = [traffic.block(rng, height=height, transactions=transactions) for height in heights]
    return [*map(list, setup), *blocks]


def raw_fields(transaction: str) -> list[bytes]:
    return cast(list[bytes], decode(bytes.fromhex(transaction[4:])))


# --- ABI ----------------------------------------------------------------------------------------------------------


def test_a_number_fills_a_word_big_endian() -> None:
    assert abi.number(0) == "0" * 64
    assert abi.number(258) == "0" * 61 + "102"
    assert abi.number(2**256 - 1) == "f" * 64


@pytest.mark.parametrize("value", [-1, 2**256])
def test_what_is_no_uint256_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="uint256"):
        abi.number(value)


def test_an_address_is_padded_on_the_left_and_loses_its_case() -> None:
    assert abi.address(TOKEN_HOLDER.upper().replace("0X", "0x")) == "0" * 24 + TOKEN_HOLDER[2:]


@pytest.mark.parametrize("value", ["0x", "0x12", TOKEN_HOLDER + "00"])
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="address"):
        abi.address(value)


def test_a_list_of_addresses_starts_with_its_length() -> None:
    assert abi.addresses([]) == abi.number(0)
    assert abi.addresses([TOKEN_HOLDER] * 2) == abi.number(2) + abi.address(TOKEN_HOLDER) * 2


def test_a_call_is_its_selector_and_its_words() -> None:
    data = abi.contract("Tok").call("transfer(address,uint256)", abi.address(TOKEN_HOLDER), abi.number(1))
    assert data == "0xa9059cbb" + "0" * 24 + TOKEN_HOLDER[2:] + "0" * 63 + "1"


@pytest.mark.parametrize("name", ["Tok", "Nft", "Multi"])
def test_selectors_are_the_hashes_of_their_signatures(name: str) -> None:
    selectors = abi.contract(name).selectors
    assert selectors
    assert selectors == {signature: keccak(signature.encode())[:4].hex() for signature in selectors}


def test_a_created_contract_is_where_the_yellow_paper_says() -> None:
    # a widely quoted vector of the CREATE address scheme
    sender = "0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"
    assert abi.created_address(sender, 0) == "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert abi.created_address(sender, 1) == "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8"


# --- signatures ---------------------------------------------------------------------------------------------------


def test_an_authorization_is_signed_by_its_account() -> None:
    signer = Signer("somebody")
    item = signer.authorize(TOKEN_HOLDER, nonce=7)
    message = b"\x05" + encode([number(CHAIN_ID), abi.raw_address(TOKEN_HOLDER), number(7)])
    signature = Signature(vrs=(int(item["yParity"], 16), int(item["r"], 16), int(item["s"], 16)))
    key = signature.recover_public_key_from_msg_hash(keccak(message))
    assert "0x" + key.to_canonical_address().hex() == signer.address


def test_a_blob_transaction_is_signed_by_its_account() -> None:
    signer = Signer("somebody")
    fields = raw_fields(signer.carry_blobs(TOKEN_HOLDER, [b"\x01" * 32], nonce=7, tip=1))
    parity, r, s = (int.from_bytes(field, "big") for field in fields[-3:])
    key = Signature(vrs=(parity, r, s)).recover_public_key_from_msg_hash(keccak(b"\x03" + encode(fields[:-3])))
    assert "0x" + key.to_canonical_address().hex() == signer.address


# --- traffic ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_transactions_and_another_seed_others() -> None:
    first = blocks_of(1, count=30, transactions=10)
    assert first == blocks_of(1, count=30, transactions=10)
    assert first != blocks_of(2, count=30, transactions=10)


def test_a_longer_chain_begins_with_the_blocks_of_a_shorter_one() -> None:
    assert blocks_of(1, count=60, transactions=10)[:30] == blocks_of(1, count=30, transactions=10)


def test_every_fiftieth_block_is_empty_and_the_others_are_full() -> None:
    sizes = [len(block) for block in blocks_of(1, count=101, transactions=3)[3:]]
    assert [height for height, size in enumerate(sizes, start=4) if size == 0] == [50, 100]
    assert set(sizes) == {0, 3}


def test_the_first_transactions_show_every_type() -> None:
    first = [transaction for block in blocks_of(9, count=5, transactions=10) for transaction in block]
    types = {3 if isinstance(one, str) else int(cast(str, one["type"]), 16) for one in first}
    assert types == {0, 1, 2, 3, 4}


def test_nonces_of_an_account_follow_one_another() -> None:
    nonces: dict[str, list[int]] = defaultdict(list)
    for block in blocks_of(3, count=40, transactions=20):
        for one in block:
            if isinstance(one, str):
                nonces["blobs"].append(int.from_bytes(raw_fields(one)[1], "big"))
            else:
                nonces[cast(str, one["from"])].append(int(cast(str, one["nonce"]), 16))
    assert len(nonces) == len(ACCOUNTS) + 1
    assert all(found == list(range(len(found))) for found in nonces.values())


def test_resumed_traffic_goes_on_from_the_nonces_of_the_chain() -> None:
    traffic = Traffic(ACCOUNTS)
    traffic.setup()
    traffic.resume(dict.fromkeys(traffic.senders, 1_000))
    block = traffic.block(random.Random(1), height=51, transactions=14)
    nonces = {int(cast(str, one["nonce"]), 16) for one in block if not isinstance(one, str)}
    blob = [int.from_bytes(raw_fields(one)[1], "big") for one in block if isinstance(one, str)]
    assert min(nonces) == 1_000
    assert blob == [1_000]


def test_no_block_holds_more_blobs_than_the_target() -> None:
    blobs: Counter[int] = Counter()
    for height, block in enumerate(blocks_of(4, count=12, transactions=500)):
        blobs[height] += sum(len(raw_fields(one)[10]) for one in block if isinstance(one, str))
    assert max(blobs.values()) == BLOBS_PER_BLOCK
