"""Names and digests of what an attempt publishes."""

from dataclasses import replace
from uuid import UUID

import pytest

from trace_ray import contracts, manifest
from trace_ray.contracts import (
    DEFAULT_ORG,
    BlockRange,
    Certificate,
    DataFile,
    Lease,
    LeaseGroup,
    LeaseToken,
    Level,
    Receipts,
    Task,
    WorkerId,
)
from trace_ray.errors import PublicationTooLarge

BLOCKS = BlockRange(200, 400)
DATASET = contracts.dataset_uuid(DEFAULT_ORG, 31337, "logs")
JOB = contracts.job_id(DEFAULT_ORG, "devnet")
LEASE = Lease(
    task=Task(
        task_id=contracts.task_id(JOB, "logs", BLOCKS),
        job_id=JOB,
        chain_id=31337,
        dataset_key="logs",
        dataset_uuid=DATASET,
        cryo_dataset_name="logs",
        rpc_pool="standard",
        blocks=BLOCKS,
        config_hash=manifest.config_hash(DATASET, "logs"),
    ),
    attempt=2,
    lease_token=LeaseToken(UUID(int=7)),
    generation=0,
    receipts=Receipts.ETHEREUM,
)
CERTIFICATE = Certificate(
    Level.RECEIPTS_ROOT, ("block_count",), b"p", b"e", Receipts.ETHEREUM, "cryo", "0.3.2", "d" * 64, "standard/0"
)


def file(digest: str, rows: int) -> DataFile:
    return DataFile(manifest.object_key(LEASE, digest=digest), 100, rows, digest, 200, 399)


def test_an_object_is_named_by_place_version_and_content() -> None:
    version = contracts.dataset_version_id(DATASET, LEASE.task.config_hash, BLOCKS, 0)
    assert manifest.object_key(LEASE, digest="abc") == (
        f"cryo/31337/{DATASET}/200_400/{version}/logs_200_399.abc.parquet"
    )


def test_another_generation_is_another_version() -> None:
    assert manifest.object_key(LEASE, digest="abc") != manifest.object_key(replace(LEASE, generation=1), digest="abc")


def test_identifiers_are_the_same_on_every_machine() -> None:
    assert str(JOB) == "0955871e-84c6-50b8-9d54-0239802f4fdf"
    assert contracts.task_id(JOB, "logs", BLOCKS) == contracts.task_id(JOB, "logs", BlockRange(200, 400))
    assert contracts.task_id(JOB, "logs", BLOCKS) != contracts.task_id(JOB, "logs", BlockRange(200, 401))


def test_what_changes_rows_changes_the_config_hash() -> None:
    assert manifest.config_hash(DATASET, "logs") != manifest.config_hash(DATASET, "erc20_transfers")
    assert manifest.config_hash(DATASET, "logs") == LEASE.task.config_hash


def test_a_publication_is_that_of_its_lease_and_its_digest_that_of_its_files() -> None:
    files = [file("a" * 64, 3), file("b" * 64, 4)]
    offer = manifest.publication(LEASE, files=files, certificate=CERTIFICATE, seconds={"extract": 0.5})
    assert (offer.attempt, offer.blocks, offer.rows, offer.files) == (LEASE.key, BLOCKS, 7, tuple(files))
    swapped = manifest.publication(LEASE, files=files[::-1], certificate=CERTIFICATE, seconds={})
    assert offer.digest != swapped.digest
    assert offer.dataset_version == swapped.dataset_version


@pytest.mark.parametrize(
    ("sizes", "word"),
    [([1] * 257, "257 files"), ([manifest.MAX_FILE_BYTES + 1], "a file of"), ([manifest.MAX_FILE_BYTES] * 5, "larger")],
)
def test_a_range_above_the_caps_is_refused_with_the_advice_to_lower_chunk_size(sizes: list[int], word: str) -> None:
    with pytest.raises(PublicationTooLarge, match=word) as refused:
        manifest.check_caps(sizes, BLOCKS)
    assert "lower chunk_size below 200" in str(refused.value)


def test_a_range_within_the_caps_is_accepted() -> None:
    manifest.check_caps([], BLOCKS)
    manifest.check_caps([manifest.MAX_FILE_BYTES] * 4, BLOCKS)


def test_a_group_speaks_for_its_first_lease() -> None:
    group = LeaseGroup(WorkerId("cryo/0.0"), (LEASE,), 120.0)
    assert (group.blocks, group.chain_id, group.rpc_pool) == (BLOCKS, 31337, "standard")


def test_touching_ranges_are_joined() -> None:
    found = contracts.by_range([BlockRange(5, 7), BlockRange(0, 3), BlockRange(3, 5), BlockRange(9, 10)])
    assert found == (BlockRange(0, 7), BlockRange(9, 10))


def test_the_name_of_an_object_says_what_its_key_was_made_from() -> None:
    key = manifest.object_key(LEASE, digest="ab" * 32)
    task = LEASE.task
    version = contracts.dataset_version_id(task.dataset_uuid, task.config_hash, task.blocks, LEASE.generation)
    assert manifest.object_name(key) == manifest.ObjectName(key, task.dataset_uuid, task.blocks, version)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cryo/", "results/"),
        (".parquet", ".csv"),
        ("/200_400/", "/400_200/"),
        ("/200_400/", "/200_400/x/"),
        ("cryo/", "/cryo/"),
    ],
)
def test_a_key_that_is_not_of_a_dataset_has_no_name(old: str, new: str) -> None:
    key = manifest.object_key(LEASE, digest="ab" * 32)
    assert old in key
    assert manifest.object_name(key.replace(old, new)) is None


def test_a_repair_is_a_task_of_its_own_and_the_first_generation_keeps_its_name() -> None:
    first = contracts.task_id(JOB, "logs", BLOCKS)
    assert contracts.task_id(JOB, "logs", BLOCKS, 0) == first
    assert len({first, contracts.task_id(JOB, "logs", BLOCKS, 1), contracts.task_id(JOB, "logs", BLOCKS, 2)}) == 3
