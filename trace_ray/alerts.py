"""Frozen values of alerts: rules, evaluations, events, deliveries. Checked where they enter, never again inside.

A rule names a bundle (untrusted code, pinned by digest) and datasets. Each published range of these datasets becomes
an evaluation: a task like others, with attempts and leases. What the bundle emits are drafts; the sink makes alert
events of them, and adds organisation and rule from the ledger, never from the draft. Each event and channel gives one
delivery.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType
from uuid import UUID, uuid5

from trace_ray.contracts import AttemptKey, BlockRange, LeaseToken, OrgId, TaskId, WorkerId

RuleId = NewType("RuleId", UUID)
EventId = NewType("EventId", UUID)
DeliveryId = NewType("DeliveryId", UUID)

QUEUE = "alerts"  # the buffer queue between evaluations and the sink
BATCHES = "batches/"  # every batch of drafts lies under it
BATCH_KEY = re.compile(
    r"batches/(?P<task>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(?P<attempt>[1-9][0-9]{0,8})/udf\.jsonl"
)


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Mode(StrEnum):
    LIVE = "live"
    SHADOW = "shadow"  # events are recorded and nothing is delivered


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most `count` deliveries in any `per_s` seconds and channel; what is above is suppressed, visibly."""

    count: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule file. `bundle` is the SHA-256 of the zip in hex; `datasets` are published names.

    `max_delivery_age_s`: an event whose block is older than that when it is to be sent is not sent any more.
    """

    org_id: OrgId
    name: str
    bundle: str
    datasets: tuple[str, ...]
    parameters: Mapping[str, Any]
    channels: tuple[str, ...]
    severity: Severity
    mode: Mode
    enabled: bool
    timeout_s: float
    memory_mib: int
    max_delivery_age_s: float | None
    throttle: Throttle | None
    yaml_hash: str

    @property
    def rule_id(self) -> RuleId:
        return rule_id(self.org_id, self.name)

    @property
    def limits(self) -> "SandboxLimits":
        """What an attempt may use. Processor time is not bounded apart: one processor has no more than wall time."""
        return SandboxLimits(wall_s=self.timeout_s, cpu_s=self.timeout_s, memory=self.memory_mib << 20)


def rule_id(org_id: OrgId, name: str) -> RuleId:
    return RuleId(uuid5(org_id, f"rule/{name}"))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One rule over blocks that all of its datasets cover, pinned to a snapshot. `inputs` names the pinned versions."""

    task_id: TaskId
    rule_id: RuleId
    chain_id: int
    blocks: BlockRange
    as_of: int
    inputs: str

    @staticmethod
    def make(rule: RuleId, chain_id: int, blocks: BlockRange, as_of: int, inputs: str) -> "Evaluation":
        """Args: inputs: digest of the ids of the versions that overlap `blocks`; other versions, another evaluation."""
        task = TaskId(uuid5(rule, f"evaluation/{blocks.start}/{blocks.end}/{inputs}"))
        return Evaluation(task, rule, chain_id, blocks, as_of, inputs)


@dataclass(frozen=True, slots=True)
class EvaluationLease:
    """Time-bounded right to run one attempt of an evaluation, and all that it needs to know of its rule."""

    evaluation: Evaluation
    rule: Rule
    attempt: int
    lease_token: LeaseToken
    worker_id: WorkerId
    ttl_s: float

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.evaluation.task_id, self.attempt, self.lease_token)


def batch_key(task_id: TaskId, attempt: int) -> str:
    """Return the key of the object that holds an attempt's drafts."""
    return f"{BATCHES}{task_id}/{attempt}/udf.jsonl"


@dataclass(frozen=True, slots=True)
class BatchName:
    """What the key of an attempt's drafts says."""

    key: str
    task_id: TaskId
    attempt: int


def batch_name(key: str) -> BatchName | None:
    """Read a key that `batch_key` made; None for any other."""
    match = BATCH_KEY.fullmatch(key)
    return None if match is None else BatchName(key, TaskId(UUID(match["task"])), int(match["attempt"]))


