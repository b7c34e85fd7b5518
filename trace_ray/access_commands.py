"""Commands for access: tokens of people, users and their roles, who may read a dataset, and the audit of queries."""

from datetime import UTC, datetime
from typing import Final

import click

from state import audit, readers
from trace_ray import access_console, key_files
from trace_ray.console import say
from trace_ray.errors import RefusedInput
from trace_ray.tokens import sign_user
from trace_ray.wiring import data_transaction, settings_here, transaction

DAY_HOURS: Final = 24.0
YEAR_HOURS: Final = 366 * 24.0
SHORTEST_HOURS: Final = 0.01

Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
Role = click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the user; may be repeated.")


@click.command()
@click.option("--user", "name", metavar="NAME", help="Whom the token is for; created unless it exists.")
@Role
@click.option(
    "--hours",
    default=DAY_HOURS,
    show_default=True,
    type=click.FloatRange(SHORTEST_HOURS, YEAR_HOURS),
    help="How long it is valid.",
)
@click.option("--rotate", is_flag=True, help="Sign with the next key from now on; twice refuses all older tokens.")
def token(name: str | None, roles: tuple[str, ...], hours: float, rotate: bool) -> None:
    """Print a user token for the query service, and nothing else, on standard output.

    With --role the user has these roles and no others; without, it keeps those it has.
    """
    settings = settings_here()
    if name is None and not rotate:
        raise click.UsageError("name a user with --user NAME, or rotate the keys with --rotate")
    if rotate:
        if settings.token_keys is not None:
            raise RefusedInput("the keys are those of TRACE_TOKEN_KEYS: rotate them in that file")
        key_files.rotate(settings.data_dir)
        say("New tokens have a new key; older ones are valid until the keys are rotated again")
    if name is None:
        return
    if settings.jwks_url is not None:
        raise RefusedInput(f"people's tokens come from TRACE_JWKS_URL: run `trace-ray users add {name} --subject SUB`")
    ring = key_files.FileKeys(settings.data_dir, settings.token_keys).ring()
    with transaction(settings) as conn:
        user = readers.add_user(conn, settings.org_id, name, roles or None)
    if not user.enabled:
        raise RefusedInput(f"user {name} is disabled: run `trace-ray users enable {name}` first")
    click.echo(sign_user(ring, subject=user.subject, now=datetime.now(UTC), lifetime_s=hours * 3600))


# --- users --------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True)
@click.pass_context
@Json
def users(context: click.Context, as_json: bool) -> None:
    """List the users, or add, disable and enable them."""
    if context.invoked_subcommand is not None:
        return
    settings = settings_here()
    with transaction(settings) as conn:
        found = readers.users(conn, settings.org_id)
    access_console.print_users(found, as_json=as_json)


@users.command()
@click.argument("name")
@Role
@click.option("--subject", metavar="SUB", help="`sub` of the tokens that an identity provider gives the user.")
def add(name: str, roles: tuple[str, ...], subject: str | None) -> None:
    """Add a user, or change its roles."""
    settings = settings_here()
    with transaction(settings) as conn:
        user = readers.add_user(conn, settings.org_id, name, roles or None, subject=subject)
    say(f"user {user.name} has {access_console.role_names(user.roles)}")


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Refuse all tokens of a user from now on."""
    settings = settings_here()
    with transaction(settings) as conn:
        readers.enable_user(conn, settings.org_id, name, enabled=False)
    say(f"user {name} is disabled; `trace-ray users enable {name}` lets it ask again")


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a disabled user ask again, with the tokens that it has."""
    settings = settings_here()
    with transaction(settings) as conn:
        readers.enable_user(conn, settings.org_id, name, enabled=True)
    say(f"user {name} may ask again")


@click.command()
@click.argument("dataset", required=False)
@click.option("--read", "roles", multiple=True, metavar="ROLE", help="Users with this role may read; may be repeated.")
@click.option("--anyone", is_flag=True, help="Every user of the organisation may read.")
@Json
def roles(dataset: str | None, roles: tuple[str, ...], anyone: bool, as_json: bool) -> None:
    """Show which roles may read the datasets, or say which may read DATASET."""
    settings = settings_here()
    if dataset is None:
        if roles or anyone:
            raise click.UsageError("name the DATASET that --read or --anyone is about")
        with transaction(settings) as conn:
            found = readers.read_roles(conn, settings.org_id)
        access_console.print_read_roles(found, as_json=as_json)
        return
    if bool(roles) == anyone:
        raise click.UsageError("say either --read ROLE or --anyone")
    with transaction(settings) as conn:
        readers.set_read_roles(conn, settings.org_id, dataset, roles)
    say(f"{dataset} can be read by {access_console.readers_of(frozenset(roles))}")


# --- the audit ----------------------------------------------------------------------------------------------------


@click.command(name="audit")
@click.option("--user", metavar="NAME", help="Only questions of this user.")
@click.option("--outcome", metavar="CODE", help="Only questions that ended so: OK, SQL_REJECTED, QUERY_TIMEOUT, ...")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at the most.")
@Json
def audit_command(user: str | None, outcome: str | None, limit: int, as_json: bool) -> None:
    """List who asked the query service what, the newest first: datasets, outcome, size and time, never the SQL."""
    settings = settings_here()
    with data_transaction(settings) as conn:
        found = audit.recent(conn, settings.org_id, user=user, outcome=outcome, strangers=user is None, limit=limit)
    access_console.print_audit(found, as_json=as_json)
