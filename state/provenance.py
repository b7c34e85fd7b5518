"""Where an alert event comes from, in database `state`: its rule, bundle and evaluation, and the versions that it read.

Reads only. Rule, bundle and datasets are those of the attempt that gave the event, whatever the rule says now.
"""

from collections.abc import Sequence
from typing import Final

from state import bundles, evaluations, rules, views
from state.cells import inputs_of
from state.db import Connection, statements
from trace_ray.alert_reports import BundleView, EvaluationView, Provenance, RanRule
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
    ran = _ran(conn, event)
    read = _read(conn, evaluation, ran.said.revision, event.draft.block_number)
    explained = tuple(_explained(conn, event, version) for version in read)
    exact = inputs_of(read) == evaluation.inputs
    view = EvaluationView(evaluation, task, attempts)
    return Provenance(ran, _bundle(conn, ran.said.rule), view, explained, exact=exact)


def _ran(conn: Connection, event: AlertEvent) -> RanRule:
    """Return the rule of an event as its attempt ran with it. The rule must exist."""
    (row,) = conn.execute(SQL["ran"], {"task": event.task_id, "attempt": event.attempt})
    recorded, newest = row["rule_revision"], row["newest"]
    number = newest if recorded is None else recorded
    return RanRule(
        rules.revisions(conn, [(event.rule_id, number)])[event.rule_id, number], newest, recorded is not None
    )


def _read(conn: Connection, evaluation: Evaluation, revision: int, block: int) -> list[VersionId]:
    """Return the versions of the revision's datasets that hold a block in the evaluation's snapshot."""
    parameters = {"rule": evaluation.rule_id, "revision": revision, "block": block, "as_of": evaluation.as_of}
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
