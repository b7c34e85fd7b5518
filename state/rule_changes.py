"""Compares a rule with what the ledger holds: what changes, in words. Pure."""

import json
from collections.abc import Iterator, Sequence

from trace_ray.alerts import Rule, Throttle


def sentences(rule: Rule, known: Rule | None) -> list[str]:
    """Return one sentence for each thing that applying the rule changes; both have the pinned digest as `bundle`."""
    if known is None:
        return [f"rule {rule.name} created: bundle {rule.bundle} on {', '.join(rule.datasets)}"]
    return list(_changes(rule, known))


def _changes(rule: Rule, known: Rule) -> Iterator[str]:
    if rule.enabled != known.enabled:
        yield "rule resumed" if rule.enabled else "rule paused"
    if _parameters(rule) != _parameters(known):
        yield "parameters changed"
    for (key, new), (_, old) in zip(_shown(rule), _shown(known), strict=True):
        if new != old:
            yield f"{key} changed from {old} to {new}"


def _parameters(rule: Rule) -> str:
    return json.dumps(dict(rule.parameters), sort_keys=True)  # True is no 1, as it would be to ==


def _shown(rule: Rule) -> list[tuple[str, str]]:
    """Return what can be shown in a sentence, by the key of the file."""
    return [
        ("bundle", rule.bundle),
        ("datasets", _names(rule.datasets)),
        ("channels", _names(rule.channels)),
        ("severity", rule.severity),
        ("mode", rule.mode),
        ("timeout_seconds", f"{rule.timeout_s:g}"),
        ("memory_mib", str(rule.memory_mib)),
        ("max_delivery_age_seconds", _age(rule.max_delivery_age_s)),
        ("throttle", _throttle(rule.throttle)),
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _age(age_s: float | None) -> str:
    return "none" if age_s is None else f"{age_s:g}"


def _throttle(throttle: Throttle | None) -> str:
    return "none" if throttle is None else f"{throttle.count} per {throttle.per_s:g} s"
