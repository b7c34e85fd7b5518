"""How people see alert rules and events: tables on a terminal, one JSON document for scripts."""

import json
from collections.abc import Mapping, Sequence

from trace_ray.alert_reports import AppliedRule, RuleReport, StoredEvent
from trace_ray.alerts import Rule
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.console import out, print_json, say, table
from trace_ray.contracts import BlockRange, by_range

STATES = ("queued", "running", "succeeded", "dead", "cancelled")


def print_applied(applied: AppliedRule, planned: int | None, lacks: Sequence[str], *, as_json: bool) -> None:
    """Print the rule's id on stdout and what changed as notes.

    `planned` counts evaluations of what was published, None when none was asked for. `lacks`: a sentence for each
    thing that keeps its alerts from being heard.
    """
    if as_json:
        changes = list(applied.changes)
        document = {"rule_id": str(applied.rule_id), "created": applied.created, "changes": changes, "planned": planned}
        print_json(document | {"lacks": list(lacks)})
        return
    out.print(str(applied.rule_id), markup=False)
    for change in applied.changes:
        say(change)
    if not applied.changes:
        say(f"Rule {applied.rule.name} is unchanged")
    for sentence in lacks:
        say(f"Note: {sentence}")
    if applied.created and planned is None:
        say("It looks at what is published from now on; with --since BLOCK also at what is there already")
    if planned is not None:
        say(f"{planned} evaluation{'' if planned == 1 else 's'} of what is published already planned")


def print_rules(found: Sequence[RuleReport], *, as_json: bool) -> None:
    """List rules with their evaluations by state."""
    if as_json:
        print_json({"rules": [_document(one) for one in found]})
    elif not found:
        say("No rule yet: `trace-ray alerts apply -f RULE.yaml` adds one")
    else:
        rows = (
            (
                one.rule.name,
                one.rule.severity,
                one.rule.mode if one.rule.enabled else "paused",
                ", ".join(one.rule.datasets),
                ", ".join(one.rule.channels) or "none",
                *(f"{one.evaluations.get(state, 0):,}" for state in STATES[:4]),
            )
            for one in found
        )
        out.print(table(("rule", "severity", "mode", "datasets", "channels", *STATES[:4]), rows))


def print_rule(found: RuleReport, bundle: PushedBundle | None, *, as_json: bool) -> None:
    """Show all that a rule says and how its evaluations stand. `bundle`: what it is pinned to."""
    if as_json:
        print_json(_document(found) | {"troubles": _troubles(found)})
        return
    document = _document(found)
    evaluations = document.pop("evaluations")
    rows = [(key, _shown(value)) for key, value in document.items()]
    rows.append(("evaluations", _shown(evaluations)))
    out.print(table(("", ""), rows))
    if bundle is not None and bundle.revoked_at is not None:
        again = f"push another version, and apply {found.rule.name} with it"
        say(f"Its bundle {bundle.name}@{bundle.version} is revoked, so that nothing of it runs: {again}")
    if not found.rule.enabled:
        waiting = found.evaluations.get("queued", 0)
        waits = f"{_evaluations(waiting)} wait{'s' if waiting == 1 else ''}" if waiting else "nothing waits"
        say(f"{found.rule.name} is paused, and {waits} for `trace-ray alerts resume {found.rule.name}`")
    if found.troubles:
        headings = ("task", "blocks", "state", "attempt", "trouble")
        troubles = ((one.task_id, one.blocks, one.state, one.attempt, one.message) for one in found.troubles)
        out.print(table(headings, troubles))
    if found.evaluations.get("dead"):
        say(f"Mend the cause, then `trace-ray alerts retry {found.rule.name}` puts dead ones back")


def print_resumed(found: RuleReport, left_out: Sequence[BlockRange], *, paused: bool, as_json: bool) -> None:
    """Tell how a rule goes on.

    Args:
        left_out: Blocks of the evaluations that were left out, in order.
        paused: Whether it was until now.
    """
    name, queued, skipped = found.rule.name, found.evaluations.get("queued", 0), by_range(left_out)
    if as_json:
        document = {"rule": name, "rule_id": str(found.rule.rule_id), "was_paused": paused, "queued": queued}
        blocks = [[one.start, one.end] for one in skipped]
        print_json(document | {"left_out": len(left_out), "left_out_blocks": blocks})
        return
    if not paused:
        say(f"{name} was not paused: nothing has changed")
        return
    say(f"{name} goes on; {_evaluations(queued)} waited" if queued else f"{name} goes on; nothing waits")
    if left_out:
        say(f"{_evaluations(len(left_out))} left out: blocks {', '.join(map(str, skipped))}")
        say("`trace-ray alerts apply -f RULE.yaml --since BLOCK` evaluates them after all")


