"""Grants and keys for the tests of access."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from trace_ray.contracts import (
    DEFAULT_ORG,
    BlockRange,
    DatasetUuid,
    Grant,
    GrantedDataset,
    GrantedFile,
    TaskId,
    dataset_uuid,
)

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TASK = TaskId(UUID("02206ae4-4d83-5aad-8196-0d3fc6a4d1da"))


def granted(name: str = "devnet_blocks", *, files: int = 3, snapshot: int = 7) -> GrantedDataset:
    """A dataset of `files` ranges of 100 blocks, with a gap where the second would be."""
    uuid = dataset_uuid(DEFAULT_ORG, 31337, name)
    return GrantedDataset(
        name=name,
        dataset_uuid=uuid,
        cryo_dataset_name="blocks",
        snapshot=snapshot,
        from_block=0,
        to_block=100 * files,
        gaps=(BlockRange(100, 200),),
        files=tuple(_file(uuid, number) for number in range(files)),
    )


def grant(*datasets: GrantedDataset) -> Grant:
    return Grant(DEFAULT_ORG, datasets or (granted(),))


def _file(uuid: DatasetUuid, number: int) -> GrantedFile:
    """A key as long and as hard to compress as a real one."""
    start, digest = number * 100, hashlib.sha256(f"{uuid}{number}".encode()).hexdigest()
    folder = f"cryo/31337/{uuid}/{start}_{start + 100}/{UUID(digest[:32])}"
    key = f"{folder}/blocks_{start}_{start + 99}.{digest[:16]}.parquet"
    return GrantedFile(key, start, start + 99, 41_000 + number % 977, 100)


def private_pem(curve: ec.EllipticCurve | None = None) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(pem: bytes) -> bytes:
    return load_pem_private_key(pem, None).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
