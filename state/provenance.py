"""Where an alert event comes from, in database `state`: its rule, bundle and evaluation, and the versions that it read.

Reads only. What the ledger keeps of a rule is its present state, so a change since the attempt is told.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from state import bundles, evaluations, rules, views
from state.cells import inputs_of
from state.db import Connection, statements
from trace_ray.alert_reports import BundleView, EvaluationView, Provenance, RuleReport
from trace_ray.alerts import AlertEvent, Evaluation, Rule
from trace_ray.bundle import signing
from trace_ray.contracts import VersionId
from trace_ray.errors import NotFound
from trace_ray.ledger_reports import Explanation

SQL: Final = statements("provenance")


def provenance(conn: Connection, event: AlertEvent) -> Provenance:
    """Return what the ledger knows of the origin of an event, however little that is."""
    source = evaluations.source(conn, event.task_id)
    if source is None or source.rule.org_id != event.org_id or source.rule.rule_id != event.rule_id:
        return Provenance(None, None, None, (), exact=False)
    evaluation = source.evaluation
    task, attempts = views.attempts(conn, event.org_id, event.task_id)
    report = rules.report(conn, event.org_id, source.rule.name, troubles=0)
    began = next((one.started_at for one in attempts if one.attempt == event.attempt), None)
    view = EvaluationView(evaluation, task, attempts, _changed(report, began))
    read = _read(conn, evaluation, event.draft.block_number)
    explained = tuple(_explained(conn, event, version) for version in read)
    exact = inputs_of(read) == evaluation.inputs
    return Provenance(report, _bundle(conn, source.rule), view, explained, exact=exact)


def _changed(report: RuleReport, began: datetime | None) -> bool:
    return began is None or report.updated_at > began


def _read(conn: Connection, evaluation: Evaluation, block: int) -> list[VersionId]:
    """Return the versions of the rule's datasets that hold a block in the evaluation's snapshot."""
    parameters = {"rule": evaluation.rule_id, "block": block, "as_of": evaluation.as_of}
    return [VersionId(row["dataset_version"]) for row in conn.execute(SQL["read"], parameters)]


def _explained(conn: Connection, event: AlertEvent, version: VersionId) -> Explanation:
    return views.explain(conn, event.org_id, str(version))


def _bundle(conn: Connection, rule: Rule) -> BundleView | None:
    try:
        found = bundles.find(conn, rule.org_id, rule.bundle)
    except NotFound:
        return None
    ring = bundles.keyring(conn, rule.org_id)
    signers: Sequence[tuple[str, str]] = signing.judged(signing.parse_envelope(found.envelope), ring)
    return BundleView(found, tuple(signers))
