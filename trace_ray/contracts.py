"""Frozen values that travel between the packages. Checked where they enter (`config`), never again inside.

Conventions: block ranges are end-exclusive; blocks are ints; durations are seconds as float and end in `_s`; instants
are timezone-aware UTC; hashes are raw bytes; `digest` is a SHA-256 in hex. Identifiers are deterministic UUIDs, so that
the same cause gives the same id on every machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType
from uuid import UUID, uuid5

OrgId = NewType("OrgId", UUID)
JobId = NewType("JobId", UUID)
TaskId = NewType("TaskId", UUID)
DatasetUuid = NewType("DatasetUuid", UUID)
VersionId = NewType("VersionId", UUID)
LeaseToken = NewType("LeaseToken", UUID)
Epoch = NewType("Epoch", int)
WorkerId = NewType("WorkerId", str)

HASH_MASK = (1 << 61) - 1  # numbers below it are hashes as they are

DEFAULT_ORG: OrgId = OrgId(UUID("00000000-0000-5000-8000-000000000001"))


# --- ranges -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Blocks `[start, end)`; never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.end <= self.start:
            raise ValueError(f"[{self.start}, {self.end}) is not a block range")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.end

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"

    def overlaps(self, other: "BlockRange") -> bool:
        return self.start < other.end and other.start < self.end


# --- what a user declares -----------------------------------------------------------------------------------------


class Receipts(StrEnum):
    """How far receipts of a chain can be proven; declared per job."""

    ETHEREUM = "ethereum"  # plain encoding since Byzantium: receipts_root can be recomputed
    NONSTANDARD = "nonstandard"  # other encoding (OP-stack deposits, Arbitrum): certificates stop at logs_bloom
    NONE = "none"  # the provider has none: gas_used and success stay NULL; only logs are proven, by bloom


@dataclass(frozen=True, slots=True)
class FixedTarget:
    """Sync `[from_block, to_block)`, then be complete."""

    from_block: int
    to_block: int


@dataclass(frozen=True, slots=True)
class FollowHead:
    """Sync from `from_block` and follow the head, `tail_lag` blocks behind it. Never complete."""

    from_block: int
    tail_lag: int
    head_poll_interval_s: float
    max_head_age_s: float


@dataclass(frozen=True, slots=True)
class Stream:
    """One dataset of a job. `dataset` is the published name."""

    dataset_key: str
    cryo_dataset_name: str
    rpc_pool: str
    chunk_size: int
    max_inflight: int
    dataset: str


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job file."""

    org_id: OrgId
    name: str
    chain_id: int
    chain_name: str
    enabled: bool
    mode: FixedTarget | FollowHead
    receipts: Receipts
    streams: tuple[Stream, ...]
    yaml_hash: str

    @property
    def job_id(self) -> JobId:
        return job_id(self.org_id, self.name)


def job_id(org_id: OrgId, name: str) -> JobId:
    return JobId(uuid5(org_id, f"job/{name}"))


def dataset_uuid(org_id: OrgId, chain_id: int, dataset_key: str) -> DatasetUuid:
    return DatasetUuid(uuid5(org_id, f"dataset/{chain_id}/{dataset_key}"))


def task_id(job: JobId, dataset_key: str, blocks: BlockRange, generation: int = 0) -> TaskId:
    """A repair is a task of its own: it makes the next generation, and the history of the earlier one stays."""
    repair = f"/{generation}" if generation else ""
    return TaskId(uuid5(job, f"{dataset_key}/{blocks.start}/{blocks.end}{repair}"))


def dataset_version_id(dataset: DatasetUuid, config_hash: str, blocks: BlockRange, generation: int) -> VersionId:
    return VersionId(uuid5(dataset, f"{config_hash}/{blocks.start}/{blocks.end}/{generation}"))


