"""Frozen values that tell people about rules, their evaluations and their events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from trace_ray.alerts import AlertEvent, Rule, RuleId
from trace_ray.contracts import BlockRange, TaskId


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
    """A rule with its evaluations by state (queued, running, succeeded, dead, cancelled; absent when there is none)."""

    rule: Rule
    created_at: datetime
    updated_at: datetime
    evaluations: Mapping[str, int]
    troubles: tuple[EvaluationTrouble, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An alert event with the name that its rule had when it was accepted."""

    rule: str
    event: AlertEvent
