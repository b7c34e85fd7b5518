"""Names and digests of one publication. Pure. An object's name carries its content's digest, so no attempt can
overwrite another's bytes; only the registry makes an object visible."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from trace_ray.contracts import (
    BlockRange,
    Certificate,
    DataFile,
    DatasetUuid,
    Lease,
    Publication,
    VersionId,
    dataset_version_id,
)
from trace_ray.errors import PublicationTooLarge

SCHEMA_VERSION: Final = 1  # part of the config hash: raise it when a stable schema changes
OBJECTS: Final = "cryo/"  # every object of a dataset lies under it
UUID_TEXT: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
OBJECT_KEY: Final = re.compile(
    rf"cryo/[0-9]+/(?P<dataset>{UUID_TEXT})/(?P<start>[0-9]{{1,18}})_(?P<end>[0-9]{{1,18}})/(?P<version>{UUID_TEXT})"
    r"/[a-z0-9_]+\.[0-9a-f]+\.parquet"
)
MAX_FILES: Final = 256
MAX_FILE_BYTES: Final = 512 * 1024**2
MAX_RANGE_BYTES: Final = 2 * 1024**3


def config_hash(dataset: DatasetUuid, cryo_dataset_name: str) -> str:
    """Return the hash of what determines a stream's rows: not its chunk size, pool or concurrency."""
    return hashlib.sha256(f"{dataset}/{cryo_dataset_name}/{SCHEMA_VERSION}".encode()).hexdigest()[:32]


def object_key(lease: Lease, *, digest: str) -> str:
    """Return the key of a file relative to the object store's root (SPEC section 5)."""
    task = lease.task
    blocks = task.blocks
    version = dataset_version_id(task.dataset_uuid, task.config_hash, blocks, lease.generation)
    folder = f"cryo/{task.chain_id}/{task.dataset_uuid}/{blocks.start}_{blocks.end}/{version}"
    return f"{folder}/{task.dataset_key}_{blocks.start}_{blocks.end - 1}.{digest}.parquet"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """What the key of a dataset's object says."""

    key: str
    dataset_uuid: DatasetUuid
    blocks: BlockRange
    dataset_version: VersionId


def object_name(key: str) -> ObjectName | None:
    """Read a key that `object_key` made; None for any other."""
    match = OBJECT_KEY.fullmatch(key)
    if match is None:
        return None
    start, end = int(match["start"]), int(match["end"])
    if start >= end:
        return None
    return ObjectName(
        key, DatasetUuid(UUID(match["dataset"])), BlockRange(start, end), VersionId(UUID(match["version"]))
    )


def check_caps(sizes: Sequence[int], blocks: BlockRange) -> None:
    """Refuse a range whose files are too many or too large, in bytes.

    Raises:
        PublicationTooLarge: with the advice to lower chunk_size.
    """
    advice = f"lower chunk_size below {len(blocks)}"
    if len(sizes) > MAX_FILES:
        raise PublicationTooLarge(f"blocks {blocks} need {len(sizes)} files, the limit is {MAX_FILES}: {advice}")
    if max(sizes, default=0) > MAX_FILE_BYTES:
        raise PublicationTooLarge(f"a file of blocks {blocks} is larger than {MAX_FILE_BYTES} bytes: {advice}")
    if sum(sizes) > MAX_RANGE_BYTES:
        raise PublicationTooLarge(f"blocks {blocks} are larger than {MAX_RANGE_BYTES} bytes: {advice}")


def publication(
    lease: Lease, *, files: Sequence[DataFile], certificate: Certificate, seconds: Mapping[str, float]
) -> Publication:
    """Return the offer of a lease's files; its digest is the hash of the files' digests in order."""
    task = lease.task
    return Publication(
        attempt=lease.key,
        dataset_version=dataset_version_id(task.dataset_uuid, task.config_hash, task.blocks, lease.generation),
        dataset_uuid=task.dataset_uuid,
        chain_id=task.chain_id,
        dataset_key=task.dataset_key,
        config_hash=task.config_hash,
        blocks=task.blocks,
        generation=lease.generation,
        rows=sum(file.rows for file in files),
        digest=hashlib.sha256("".join(file.digest for file in files).encode()).hexdigest(),
        files=tuple(files),
        certificate=certificate,
        seconds=dict(seconds),
    )
