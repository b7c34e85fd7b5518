"""Names and digests of one publication. Pure. An object's name carries its content's digest, so no attempt can
overwrite another's bytes; only the registry makes an object visible."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from trace_ray.contracts import (
    BlockRange,
    Certificate,
    DataFile,
    DatasetUuid,
    Lease,
    Publication,
    dataset_version_id,
)
from trace_ray.errors import PublicationTooLarge

SCHEMA_VERSION: Final = 1  # part of the config hash: raise it when a stable schema changes
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