def _evaluations(count: int) -> str:
    return f"{count} evaluation{'' if count == 1 else 's'}"


def print_retried(rule: Rule, count: int, *, as_json: bool) -> None:
    """Tell how many dead evaluations of a rule were put back."""
    if as_json:
        print_json({"rule": rule.name, "rule_id": str(rule.rule_id), "enabled": rule.enabled, "retried": count})
        return
    if not count:
        say(f"{rule.name} has no dead evaluation: nothing to put back")
        return
    say(f"{count} dead evaluation{'' if count == 1 else 's'} of {rule.name} put back")
    if not rule.enabled:
        say(f"{rule.name} is paused: they wait until `trace-ray alerts resume {rule.name}`")


def print_events(found: Sequence[StoredEvent], *, as_json: bool) -> None:
    """List alert events."""
    if as_json:
        print_json({"events": [event_document(one) for one in found]})
    elif not found:
        say("No event yet")
    else:
        rows = (
            (
                one.event.created_at.strftime("%Y-%m-%d %H:%M:%S"),
                one.rule,
                one.event.severity,
                _mark(one),
                one.event.draft.block_number,
                one.event.draft.dedupe_key,
                json.dumps(dict(one.event.draft.payload), ensure_ascii=False),
            )
            for one in found
        )
        out.print(table(("at", "rule", "severity", "mode", "block", "dedupe key", "payload"), rows))


def event_document(stored: StoredEvent) -> dict[str, object]:
    """Return an event as JSON."""
    event, draft = stored.event, stored.event.draft
    return {
        "event_id": str(event.event_id),
        "rule": stored.rule,
        "rule_id": str(event.rule_id),
        "task_id": str(event.task_id),
        "attempt": event.attempt,
        "severity": event.severity,
        "mode": event.mode,
        "dedupe_key": draft.dedupe_key,
        "event_time": draft.event_time.isoformat(),
        "chain_id": draft.chain_id,
        "block_number": draft.block_number,
        "block_hash": draft.block_hash,
        "tx_hash": draft.tx_hash,
        "payload": dict(draft.payload),
        "created_at": event.created_at.isoformat(),
        "retracted_at": event.retracted_at.isoformat() if event.retracted_at else None,
    }


def _document(found: RuleReport) -> dict[str, object]:
    return {
        **rule_document(found.rule),
        "revision": found.revision,
        "created_at": found.created_at.isoformat(),
        "updated_at": found.updated_at.isoformat(),
        "evaluations": {state: found.evaluations.get(state, 0) for state in STATES},
    }


def rule_document(rule: Rule) -> dict[str, object]:
    """Return what a rule says as JSON."""
    return {
        "rule": rule.name,
        "rule_id": str(rule.rule_id),
        "bundle": rule.bundle,
        "datasets": list(rule.datasets),
        "parameters": dict(rule.parameters),
        "channels": list(rule.channels),
        "severity": rule.severity,
        "mode": rule.mode,
        "enabled": rule.enabled,
        "timeout_seconds": rule.timeout_s,
        "memory_mib": rule.memory_mib,
        "max_delivery_age_seconds": rule.max_delivery_age_s,
        "throttle": rule.throttle and {"count": rule.throttle.count, "per_seconds": rule.throttle.per_s},
    }


def _troubles(found: RuleReport) -> list[dict[str, object]]:
    return [
        {
            "task_id": str(one.task_id),
            "range_start": one.blocks.start,
            "range_end": one.blocks.end,
            "state": one.state,
            "attempt": one.attempt,
            "kind": one.kind,
            "message": one.message,
            "at": one.at.isoformat(),
        }
        for one in found.troubles
    ]


def _mark(one: StoredEvent) -> str:
    return "retracted" if one.event.retracted_at else one.event.mode


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list | bool) or value is None:
        return json.dumps(value, ensure_ascii=False)
    return str(value)