# --- work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One range of one stream; the payload of SPEC section 3."""

    task_id: TaskId
    job_id: JobId
    chain_id: int
    dataset_key: str
    dataset_uuid: DatasetUuid
    cryo_dataset_name: str
    rpc_pool: str
    blocks: BlockRange
    config_hash: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Time-bounded right to run one attempt of a task.

    `parent_hash` and `child_parent_hash` are what the published neighbours demand of this range: the hash of block
    `start - 1`, and the parent hash of block `end`. None where no neighbour of the dataset is published.
    """

    task: Task
    attempt: int
    lease_token: LeaseToken
    generation: int
    receipts: Receipts
    parent_hash: bytes | None = None
    child_parent_hash: bytes | None = None

    @property
    def key(self) -> "AttemptKey":
        return AttemptKey(self.task.task_id, self.attempt, self.lease_token)


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """What every finishing write presents (SPEC promise 3)."""

    task_id: TaskId
    attempt: int
    lease_token: LeaseToken

    def __hash__(self) -> int:
        return self.lease_token.int & HASH_MASK  # a token names one attempt, and a tick looks up thousands

    def __reduce__(self) -> tuple[type["AttemptKey"], tuple[TaskId, int, LeaseToken]]:
        return AttemptKey, (self.task_id, self.attempt, self.lease_token)  # a probe carries thousands of them


@dataclass(frozen=True, slots=True)
class LeaseGroup:
    """Leases of one job with one range and one pool, extracted in one call by one worker. At least one."""

    worker_id: WorkerId
    leases: tuple[Lease, ...]
    ttl_s: float

    @property
    def blocks(self) -> BlockRange:
        return self.leases[0].task.blocks

    @property
    def chain_id(self) -> int:
        return self.leases[0].task.chain_id

    @property
    def rpc_pool(self) -> str:
        return self.leases[0].task.rpc_pool


# --- results ------------------------------------------------------------------------------------------------------


class Level(StrEnum):
    """How strong the proof of a range is, strongest first (SPEC section 5)."""

    RECEIPTS_ROOT = "receipts_root"
    LOGS_BLOOM = "logs_bloom"
    HEADER_CHAIN = "header_chain"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was checked before a range was accepted.

    `parent_hash` is the parent hash of block `start`; `end_hash` the hash of block `end - 1`. `checks` names each
    check that passed, in the order in which they ran. `engine_arguments` is what the engine was called with, one text
    per call, without the provider's URL and the directory.
    """

    level: Level
    checks: tuple[str, ...]
    parent_hash: bytes
    end_hash: bytes
    receipts: Receipts
    engine: str
    engine_version: str
    engine_digest: str
    provider: str
    engine_arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet object of a publication. `key` is relative to the root of the object store."""

    key: str
    bytes: int
    rows: int
    digest: str
    min_block: int
    max_block: int


@dataclass(frozen=True, slots=True)
class Publication:
    """An attempt's offer to the registry: exactly one dataset version for its task."""

    attempt: AttemptKey
    dataset_version: VersionId
    dataset_uuid: DatasetUuid
    chain_id: int
    dataset_key: str
    config_hash: str
    blocks: BlockRange
    generation: int
    rows: int
    digest: str
    files: tuple[DataFile, ...]
    certificate: Certificate
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended badly. `kind` is the error's class name; `message` is redacted text for people.

    `unreachable`: the provider gave no answer, so it is asked for its head before its pool is leased again. `infra`:
    our own side failed, so the range's attempts are not spent.
    """

    attempt: AttemptKey
    kind: str
    message: str
    retryable: bool
    provider: str | None = None
    unreachable: bool = False
    infra: bool = False


Outcome = Publication | Failure


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GrantedFile:
    """One readable object: its key, and the blocks that its rows can have (inclusive on both ends)."""

    key: str
    min_block: int
    max_block: int
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class GrantedDataset:
    """One relation of a grant, pinned to exact objects. `gaps` are the unpublished ranges inside the coverage."""

    name: str
    dataset_uuid: DatasetUuid
    cryo_dataset_name: str
    snapshot: int
    from_block: int
    to_block: int
    gaps: tuple[BlockRange, ...]
    files: tuple[GrantedFile, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """Right to read pinned datasets; all that the query service may know about them."""

    org_id: OrgId
    datasets: tuple[GrantedDataset, ...]


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Who we are at an S3 endpoint. Without `access_key` the usual AWS chain decides: profile, role of the machine."""

    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    profile: str | None = None


# --- heads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeadRequest:
    """A head that the planner wants to know: of which pool and chain, and how old the last one may be."""

    rpc_pool: str
    chain_id: int
    max_age_s: float


def by_range(ranges: Sequence[BlockRange]) -> tuple[BlockRange, ...]:
    """Return the ranges sorted and with touching or overlapping ones joined."""
    joined: list[BlockRange] = []
    for blocks in sorted(ranges):
        if joined and blocks.start <= joined[-1].end:
            joined[-1] = BlockRange(joined[-1].start, max(joined[-1].end, blocks.end))
        else:
            joined.append(blocks)
    return tuple(joined)