@dataclass(frozen=True, slots=True)
class Draft:
    """One event as a bundle emitted it, after strict validation; hashes in lower case hex with `0x`."""

    alert_definition_id: RuleId
    dedupe_key: str
    event_time: datetime
    chain_id: int
    block_number: int
    block_hash: str
    tx_hash: str | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventBatch:
    """A message of the queue `alerts`: where an attempt's drafts lie (JSON Lines) and what the ledger knows of them.

    `batch_uri` is the key that `batch_key` gives; `digest` and `size` are of the object's bytes, `events` its lines.
    """

    attempt: AttemptKey
    org_id: OrgId
    rule_id: RuleId
    batch_uri: str
    digest: str
    size: int
    events: int


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A draft that the sink accepted. `dedupe_key` is unique in an organisation."""

    event_id: EventId
    org_id: OrgId
    rule_id: RuleId
    task_id: TaskId
    attempt: int
    severity: Severity
    mode: Mode
    draft: Draft
    created_at: datetime
    retracted_at: datetime | None = None


def event_id(org_id: OrgId, dedupe_key: str) -> EventId:
    return EventId(uuid5(org_id, f"event/{dedupe_key}"))


class DeliveryKind(StrEnum):
    ALERT = "alert"
    RETRACTION = "retraction"  # the event's block is gone: names the delivery that it takes back


class DeliveryState(StrEnum):
    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"  # attempts are used up or the channel refused it for good: visible, `alerts replay` puts it back
    SUPPRESSED = "suppressed"  # too old, throttled or retracted before it was sent


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one channel. `attempt` counts from 1; `lease_token` fences the record of a send."""

    delivery_id: DeliveryId
    event_id: EventId
    kind: DeliveryKind
    channel: str
    state: DeliveryState
    attempt: int
    lease_token: UUID | None
    retracts: DeliveryId | None = None
    last_error: str | None = None


def delivery_id(event: EventId, channel: str, kind: DeliveryKind) -> DeliveryId:
    return DeliveryId(uuid5(event, f"delivery/{kind}/{channel}"))


# --- what a sandbox is asked and answers --------------------------------------------------------------------------


class OutcomeKind(StrEnum):
    """What happened to an invocation, judged from evidence outside the sandbox (docs/explanation/sandbox.md)."""

    OK = "ok"
    BUNDLE_REJECTED = "bundle_rejected"
    INIT_ERROR = "init_error"
    USER_ERROR = "user_error"
    BAD_OUTPUT = "bad_output"
    OUTPUT_LIMIT = "output_limit"
    QUERY_DENIED = "query_denied"
    TIMEOUT = "timeout"
    INIT_TIMEOUT = "init_timeout"
    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    PIDS_LIMIT = "pids_limit"
    CRASH = "crash"
    EXIT = "exit"
    PROTOCOL_ERROR = "protocol_error"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    QUERY_UNAVAILABLE = "query_unavailable"
    HOST_OOM = "host_oom"
    BUNDLE_FETCH = "bundle_fetch"
    LOST_LEASE = "lost_lease"


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Seconds, bytes and counts. The defaults are those of a rule that asks for nothing else; `CAPS` are the most."""

    wall_s: float = 30.0
    init_s: float = 5.0
    cpu_s: float = 30.0
    memory: int = 256 << 20
    pids: int = 64
    tmp: int = 64 << 20
    output: int = 256 << 10  # stdout and stderr together
    response: int = 6 << 20
    events: int = 100_000
    event_bytes: int = 16 << 20
    queries: int = 64
    query_bytes: int = 64 << 20


CAPS: Final = SandboxLimits(  # hard: a rule file that asks for more is refused, and a sandbox gives no more
    wall_s=900.0,
    init_s=10.0,
    cpu_s=3600.0,  # wall time and one processor bound it before
    memory=3 << 30,
    pids=256,
    tmp=512 << 20,
    output=256 << 10,
    response=6 << 20,
    events=1_000_000,
    event_bytes=64 << 20,
    queries=256,
    query_bytes=512 << 20,
)
FLOOR_MEMORY: Final = 32 << 20  # less does not hold an interpreter


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of a handler. `directory`: the verified, extracted files; `payload`: the JSON document it is given.

    `request_id` is made from the task alone, equal in all its attempts. `language` is python, node or bootstrap;
    `entrypoint` is `module.function` (python, node) or the file name `bootstrap`. `may_query` and `may_emit`: what the
    bundle's statement asks for; nothing else is allowed.
    """

    request_id: UUID
    directory: str
    language: str
    entrypoint: str
    function: str
    version: str
    payload: bytes
    may_query: bool
    may_emit: bool
    limits: SandboxLimits = field(default_factory=SandboxLimits)


@dataclass(frozen=True, slots=True)
class Invoked:
    """How it ended. `events`: the emitted JSON Lines as they came (not yet validated), empty unless `outcome` is OK.

    `detail` says for people what limit or error it was, without control characters and host paths; `log` is the tail
    of what it printed, at most 4 KiB. `usage` has wall_s, cpu_s, memory (bytes, None without a
    cgroup), queries, events.
    """

    outcome: OutcomeKind
    detail: str
    response: bytes
    events: tuple[bytes, ...]
    log: str
    usage: Mapping[str, float | None]
