"""Grants as bytes: a digest that names exactly what is granted, and a short text that fits into a token. Pure."""

import base64
import hashlib
import json
import zlib
from typing import Any, Final
from uuid import UUID

from trace_ray.contracts import BlockRange, DatasetUuid, Grant, GrantedDataset, GrantedFile, OrgId

MAX_BYTES: Final = 1024**2  # of an unpacked grant; a token holds far less


def digest(grant: Grant) -> str:
    """Return the SHA-256 of all that a grant says; equal grants have equal digests, and others do not."""
    return hashlib.sha256(_canonical(grant)).hexdigest()


def pack(grant: Grant) -> str:
    """Return a grant as short base64url text."""
    return base64.urlsafe_b64encode(zlib.compress(_canonical(grant), 9)).decode()


def unpack(text: str) -> Grant:
    """Return the grant that `pack` made a text of.

    Raises:
        ValueError: it made no such text.
    """
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(base64.b64decode(text, altchars=b"-_", validate=True), MAX_BYTES)
        if not inflate.eof or inflate.unused_data:
            raise ValueError("the text is cut, too long, or has a tail")
        org, datasets = json.loads(content)
        grant = Grant(OrgId(UUID(org)), tuple(_dataset(one) for one in datasets))
        if _canonical(grant) != content:
            raise ValueError("the text is not the shortest one of its grant")
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ValueError("not a packed grant") from error
    return grant


def _canonical(grant: Grant) -> bytes:
    document = [
        str(grant.org_id),
        [
            [
                one.name,
                str(one.dataset_uuid),
                one.cryo_dataset_name,
                one.snapshot,
                one.from_block,
                one.to_block,
                [[gap.start, gap.end] for gap in one.gaps],
                [[file.key, file.min_block, file.max_block, file.bytes, file.rows] for file in one.files],
            ]
            for one in grant.datasets
        ],
    ]
    return json.dumps(document, separators=(",", ":")).encode()


def _dataset(one: list[Any]) -> GrantedDataset:
    name, uuid, cryo_dataset_name, snapshot, from_block, to_block, gaps, files = one
    return GrantedDataset(
        name=name,
        dataset_uuid=DatasetUuid(UUID(uuid)),
        cryo_dataset_name=cryo_dataset_name,
        snapshot=snapshot,
        from_block=from_block,
        to_block=to_block,
        gaps=tuple(BlockRange(start, end) for start, end in gaps),
        files=tuple(GrantedFile(*file) for file in files),
    )
