"""Receipt encoding and blooms against the `rlp` library and the definition of the filter."""

import rlp
from hypothesis import given
from hypothesis import strategies as st

from tests.chain_rows import Log, Transaction, bloom_of, receipts_of
from trace_ray.extract import receipts
from trace_ray.extract.rlp import Rlp, encode, number

ADDRESSES = st.binary(min_size=20, max_size=20)
TOPICS = st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple)
LOGS = st.lists(st.builds(Log, ADDRESSES, TOPICS, st.binary(max_size=100)), max_size=4).map(tuple)
TRANSACTIONS = st.builds(Transaction, st.integers(0, 2**40), st.booleans(), st.integers(0, 0x7F), LOGS)


@given(TRANSACTIONS)
def test_receipt_is_encoded_as_the_library_does(transaction: Transaction) -> None:
    blooms = [receipts.bloom_of((log.address, *log.topics)) for log in transaction.logs]
    encoded = receipts.encode_receipt(
        transaction_type=transaction.transaction_type,
        success=transaction.success,
        cumulative_gas=transaction.gas_used,
        bloom=receipts.union(blooms),
        logs=[[log.address, log.topics, log.data] for log in transaction.logs],
    )
    assert encoded == receipts_of([transaction])[0]


@given(LOGS)
def test_bloom_is_the_union_of_three_bits_per_address_and_topic(logs: tuple[Log, ...]) -> None:
    bits = receipts.bloom_of(entry for log in logs for entry in (log.address, *log.topics))
    assert bits.to_bytes(receipts.BLOOM_BYTES, "big") == bloom_of(logs)


NESTED = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=5), max_leaves=12)


@given(NESTED)
def test_encoding_of_nested_lists_is_the_library_s(item: Rlp) -> None:
    assert encode(item) == rlp.encode(item)


@given(st.integers(0, 2**256))
def test_number_is_encoded_without_leading_zeros(value: int) -> None:
    assert encode(number(value)) == rlp.encode(value)
