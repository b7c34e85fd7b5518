"""Packed grants: the same grant comes back, every other text is refused, and a digest names one grant only."""

import base64
import json
import zlib
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grants import grant, granted
from trace_ray import packed_grant
from trace_ray.contracts import BlockRange, Grant, GrantedDataset, GrantedFile, OrgId

NUMBERS = st.integers(0, 2**63 - 1)
RANGES = st.tuples(st.integers(0, 2**40), st.integers(1, 2**40)).map(lambda one: BlockRange(one[0], one[0] + one[1]))
FILES = st.builds(GrantedFile, st.text(), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
DATASETS = st.builds(
    GrantedDataset,
    st.text(), st.uuids(), st.text(), NUMBERS, NUMBERS, NUMBERS,
    st.lists(RANGES, max_size=3).map(tuple), st.lists(FILES, max_size=5).map(tuple),
)  # fmt: skip
GRANTS = st.builds(Grant, st.uuids(), st.lists(DATASETS, max_size=3).map(tuple))


@given(GRANTS)
def test_a_grant_comes_back_as_it_was(one: Grant) -> None:
    assert packed_grant.unpack(packed_grant.pack(one)) == one


def test_the_digest_changes_with_all_that_a_grant_says() -> None:
    dataset = granted()
    file = dataset.files[0]
    others = [
        replace(dataset, name="other"),
        replace(dataset, dataset_uuid=UUID(int=1)),
        replace(dataset, cryo_dataset_name="logs"),
        replace(dataset, snapshot=8),
        replace(dataset, from_block=1),
        replace(dataset, to_block=301),
        replace(dataset, gaps=()),
        replace(dataset, files=dataset.files[1:]),
        replace(dataset, files=dataset.files[::-1]),
        *(
            replace(dataset, files=(replace(file, **{name: value}), *dataset.files[1:]))
            for name, value in (("key", "x"), ("min_block", 1), ("max_block", 98), ("bytes", 1), ("rows", 1))
        ),
    ]
    digests = {packed_grant.digest(grant(one)) for one in [dataset, *others]}
    digests |= {
        packed_grant.digest(Grant(OrgId(UUID(int=5)), (dataset,))),
        packed_grant.digest(grant(dataset, dataset)),
    }
    assert len(digests) == len(others) + 3
    assert packed_grant.digest(grant(granted())) == packed_grant.digest(grant(dataset))


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(content)).decode()


PACKED = packed_grant.pack(grant())
CONTENT = zlib.decompress(base64.urlsafe_b64decode(PACKED))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%%%",
        PACKED[:-8],
        "ä",
        _text(b""),
        _text(b"[1,2]"),
        _text(b"[]"),
        _text(b'{"a":1}'),
        _text(b"[" * 100_000),
        _text(CONTENT[:-1]),
        _text(CONTENT.replace(b",", b", ", 1)),
        _text(json.dumps([str(UUID(int=1)), [["name", "no uuid", "blocks", 1, 0, 1, [], []]]]).encode()),
        _text(json.dumps([str(UUID(int=1)), [["name", str(UUID(int=2)), "blocks", 1, 0, 1, [[5, 5]], []]]]).encode()),
        _text(b" " * (packed_grant.MAX_BYTES + 1)),
        base64.urlsafe_b64encode(zlib.compress(CONTENT) + b"tail").decode(),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a packed grant"):
        packed_grant.unpack(text)
