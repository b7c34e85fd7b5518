"""Operator: evaluation -> bundle in a sandbox -> drafts of events in the object store. Never touches a ledger.

Nothing leaves unless the handler ends well and every draft holds: an attempt gives all of its events or none.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID, uuid5

import httpx
import orjson

from actors.door import Door
from actors.orders import Evaluated, EvaluationGroup
from actors.sandbox.invoker import Ask, RuntimeInvoker
from actors.sandbox.store import BundleStore
from trace_ray import drafts
from trace_ray.alerts import (
    Evaluation,
    EvaluationLease,
    EventBatch,
    Invocation,
    Invoked,
    OutcomeKind,
    Rule,
    batch_key,
)
from trace_ray.bundle.manifest import Manifest
from trace_ray.bundle.pushed import UsableBundle
from trace_ray.contracts import GrantedDataset, TaskId
from trace_ray.errors import BundleRejected, DiskFull, ObjectMissing, StoreUnavailable
from trace_ray.outcomes import failure
from trace_ray.storage import ObjectStore

logger = logging.getLogger(__name__)

REQUESTS: Final = UUID(
    "6ba7b811-9dad-11d1-80b4-00c04fd430c8"
)  # namespace of request ids: a task has one, in all attempts


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a bundle is run for. `datasets`: what its rule may read, with or without files."""

    rule: Rule
    evaluation: Evaluation
    bundle: UsableBundle
    datasets: tuple[GrantedDataset, ...]


class Evaluator:
    """Runs evaluations one at a time and thread."""

    def __init__(
        self, invoker: RuntimeInvoker, bundles: BundleStore, objects: ObjectStore, http: httpx.Client, *, scratch: Path
    ) -> None:
        """Args: http: bound to the query service; scratch: a directory for files that live for a moment."""
        self._invoker = invoker
        self._bundles = bundles
        self._objects = objects
        self._http = http
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)

    def run(self, group: EvaluationGroup, cancelled: Callable[[], bool]) -> list[Evaluated]:
        """Run one evaluation. Whatever the bundle does is an outcome, never an error.

        Args:
            cancelled: True once the lease is lost: the sandbox is killed, and nothing is stored.
        """
        lease = group.lease
        invoked = self._invoke(group, cancelled)
        outcome, detail, batch = invoked.outcome, invoked.detail, None
        if outcome is OutcomeKind.OK and cancelled():
            outcome, detail = OutcomeKind.LOST_LEASE, "the lease was lost as it ended: nothing is published"
        if outcome is OutcomeKind.OK:
            try:
                batch = self._store(lease, b"".join(line + b"\n" for line in invoked.events))
            except drafts.BadBatch as error:
                outcome, detail = OutcomeKind.BAD_OUTPUT, error.reason
            except (StoreUnavailable, DiskFull) as error:
                outcome, detail = OutcomeKind.BUNDLE_FETCH, str(error)
        logger.info(
            "evaluation ended",
            extra={"task_id": str(lease.evaluation.task_id), "rule": lease.rule.name, "outcome": outcome.value},
        )
        seconds = {"invoke": float(invoked.usage.get("wall_s") or 0.0)}
        return [Evaluated(lease.key, batch, failure(lease.key, outcome, _with_log(detail, invoked.log)), seconds)]

    def _invoke(self, group: EvaluationGroup, cancelled: Callable[[], bool]) -> Invoked:
        door = Door(self._http, self._objects, group.lease, group.token, scratch=self._scratch)
        what = Assignment(group.lease.rule, group.lease.evaluation, group.bundle, group.datasets)
        return invoke(self._invoker, self._bundles, what, door, cancelled)

    def _store(self, lease: EvaluationLease, lines: bytes) -> EventBatch | None:
        """Check the drafts and put them into the object store."""
        evaluation = lease.evaluation
        found = drafts.read(lines, rule_id=evaluation.rule_id, chain_id=evaluation.chain_id, blocks=evaluation.blocks)
        if not found:
            return None
        key = batch_key(evaluation.task_id, lease.attempt)
        with TemporaryDirectory(dir=self._scratch) as directory:
            path = Path(directory) / "batch.jsonl"
            path.write_bytes(lines)
            self._objects.put(path, key)
        return EventBatch(
            attempt=lease.key,
            org_id=lease.rule.org_id,
            rule_id=evaluation.rule_id,
            batch_uri=key,
            digest=hashlib.sha256(lines).hexdigest(),
            size=len(lines),
            events=lines.count(b"\n"),
        )


def invoke(
    invoker: RuntimeInvoker, bundles: BundleStore, what: Assignment, ask: Ask, cancelled: Callable[[], bool]
) -> Invoked:
    """Run a bundle over the blocks of an evaluation. Also a bundle that cannot be had is an outcome."""
    try:
        with bundles.use(what.bundle.bundle, what.bundle.keyring) as stored:
            return invoker.invoke(_invocation(what, stored.directory, stored.manifest), ask, cancelled)
    except BundleRejected as error:
        return _not_run(OutcomeKind.BUNDLE_REJECTED, f"{error.code}: {error}")
    except (ObjectMissing, StoreUnavailable, DiskFull) as error:
        return _not_run(OutcomeKind.BUNDLE_FETCH, str(error))


def _invocation(what: Assignment, directory: Path, manifest: Manifest) -> Invocation:
    rule, evaluation = what.rule, what.evaluation
    payload = {
        "alert_definition_id": str(evaluation.rule_id),
        "rule": rule.name,
        "severity": rule.severity.value,
        "parameters": dict(rule.parameters),
        "chain_id": evaluation.chain_id,
        "range": {"from_block": evaluation.blocks.start, "to_block": evaluation.blocks.end},
        "snapshot": evaluation.as_of,
        "datasets": {
            one.name: {"snapshot": one.snapshot, "from_block": one.from_block, "to_block": one.to_block}
            for one in what.datasets
        },
    }
    return Invocation(
        request_id=request_id(evaluation.task_id),
        directory=str(directory),
        language=manifest.language.value,
        entrypoint=manifest.entrypoint,
        function=manifest.name,
        version=manifest.version,
        payload=orjson.dumps(payload),
        may_query=manifest.query,
        may_emit=manifest.events,
        limits=rule.limits,
    )


def request_id(task_id: TaskId) -> UUID:
    """Return the request id of a task: equal in all its attempts, so that keys made from it are idempotent."""
    return uuid5(REQUESTS, f"request/{task_id}")


def _not_run(outcome: OutcomeKind, detail: str) -> Invoked:
    return Invoked(outcome, detail, b"", (), "", {})


def _with_log(detail: str, log: str) -> str:
    return f"{detail}\n{log}" if log else detail
