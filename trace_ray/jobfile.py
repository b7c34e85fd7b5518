"""The job file: what may be in it, and a sentence for each mistake. Text becomes values in `jobyaml`.

Everything wrong with a file is told at once, each as `<file>:<line>: <path>: <value> ...: write ...`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from trace_ray import jobrules, jobyaml
from trace_ray.catalog import CATALOG
from trace_ray.contracts import FixedTarget, FollowHead, Job, OrgId, Receipts, Stream
from trace_ray.errors import RefusedInput
from trace_ray.jobyaml import Document, Problem, path_text, shown
from trace_ray.yamlmodel import NAME, NAME_ADVICE, Model, mistyped, nearest, read_text, said

MAX_BLOCK: Final = 2**53 - 1  # every reader of JSON keeps such a number exact
MAX_CHAIN_ID: Final = 2**63 - 37  # EIP-2294
MAX_CHUNK: Final = 100_000
MAX_INFLIGHT: Final = 10_000
MAX_STREAMS: Final = 64
DEFAULT_TAIL_LAG: Final = 64  # two epochs: Ethereum's finality; reorgs beyond it have not been seen
DEFAULT_POLL_S: Final = 12.0  # one Ethereum slot
DEFAULT_HEAD_AGE_S: Final = 300.0  # planning stops when a provider is stuck for five minutes
RESERVED: Final = ("dataset",)  # relation of a query that names a dataset by its id

OFFERED: Final = tuple(entry.name for entry in CATALOG.values() if entry.refusal is None)
SECRET_KEY: Final = re.compile(
    r"(api_?|access_?|private_?)key|passwo?r?d|passphrase|secret|token|bearer|credential|mnemonic|^auth|^key$"
)

CHAIN_NAME: Final = r"^[a-z][a-z0-9_]{0,62}$"  # with `_` and a dataset_key it fits a published name
DATASET_KEY: Final = r"^[a-z0-9_]{1,64}$"
PUBLISHED: Final = r"^[a-z][a-z0-9_]{0,127}$"

Block = Annotated[int, Field(ge=0, le=MAX_BLOCK)]


class FixedTargetModel(Model):
    """Sync the blocks [from_block, to_block), then be complete."""

    model_config = ConfigDict(title="fixed_target")
    kind: Literal["fixed_target"]
    from_block: Block = Field(description="First block.")
    to_block: Block = Field(description="End of the blocks: the first one that is not synced.")

    @field_validator("to_block")
    @classmethod
    def _not_empty(cls, to_block: int, info: ValidationInfo) -> int:
        start = info.data.get("from_block")
        if start is not None and to_block <= start:
            raise said(f"leaves nothing to sync: write a block above from_block ({start})")
        return to_block

    def to_contract(self) -> FixedTarget:
        return FixedTarget(self.from_block, self.to_block)


class FollowHeadModel(Model):
    """Sync from from_block and follow the head of the chain, tail_lag blocks behind it."""

    model_config = ConfigDict(title="follow_head")
    kind: Literal["follow_head"]
    from_block: Block = Field(description="First block.")
    tail_lag: int = Field(DEFAULT_TAIL_LAG, ge=0, le=100_000, description="Blocks to stay behind the head.")
    head_poll_interval_seconds: float = Field(
        DEFAULT_POLL_S, ge=0.25, le=3600, description="How often the head is asked for."
    )
    max_head_age_seconds: float = Field(
        DEFAULT_HEAD_AGE_S, ge=1, le=86_400, description="Planning stops while the newest known head is older."
    )

    @field_validator("max_head_age_seconds")
    @classmethod
    def _above_interval(cls, age: float, info: ValidationInfo) -> float:
        interval = info.data.get("head_poll_interval_seconds")
        if interval is not None and age <= interval:
            raise said(f"makes each head too old: write more than head_poll_interval_seconds ({interval:g})")
        return age

    def to_contract(self) -> FollowHead:
        return FollowHead(
            self.from_block, self.tail_lag, float(self.head_poll_interval_seconds), float(self.max_head_age_seconds)
        )


class StreamModel(Model):
    """One dataset of the job."""

    model_config = ConfigDict(title="stream")
    cryo_dataset_name: str = Field(description="What to extract.", json_schema_extra={"enum": list(OFFERED)})
    rpc_pool: str = Field(pattern=NAME, description="Name of a pool of providers; its URLs are in the environment.")
    chunk_size: int = Field(ge=1, le=MAX_CHUNK, description="Blocks per range.")
    max_inflight: int = Field(ge=1, le=MAX_INFLIGHT, description="Ranges that may be open at one time.")
    publish_as: str = Field(
        default_factory=str, pattern=PUBLISHED, description="Published name; else <chain_name>_<dataset_key>."
    )

    @field_validator("cryo_dataset_name")
    @classmethod
    def _offered(cls, name: str) -> str:
        entry = CATALOG.get(name)
        if entry is None:
            advice = nearest(name, list(OFFERED)) or "one of " + ", ".join(OFFERED)
            raise said(f"is not a Cryo dataset: write {advice}")
        if entry.refusal is not None:
            raise said(f"is refused ({entry.refusal}): write one of {', '.join(OFFERED)}")
        return name

    @field_validator("publish_as")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED:
            raise said("is a word of the query service: write another name")
        return name


class JobModel(Model):
    """A chain_sync job of trace_ray."""

    model_config = ConfigDict(title="trace_ray job file")
    kind: Literal["chain_sync"]
    name: str = Field(pattern=NAME, description="Identity of the job, unique per organisation.")
    chain_id: int = Field(ge=1, le=MAX_CHAIN_ID, description="What eth_chainId of each provider must answer.")
    chain_name: str = Field(
        default_factory=str, pattern=CHAIN_NAME, description="Prefix of the published names; else chain_<chain_id>."
    )
    enabled: bool = Field(True, description="false stops planning; running ranges finish.")
    receipts: Literal["ethereum", "nonstandard", "none"] = Field(
        "ethereum", description="How far receipts of this chain can be proven."
    )
    mode: Annotated[FixedTargetModel | FollowHeadModel, Field(discriminator="kind")]
    streams: dict[Annotated[str, Field(pattern=DATASET_KEY)], StreamModel] = Field(
        min_length=1,
        max_length=MAX_STREAMS,
        description="Datasets of the job, by dataset_key.",
        json_schema_extra={"additionalProperties": False},
    )

    def to_contract(self, org_id: OrgId) -> Job:
        chain_name = self.chain_name or f"chain_{self.chain_id}"
        streams = tuple(
            Stream(
                dataset_key=key,
                cryo_dataset_name=stream.cryo_dataset_name,
                rpc_pool=stream.rpc_pool,
                chunk_size=stream.chunk_size,
                max_inflight=stream.max_inflight,
                dataset=stream.publish_as or f"{chain_name}_{key}",
            )
            for key, stream in self.streams.items()
        )
        job = Job(
            org_id=org_id,
            name=self.name,
            chain_id=self.chain_id,
            chain_name=chain_name,
            enabled=self.enabled,
            mode=self.mode.to_contract(),
            receipts=Receipts(self.receipts),
            streams=streams,
            yaml_hash="",
        )
        return replace(job, yaml_hash=content_hash(job))


def content_hash(job: Job) -> str:
    """Return the SHA-256 of what a job file says: comments, order and defaults left out make no difference."""
    content = asdict(job) | {"streams": {stream.dataset_key: asdict(stream) for stream in job.streams}}
    del content["yaml_hash"], content["org_id"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(path: Path, org_id: OrgId) -> Job:
    """Read a job file.

    Raises:
        RefusedInput: with one sentence for each mistake, in the order of the lines.
    """
    document = jobyaml.read_document(read_text(path, "job"))
    model: JobModel | None = None
    problems = list(document.problems)
    try:
        model = JobModel.model_validate(document.value)
    except ValidationError as error:
        problems += _judge(document, error)
    problems += jobrules.repeated_names(document)
    problems += jobrules.unreadable_blocks(document)
    if model is None or problems:
        raise RefusedInput([f"{path}:{one.line}: {one.path}: {one.sentence}" for one in sorted(set(problems))])
    return model.to_contract(org_id)


def schema() -> dict[str, object]:
    """Return the JSON Schema of a job file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobModel.model_json_schema()}


