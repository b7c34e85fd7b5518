"""How people see users, roles and the audit: tables on a terminal, one JSON document for scripts."""

from collections.abc import Mapping, Sequence

from trace_ray.access import AuditRow, User
from trace_ray.console import out, print_json, say, table


def print_users(found: Sequence[User], *, as_json: bool) -> None:
    """List users with their roles."""
    if as_json:
        documents = [
            {
                "user": user.name,
                "subject": user.subject,
                "roles": sorted(user.roles),
                "enabled": user.enabled,
                "created_at": user.created_at.isoformat(),
            }
            for user in found
        ]
        print_json({"users": documents})
    elif not found:
        say("No user yet: `trace-ray token --user NAME` adds one")
    else:
        rows = ((user.name, role_names(user.roles), "yes" if user.enabled else "no", user.subject) for user in found)
        out.print(table(("user", "roles", "may ask", "subject"), rows))


def print_read_roles(found: Mapping[str, frozenset[str]], *, as_json: bool) -> None:
    """List datasets with the roles that may read them."""
    if as_json:
        print_json({"datasets": [{"dataset": name, "read_roles": sorted(roles)} for name, roles in found.items()]})
    elif not found:
        say("No dataset yet: apply a job file first")
    else:
        out.print(table(("dataset", "read by"), ((name, readers_of(roles)) for name, roles in found.items())))


def print_audit(found: Sequence[AuditRow], *, as_json: bool) -> None:
    """List questions, as the audit keeps them."""
    if as_json:
        print_json({"queries": [audit_document(row) for row in found]})
    elif not found:
        say("Nobody has asked the query service yet, or not so")
    else:
        headings = ("at", "who", "outcome", "datasets", "rows", "bytes", "seconds", "query")
        out.print(table(headings, (_audit_cells(row) for row in found)))


def audit_document(row: AuditRow) -> dict[str, object]:
    """Return a row of the audit as JSON."""
    return {
        "query_id": str(row.query_id),
        "at": row.at.isoformat() if row.at else None,
        "user": row.user,
        "task_id": str(row.task_id) if row.task_id else None,
        "attempt": row.attempt,
        "datasets": [{"name": one.name, "snapshot": one.snapshot} for one in row.datasets],
        "outcome": row.outcome,
        "reason": row.reason,
        "rows": row.rows,
        "bytes": row.bytes,
        "bytes_read": row.bytes_read,
        "seconds": row.seconds,
        "sql_hash": row.sql_hash,
        "hostile": row.hostile,
        "killed": row.killed,
    }


def role_names(roles: frozenset[str]) -> str:
    return f"role{'' if len(roles) == 1 else 's'} {', '.join(sorted(roles))}" if roles else "no role"


def readers_of(roles: frozenset[str]) -> str:
    return f"users with role {' or '.join(sorted(roles))}" if roles else "every user"


def _audit_cells(row: AuditRow) -> tuple[object, ...]:
    who = row.user or (f"task {row.task_id}, attempt {row.attempt}" if row.task_id else "(token refused)")
    outcome = f"{row.outcome} ({row.reason})" if row.reason else row.outcome
    marked = f"{outcome}, hostile" if row.hostile else outcome
    named = ", ".join(f"{one.name} at {one.snapshot}" for one in row.datasets)
    at = row.at.strftime("%Y-%m-%d %H:%M:%S") if row.at else ""
    return at, who, marked, named, f"{row.rows:,}", f"{row.bytes:,}", f"{row.seconds:.3f}", row.query_id
