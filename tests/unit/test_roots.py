"""`ordered_root` against the `trie` library, which is slower and not ours."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chain_rows import trie_root
from trace_ray.extract.roots import EMPTY_ROOT, ordered_root


@settings(max_examples=150)
@given(st.lists(st.binary(min_size=1, max_size=80), max_size=300))
def test_root_of_any_list_is_the_library_s(values: list[bytes]) -> None:
    assert ordered_root(values) == trie_root(values)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000])
@pytest.mark.parametrize("size", [1, 30, 33, 600])
def test_root_is_right_where_the_keys_grow_and_nodes_stop_being_embedded(count: int, size: int) -> None:
    values = [bytes([index % 250 + 1]) * size for index in range(count)]
    assert ordered_root(values) == trie_root(values)


def test_root_of_nothing_is_the_one_that_empty_mainnet_blocks_name() -> None:
    assert ordered_root([]) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=20, unique=True))
def test_root_depends_on_the_order(values: list[bytes]) -> None:
    assert ordered_root(values) != ordered_root(values[::-1])