# --- sentences ----------------------------------------------------------------------------------------------------

ADVICE: Final[Mapping[str, str]] = {
    "kind": "write chain_sync",
    "name": NAME_ADVICE.format(64),
    "chain_id": f"write a whole number from 1 to {MAX_CHAIN_ID}",
    "chain_name": NAME_ADVICE.format(63),
    "enabled": "write true or false",
    "receipts": "write ethereum, nonstandard or none",
    "mode": "write a mapping with kind: fixed_target, from_block and to_block",
    "mode.kind": "write fixed_target or follow_head",
    "from_block": f"write a whole number from 0 to {MAX_BLOCK}",
    "to_block": f"write a whole number from 0 to {MAX_BLOCK}",
    "tail_lag": "write a whole number from 0 to 100000",
    "head_poll_interval_seconds": "write a number from 0.25 to 3600",
    "max_head_age_seconds": "write a number from 1 to 86400",
    "streams": f"write a mapping with 1 to {MAX_STREAMS} streams, such as blocks:",
    "stream": "write a mapping with cryo_dataset_name, rpc_pool, chunk_size and max_inflight",
    "dataset_key": "write lower-case letters, digits and _, at most 64 characters",
    "cryo_dataset_name": "write one of " + ", ".join(OFFERED),
    "rpc_pool": "write the name of a pool: " + NAME_ADVICE.format(64).removeprefix("write "),
    "chunk_size": f"write a whole number from 1 to {MAX_CHUNK}",
    "max_inflight": f"write a whole number from 1 to {MAX_INFLIGHT}",
    "publish_as": NAME_ADVICE.format(128),
    "": "write key: value lines with kind, name, chain_id, mode and streams",
}


