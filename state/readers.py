"""Who may read what: the users of organisations, their roles, and the roles that a dataset asks for.

A user belongs to one organisation, which its row names; a token never does. A dataset without `read_roles` is open to
every user of its organisation.
"""

from collections.abc import Sequence
from typing import Final

from psycopg import errors as pg

from state.db import Connection, Row, statements
from trace_ray.access import MAX_SUBJECT, Reader, User, check_roles, check_user_name, user_subject
from trace_ray.contracts import OrgId
from trace_ray.errors import NotFound, RefusedInput, TokenFault, TokenRefused

SQL: Final = statements("readers")
OWN_SUBJECTS: Final = ("user:", "task:")  # no identity provider can speak for our own users and tasks


def reader(conn: Connection, subject: str) -> Reader:
    """Return the user whom a verified token names.

    Raises:
        TokenRefused: there is no such user, or it is disabled; which of the two is not told.
    """
    row = conn.execute(SQL["reader"], {"subject": subject}).fetchone()
    if row is None:
        raise TokenRefused(TokenFault.UNKNOWN_USER)
    return Reader(OrgId(row["org_id"]), row["name"], frozenset(row["roles"]))


def add_user(
    conn: Connection, org_id: OrgId, name: str, roles: Sequence[str] | None = None, *, subject: str | None = None
) -> User:
    """Create a user, or give it other roles; None leaves the roles of a user as they are.

    `subject` is the `sub` of the tokens that an identity provider gives the user; without it, it is made from the
    organisation and the name. A disabled user stays disabled.

    Raises:
        RefusedInput: the name, a role or the subject is wrong, or another user has the subject.
    """
    if subject is not None and (
        not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable() or subject.startswith(OWN_SUBJECTS)
    ):
        raise RefusedInput(
            f"a subject has 1 to {MAX_SUBJECT} visible characters and does not begin as those that trace-ray makes: "
            "write another"
        )
    values = {
        "org": org_id,
        "name": check_user_name(name),
        "roles": None if roles is None else check_roles(roles),
        "subject": subject,
        "default_subject": user_subject(org_id, name),
    }
    try:
        with conn.transaction():
            (row,) = conn.execute(SQL["save"], values)
    except pg.UniqueViolation:
        raise RefusedInput("another user has this subject: each one belongs to one user") from None
    return _user(row)


def enable_user(conn: Connection, org_id: OrgId, name: str, *, enabled: bool) -> None:
    """Let a user ask, or refuse all its tokens from now on.

    Raises:
        NotFound
    """
    if conn.execute(SQL["enable"], {"org": org_id, "name": name, "enabled": enabled}).fetchone() is None:
        raise NotFound(f"there is no user {name}: `trace-ray users` lists them")


def users(conn: Connection, org_id: OrgId) -> list[User]:
    """Return the users of an organisation by name."""
    return [_user(row) for row in conn.execute(SQL["users"], {"org": org_id})]


def read_roles(conn: Connection, org_id: OrgId) -> dict[str, frozenset[str]]:
    """Return the roles that each dataset asks for, by name; an empty set for one that is open to all users."""
    return {row["name"]: frozenset(row["read_roles"]) for row in conn.execute(SQL["read_roles"], {"org": org_id})}


def set_read_roles(conn: Connection, org_id: OrgId, dataset: str, roles: Sequence[str]) -> None:
    """Let users with one of the roles read a dataset; without roles, every user of its organisation.

    Raises:
        RefusedInput: a role is wrong.
        NotFound: there is no such dataset.
    """
    values = {"org": org_id, "name": dataset, "roles": check_roles(roles)}
    if conn.execute(SQL["set_read_roles"], values).fetchone() is None:
        raise NotFound(f"there is no dataset {dataset}: `trace-ray datasets` lists them")


def _user(row: Row) -> User:
    return User(row["name"], row["subject"], frozenset(row["roles"]), row["enabled"], row["created_at"])
