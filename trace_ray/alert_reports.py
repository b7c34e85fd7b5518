"""Frozen values that tell people about rules, their evaluations and their events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from trace_ray.alerts import AlertEvent, DeliveryId, Evaluation, Rule, RuleId
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.contracts import BlockRange, TaskId
from trace_ray.ledger_reports import AttemptView, Explanation, TaskView
from trace_ray.notices import DeliveryView


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """What applying a rule file did: one sentence per change; none means that all was so already.

    `rule` is as the ledger holds it: `bundle` is the pinned digest.
    """

    rule: Rule
    created: bool
    changes: tuple[str, ...]

    @property
    def rule_id(self) -> RuleId:
        return self.rule.rule_id


@dataclass(frozen=True, slots=True)
class EvaluationTrouble:
    """An evaluation that failed and is not done."""

    task_id: TaskId
    blocks: BlockRange
    state: str
    attempt: int
    kind: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RuleReport:
    """A rule with its evaluations by state (queued, running, succeeded, dead, cancelled; absent when there is none).

    `revision` counts from 1, by one with each change of what the rule's file says.
    """

    rule: Rule
    revision: int
    created_at: datetime
    updated_at: datetime
    evaluations: Mapping[str, int]
    troubles: tuple[EvaluationTrouble, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleRevision:
    """What a rule said from `applied_at` until the next revision; `enabled` is as it is now."""

    rule: Rule
    revision: int
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An alert event with the name that its rule had when it was accepted."""

    rule: str
    event: AlertEvent


# --- where an event comes from ------------------------------------------------------------------------------------


class BlockStanding(StrEnum):
    """Whether the block of an event is the published one."""

    PUBLISHED = "published"
    REPLACED = "replaced"  # its number has rows, none of them with its hash
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BlockView:
    """How the block of an event stands now, and in words which dataset says so."""

    standing: BlockStanding
    reason: str


@dataclass(frozen=True, slots=True)
class BundleView:
    """A bundle and its signatures: keyid, and `trusted`, `expired`, `revoked`, `invalid` or `unknown`."""

    bundle: PushedBundle
    signers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """An evaluation with its attempts."""

    evaluation: Evaluation
    task: TaskView
    attempts: tuple[AttemptView, ...]


@dataclass(frozen=True, slots=True)
class RanRule:
    """The rule as the attempt that gave an event ran with it.

    `recorded`: whether the ledger knows; it does not of attempts older than its record, and has the newest revision
    then. `newest`: number of the rule's newest revision.
    """

    said: RuleRevision
    newest: int
    recorded: bool

    @property
    def changed(self) -> bool | None:
        """Whether the rule says something else now; None when nobody knows."""
        return self.said.revision != self.newest if self.recorded else None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an event comes from; None where the ledger knows nothing.

    `rule` and `bundle` are those that the attempt ran with. `versions` hold the event's block and are those that it
    could read; `exact`: they are what the evaluation was planned for, by the digest that its id is made from.
    """

    rule: RanRule | None
    bundle: BundleView | None
    evaluation: EvaluationView | None
    versions: tuple[Explanation, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class AlertHistory:
    """An event, its deliveries and its origin. `asked`: the delivery that was named."""

    event: StoredEvent
    asked: DeliveryId | None
    deliveries: tuple[DeliveryView, ...]
    block: BlockView
    origin: Provenance