def _judge(document: Document, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        path = _path(detail)
        if not document.is_spoilt(path):
            yield Problem(document.line(path), path_text(path), _sentence(detail, path, document))


def _path(detail: ErrorDetails) -> jobyaml.Path:
    """Return the place in the file: without pydantic's word for the chosen mode or for a key."""
    path = detail["loc"]
    if path[:1] == ("mode",) and path[1:2] in (("fixed_target",), ("follow_head",)):
        path = ("mode", *path[2:])
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, "kind")
    return path[:-1] if path[-1:] == ("[key]",) else path


def _sentence(detail: ErrorDetails, path: jobyaml.Path, document: Document) -> str:
    value = shown(detail["input"])
    advice = ADVICE["dataset_key"] if detail["loc"][-1:] == ("[key]",) else _advice(path)
    match detail["type"]:
        case "said":
            return f"{value} {detail['msg']}"
        case "missing" | "union_tag_not_found":
            return f"the key is missing: {advice}"
        case "extra_forbidden":
            return _unknown_key(path, document)
        case "int_type" | "bool_type" | "float_type":
            what, meant = mistyped(detail)
            return f"{value} is not {what}: {f'write {meant}' if meant else advice}"
        case "greater_than_equal" | "less_than_equal":
            return f"{value} is out of bounds: {advice}"
        case "too_short" | "too_long":
            return f"the number of streams is out of bounds: {advice}"
        case "string_type" | "string_pattern_mismatch":
            return f"{value} is not a name: {advice}"
        case "literal_error" | "union_tag_invalid":
            chosen = cast(Mapping[str, object], detail["input"])["kind"] if "tag" in detail["type"] else detail["input"]
            return f"{shown(chosen)} is not known here: {advice}"
        case _:  # text, a mapping or a list where something else belongs
            return f"{value} does not belong here: {advice}"


def _advice(path: jobyaml.Path) -> str:
    if len(path) == len(("streams", "key")) and path[0] == "streams":
        return ADVICE["stream"]
    last = str(path[-1]) if path else ""
    return ADVICE["mode.kind"] if path == ("mode", "kind") else ADVICE.get(last, ADVICE[""])


def _unknown_key(path: jobyaml.Path, document: Document) -> str:
    around, keys = "a job file", list(JobModel.model_fields)
    if path[0] == "mode":
        kind = cast(Mapping[str, Mapping[str, object]], document.value)["mode"]["kind"]
        around = f"mode {kind}"
        keys = list((FixedTargetModel if kind == "fixed_target" else FollowHeadModel).model_fields)
    elif path[0] == "streams":
        around, keys = "a stream", list(StreamModel.model_fields)
    key = str(path[-1])
    if SECRET_KEY.search(key.lower().replace("-", "_")):
        return f"a secret has no place in a job file: {jobyaml.POOL_ADVICE}"
    return f"{shown(key)} is not a key of {around}: write {nearest(key, keys) or 'one of ' + ', '.join(keys)}"
