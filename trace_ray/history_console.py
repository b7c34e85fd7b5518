"""How people see where an alert event comes from: lines and tables on a terminal, one JSON document for scripts."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from trace_ray.alert_console import event_document, rule_document
from trace_ray.alert_reports import AlertHistory, BundleView, EvaluationView, RanRule, StoredEvent
from trace_ray.console import out, print_json, printable, say
from trace_ray.delivery_console import delivery_document, print_deliveries
from trace_ray.ledger_console import attempts_document, explanation_document, print_attempts, print_explanation


def print_history(found: AlertHistory, *, as_json: bool) -> None:
    """Tell where an event comes from, from its deliveries back to the objects that were read."""
    if as_json:
        print_json(_document(found))
        return
    _print_event(found.event)
    _line(f"  block      {found.block.standing}: {found.block.reason}")
    if found.deliveries:
        print_deliveries(found.deliveries, (), as_json=False)
    else:
        _line("  delivered  to no channel")
    origin = found.origin
    if origin.rule is None or origin.evaluation is None:
        say("The ledger knows no rule and no evaluation of this event")
        return
    _print_rule(origin.rule)
    _print_bundle(origin.bundle)
    _print_evaluation(origin.evaluation)
    for one in origin.versions:
        print_explanation(one, as_json=False)
    if not origin.exact:
        say("The evaluation was planned for other versions: the rule named other datasets when the attempt began")


def _print_event(stored: StoredEvent) -> None:
    event, draft = stored.event, stored.event.draft
    gone = f", retracted {event.retracted_at:%Y-%m-%d %H:%M:%S}" if event.retracted_at else ""
    _line(f"Event {event.event_id} of rule {stored.rule}: {event.severity}, {event.mode}{gone}")
    _line(f"  key        {draft.dedupe_key}")
    _line(f"  about      block {draft.block_number} {draft.block_hash} of chain {draft.chain_id}")


def _print_rule(ran: RanRule) -> None:
    rule, said = ran.said.rule, ran.said
    _line(f"Rule {rule.name}: {rule.severity}, {rule.mode}")
    _line(f"  revision   {said.revision}, applied {said.applied_at:%Y-%m-%d %H:%M:%S}")
    _line(f"  parameters {dict(rule.parameters)}")
    _line(f"  datasets   {', '.join(rule.datasets)}")
    if not ran.recorded:
        say("The attempt is older than the record of revisions: this is the newest one, and it may have had another")
    elif ran.changed:
        say(f"That is what the attempt ran with; `trace-ray alerts show {rule.name}` shows revision {ran.newest}")


def _print_bundle(view: BundleView | None) -> None:
    if view is None:
        say("The bundle that the rule was pinned to is not in the ledger")
        return
    bundle = view.bundle
    _line(f"Bundle {bundle.name}@{bundle.version}, sha256 {bundle.digest}{', revoked' if bundle.revoked_at else ''}")
    for keyid, standing in view.signers:
        _line(f"  signed by  {keyid}, {standing}")


def _print_evaluation(view: EvaluationView) -> None:
    one = view.evaluation
    _line(f"Evaluation of blocks {one.blocks}, pinned to snapshot {one.as_of}")
    print_attempts(view.task, view.attempts, as_json=False)


# --- the document -------------------------------------------------------------------------------------------------


def _document(found: AlertHistory) -> dict[str, Any]:
    origin, draft = found.origin, found.event.event.draft
    return {
        "event": event_document(found.event),
        "delivery_id": str(found.asked) if found.asked else None,
        "deliveries": [delivery_document(one) for one in found.deliveries],
        "block": {
            "number": draft.block_number,
            "hash": draft.block_hash,
            "standing": found.block.standing,
            "reason": found.block.reason,
        },
        "rule": _rule(origin.rule),
        "bundle": _bundle(origin.bundle),
        "evaluation": _evaluation(origin.evaluation),
        "versions": [explanation_document(one) for one in origin.versions],
        "exact": origin.exact,
    }


def _rule(ran: RanRule | None) -> Mapping[str, Any] | None:
    if ran is None:
        return None
    said = ran.said
    facts = {"revision": said.revision, "applied_at": said.applied_at.isoformat(), "recorded": ran.recorded}
    return rule_document(said.rule) | facts | {"changed_since": ran.changed}


def _bundle(view: BundleView | None) -> Mapping[str, Any] | None:
    if view is None:
        return None
    bundle = view.bundle
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.digest,
        "key": bundle.key,
        "pushed_at": bundle.pushed_at.isoformat(),
        "revoked_at": bundle.revoked_at.isoformat() if bundle.revoked_at else None,
        "signers": [{"keyid": keyid, "standing": standing} for keyid, standing in view.signers],
    }


def _evaluation(view: EvaluationView | None) -> Mapping[str, Any] | None:
    if view is None:
        return None
    one = view.evaluation
    return {
        "range_start": one.blocks.start,
        "range_end": one.blocks.end,
        "snapshot": one.as_of,
        **attempts_document(view.task, view.attempts),
    }


def _line(text: str) -> None:
    out.print(Text(printable(text)))
