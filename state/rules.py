"""The ledger of alert rules: what users declared, and which bundle it is pinned to. The caller owns the transaction.

Evaluations of rules are in `state.evaluations`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from psycopg.types.json import Jsonb

from state import arrays, rule_changes
from state.db import Connection, Row, statements
from trace_ray.alert_reports import AppliedRule, EvaluationTrouble, RuleReport, RuleRevision
from trace_ray.alerts import Mode, Rule, RuleId, Severity, Throttle
from trace_ray.contracts import BlockRange, DatasetUuid, OrgId, TaskId
from trace_ray.errors import NotFound, RefusedInput

SQL: Final = statements("rules")

Resolve = Callable[[Connection, OrgId, str], str]
"""Finds the digest of a bundle that a rule file names: by digest, `name@version` or `name`. Raises NotFound."""


def apply(conn: Connection, rule: Rule, resolve: Resolve) -> AppliedRule:
    """Create or update a rule; the same file again changes nothing. What was published before is left alone.

    Raises:
        RefusedInput: with one sentence per problem, and nothing is changed.
    """
    conn.execute(SQL["lock_organisation"], {"org": rule.org_id})
    rule, watched = pinned(conn, rule, resolve)
    known = by_ids(conn, [rule.rule_id]).get(rule.rule_id)
    changes = tuple(rule_changes.sentences(rule, known))
    if changes:
        _save(conn, rule, watched)
    if known is None or rule_changes.sentences(replace(rule, enabled=known.enabled), known):  # a pause is no revision
        conn.execute(SQL["revise"], {"rule": rule.rule_id})
    return AppliedRule(rule, known is None, changes)


def pinned(conn: Connection, rule: Rule, resolve: Resolve) -> tuple[Rule, list[DatasetUuid]]:
    """Return a rule as its file says it, pinned to its bundle, and the datasets that it watches; nothing is changed.

    Raises:
        RefusedInput: with one sentence per problem.
    """
    problems: list[str] = []
    watched = _watched(conn, rule, problems)
    try:
        rule = replace(rule, bundle=resolve(conn, rule.org_id, rule.bundle))
    except RefusedInput as error:
        problems += [f"bundle: {problem}" for problem in error.problems]
    if problems:
        raise RefusedInput(problems)
    return rule, watched


def pause(conn: Connection, org_id: OrgId, name: str) -> None:
    """Lease no evaluation of a rule any more; planned ones wait, and the Dispatcher withdraws those that run.

    Raises NotFound.
    """
    _set_enabled(conn, org_id, name, enabled=False)


def resume(conn: Connection, org_id: OrgId, name: str) -> bool:
    """Go on with a rule: with all that waits. Return whether it was paused. Raises NotFound."""
    return not _set_enabled(conn, org_id, name, enabled=True)


def listing(conn: Connection, org_id: OrgId) -> list[RuleReport]:
    """Return the rules of an organisation by name, each with its evaluations counted."""
    rows = conn.execute(SQL["find"], {"rules": None, "org": org_id}).fetchall()
    counts = _counts(conn, [row["rule_id"] for row in rows])
    return [_report(row, counts.get(row["rule_id"], {})) for row in rows]


def report(conn: Connection, org_id: OrgId, name: str, *, troubles: int = 10) -> RuleReport:
    """Return a rule, its evaluations counted, and its newest troubles. Raises NotFound."""
    for one in listing(conn, org_id):
        if one.rule.name == name:
            rows = conn.execute(SQL["troubles"], {"rule": one.rule.rule_id, "limit": troubles})
            return replace(one, troubles=tuple(map(_trouble, rows)))
    raise _not_found(conn, org_id, name)


def by_ids(conn: Connection, ids: Collection[RuleId]) -> dict[RuleId, Rule]:
    """Return rules by their ids; those that do not exist are absent."""
    rows = conn.execute(SQL["find"], {"rules": list(ids), "org": None})
    return {RuleId(row["rule_id"]): _rule(row) for row in rows}


def revisions(conn: Connection, wanted: Collection[tuple[RuleId, int]]) -> dict[tuple[RuleId, int], RuleRevision]:
    """Return what rules said, by rule and revision; those that do not exist are absent.

    Datasets have the names that they have now, and `enabled` says how the rule is now.
    """
    ids, numbers = [rule for rule, _ in wanted], [number for _, number in wanted]
    rows = conn.execute(SQL["revisions"], {"rules": arrays.uuids(ids), "revisions": arrays.ints(numbers)})
    return {
        (RuleId(row["rule_id"]), row["revision"]): RuleRevision(_rule(row), row["revision"], row["applied_at"])
        for row in rows
    }


def any_enabled(conn: Connection) -> bool:
    """Say whether there is an enabled rule in any organisation."""
    (row,) = conn.execute(SQL["any_enabled"])
    return bool(row["enabled"])


# --- parts --------------------------------------------------------------------------------------------------------


def _watched(conn: Connection, rule: Rule, problems: list[str]) -> list[DatasetUuid]:
    rows = conn.execute(SQL["datasets"], {"org": rule.org_id, "names": list(rule.datasets)}).fetchall()
    found = {row["name"]: row for row in rows}
    missing = [name for name in rule.datasets if name not in found]
    if missing:
        known = [row["name"] for row in conn.execute(SQL["dataset_names"], {"org": rule.org_id})]
        hint = f"choose one of {', '.join(known)}" if known else "apply a job file first"
        problems += [f"datasets: there is no dataset {name}: {hint}" for name in missing]
    chains = sorted({row["chain_id"] for row in rows})
    if len(chains) > 1:
        named = ", ".join(map(str, chains))
        problems.append(f"datasets: they are of the chains {named}: write a rule for each chain")
    return [DatasetUuid(found[name]["dataset_uuid"]) for name in rule.datasets if name in found]


def _save(conn: Connection, rule: Rule, watched: Sequence[DatasetUuid]) -> None:
    values = {
        "rule": rule.rule_id,
        "org": rule.org_id,
        "name": rule.name,
        "bundle": rule.bundle,
        "parameters": Jsonb(dict(rule.parameters)),
        "channels": list(rule.channels),
        "severity": rule.severity,
        "mode": rule.mode,
        "enabled": rule.enabled,
        "timeout_s": rule.timeout_s,
        "memory_mib": rule.memory_mib,
        "max_delivery_age_s": rule.max_delivery_age_s,
        "throttle_count": rule.throttle.count if rule.throttle else None,
        "throttle_per_s": rule.throttle.per_s if rule.throttle else None,
        "yaml_hash": rule.yaml_hash,
    }
    conn.execute(SQL["save"], values)
    conn.execute(SQL["drop_datasets"], {"rule": rule.rule_id})
    conn.execute(SQL["add_datasets"], {"rule": rule.rule_id, "datasets": list(watched)})


def _set_enabled(conn: Connection, org_id: OrgId, name: str, *, enabled: bool) -> bool:
    found = conn.execute(SQL["set_enabled"], {"org": org_id, "name": name, "enabled": enabled}).fetchone()
    if found is None:
        raise _not_found(conn, org_id, name)
    return bool(found["before"])


def _not_found(conn: Connection, org_id: OrgId, name: str) -> NotFound:
    known = [row["name"] for row in conn.execute(SQL["names"], {"org": org_id})]
    hint = f"choose one of {', '.join(known)}" if known else "apply a rule file first"
    return NotFound(f"there is no rule {name}: {hint}")


def _counts(conn: Connection, ids: Sequence[RuleId]) -> dict[RuleId, dict[str, int]]:
    found: dict[RuleId, dict[str, int]] = {}
    for row in conn.execute(SQL["counts"], {"rules": list(ids)}):
        found.setdefault(RuleId(row["rule_id"]), {})[row["state"]] = row["evaluations"]
    return found


# --- rows ---------------------------------------------------------------------------------------------------------


def _rule(row: Row) -> Rule:
    count = row["throttle_count"]
    return Rule(
        org_id=OrgId(row["org_id"]),
        name=row["name"],
        bundle=row["bundle"],
        datasets=tuple(row["datasets"]),
        parameters=row["parameters"],
        channels=tuple(row["channels"]),
        severity=Severity(row["severity"]),
        mode=Mode(row["mode"]),
        enabled=row["enabled"],
        timeout_s=row["timeout_s"],
        memory_mib=row["memory_mib"],
        max_delivery_age_s=row["max_delivery_age_s"],
        throttle=None if count is None else Throttle(count, row["throttle_per_s"]),
        yaml_hash=row["yaml_hash"],
    )


def _report(row: Row, evaluations: dict[str, int]) -> RuleReport:
    return RuleReport(_rule(row), row["revision"], row["created_at"], row["updated_at"], evaluations)


def _trouble(row: Row) -> EvaluationTrouble:
    error = row["error"]
    return EvaluationTrouble(
        task_id=TaskId(row["task_id"]),
        blocks=BlockRange(row["range_start"], row["range_end"]),
        state=row["state"],
        attempt=row["attempt"],
        kind=error["kind"],
        message=error["message"],
        at=datetime.fromisoformat(error["at"]),
    )
