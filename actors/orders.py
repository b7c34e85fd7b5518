"""What travels between the Dispatcher and its workers: ranges and evaluations, each with its own way to end."""

from dataclasses import dataclass, field

from trace_ray.alerts import EvaluationLease, EventBatch
from trace_ray.bundle.pushed import UsableBundle
from trace_ray.contracts import AttemptKey, Failure, GrantedDataset, LeaseGroup, Outcome, WorkerId


@dataclass(frozen=True, slots=True)
class EvaluationGroup:
    """One evaluation with all that its worker needs: the bundle and its keys, what may be read, the token for that."""

    lease: EvaluationLease
    bundle: UsableBundle
    datasets: tuple[GrantedDataset, ...]  # without their files: the query service finds those by the token
    token: str = field(repr=False)

    @property
    def worker_id(self) -> WorkerId:
        return self.lease.worker_id

    @property
    def leases(self) -> tuple[EvaluationLease]:
        return (self.lease,)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How an attempt of an evaluation ended: with events, with none, or with a failure. `seconds`: by stage."""

    attempt: AttemptKey
    batch: EventBatch | None
    failure: Failure | None
    seconds: dict[str, float]


Group = LeaseGroup | EvaluationGroup
Result = Outcome | Evaluated
