"""Commands for alerts: apply, list, show, pause, resume and retry rules; look at their events."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

import click

from actors import blockhashes
from state import alerts as events
from state import bundles, deliveries, evaluations, provenance, retractions, rules, standing
from state.db import Connection
from trace_ray import alert_console, backtest_commands, delivery_commands, history_console, rulefile
from trace_ray.alert_reports import AlertHistory, StoredEvent
from trace_ray.alerts import DeliveryId, EventId, Mode, event_id, rule_id
from trace_ray.config import Settings
from trace_ray.console import say
from trace_ray.contracts import OrgId
from trace_ray.errors import NotFound
from trace_ray.lite.effective import missing_channels
from trace_ray.wiring import data_transaction, object_store, settings_here, transaction

NO_HTTP: Final = 0  # what TRACE_HTTP_PORT says on a machine that only syncs
LISTED: Final = 50  # rows that a person reads; --limit shows more

Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


@click.group(name="alerts")
def alerts_group() -> None:
    """Work with alert rules and look at their events."""


@alerts_group.command(name="apply")
@click.option("-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="The rule file (YAML).")
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="BLOCK",
    help="Evaluate also what is published already, from the range that holds this block on.",
)
@Json
def apply_command(path: Path, since: int | None, as_json: bool) -> None:
    """Create or update the rule of a file. It looks at what is published from now on."""
    settings = settings_here()
    rule = rulefile.read(path, settings.org_id)
    with transaction(settings) as conn:
        applied = rules.apply(conn, rule, _digest)
        planned = None if since is None else len(evaluations.backfill(conn, applied.rule_id, since))
    live = applied.rule.mode is Mode.LIVE
    lacks = missing_channels(applied.rule.channels, settings) if live else []
    if settings.http_port == NO_HTTP:
        lacks.append(
            "the stack answers no questions, and bundles have to ask: set TRACE_HTTP_PORT, then run `trace-ray up`"
        )
    alert_console.print_applied(applied, planned, lacks, as_json=as_json)
    if not (live and applied.rule.enabled):
        _suppress(settings, name=applied.rule.name, as_json=as_json)


@alerts_group.command(name="list")
@Json
def list_command(as_json: bool) -> None:
    """List the rules with their evaluations by state."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = rules.listing(conn, settings.org_id)
    alert_console.print_rules(found, as_json=as_json)


@alerts_group.command()
@click.argument("name", metavar="RULE")
@Json
def show(name: str, as_json: bool) -> None:
    """Show all that a rule says, its evaluations by state, and its newest troubles."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = rules.report(conn, settings.org_id, name)
        pushed = {one.digest: one for one in bundles.bundles(conn, settings.org_id)}
    alert_console.print_rule(found, pushed.get(found.rule.bundle), as_json=as_json)


@alerts_group.command()
@click.argument("name", metavar="RULE")
def pause(name: str) -> None:
    """Start no evaluation of a rule, stop those that run, and send none of its alerts any more; what comes waits."""
    settings = settings_here()
    with transaction(settings) as conn:
        rules.pause(conn, settings.org_id, name)
    say(f"{name} is paused, and what is published meanwhile waits; `trace-ray alerts resume {name}` goes on")
    _suppress(settings, name=name, as_json=False)


@alerts_group.command()
@click.argument("name", metavar="RULE")
@click.option("--skip", is_flag=True, help="Leave out what waits, and look at what is published from now on.")
@Json
def resume(name: str, skip: bool, as_json: bool) -> None:
    """Go on with a paused rule: first with all that was published meanwhile."""
    settings = settings_here()
    with transaction(settings) as conn:
        paused = rules.resume(conn, settings.org_id, name)
        left_out = evaluations.leave_out(conn, rule_id(settings.org_id, name)) if paused and skip else []
        found = rules.report(conn, settings.org_id, name, troubles=0)
    alert_console.print_resumed(found, left_out, paused=paused, as_json=as_json)


@alerts_group.command()
@click.argument("name", metavar="RULE")
@Json
def retry(name: str, as_json: bool) -> None:
    """Put the dead evaluations of a rule back into the queue, with fresh attempts."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = rules.report(conn, settings.org_id, name, troubles=0)
        count = evaluations.retry_dead(conn, found.rule.rule_id)
    alert_console.print_retried(found.rule, count, as_json=as_json)


@alerts_group.command(name="events")
@click.option("--rule", "name", metavar="RULE", help="Only events of this rule.")
@click.option("--limit", default=LISTED, show_default=True, type=click.IntRange(1, 10_000), help="Events at the most.")
@Json
def events_command(name: str | None, limit: int, as_json: bool) -> None:
    """List alert events, the newest first."""
    settings = settings_here()
    wanted = None if name is None else rule_id(settings.org_id, name)
    with data_transaction(settings) as conn:
        found = events.recent(conn, settings.org_id, rule_id=wanted, limit=limit)
    if name is not None and not found:
        with transaction(settings) as conn:
            rules.report(conn, settings.org_id, name)  # a rule without events is no mistake, one that is not there is
    alert_console.print_events(found, as_json=as_json)


def _suppress(settings: Settings, *, name: str, as_json: bool) -> None:
    """Send nothing that a rule has queued. What becomes an event from now on is suppressed by the sink."""
    with data_transaction(settings) as conn:
        count = deliveries.suppress_rule(conn, settings.org_id, rule_id(settings.org_id, name))
    if count and not as_json:
        say(f"{count} queued deliver{'y is' if count == 1 else 'ies are'} not sent: they are suppressed now")


@alerts_group.command(name="explain")
@click.argument("asked", metavar="EVENT_OR_DELIVERY")
@Json
def explain_command(asked: str, as_json: bool) -> None:
    """Tell where an alert comes from: its deliveries, rule, bundle and evaluation, and the versions that it read.

    EVENT_OR_DELIVERY is the id of an event or of a delivery, or the dedupe key of an event.
    """
    settings = settings_here()
    with data_transaction(settings) as conn:
        stored, delivery = _asked(conn, settings.org_id, asked)
        event = stored.event
        sent = deliveries.listing(conn, settings.org_id, event=event.event_id)
    draft = event.draft
    with transaction(settings) as conn:
        origin = provenance.provenance(conn, event)
        shown = retractions.showing(conn, settings.org_id, draft.chain_id, draft.block_number)
    with closing(object_store(settings)) as store, TemporaryDirectory() as scratch:
        block_hash = bytes.fromhex(draft.block_hash[2:])
        block = blockhashes.standing(store, shown, draft.block_number, block_hash, scratch=Path(scratch))
    history_console.print_history(AlertHistory(stored, delivery, tuple(sent), block, origin), as_json=as_json)


def _asked(conn: Connection, org_id: OrgId, asked: str) -> tuple[StoredEvent, DeliveryId | None]:
    """Return the event that is meant, and the delivery when one was named."""
    wanted = [event_id(org_id, asked)]  # a key may look like an id
    if standing.VERSION.fullmatch(asked):
        delivery = DeliveryId(UUID(asked))
        about = deliveries.event_of(conn, org_id, delivery)
        if about is not None and (stored := events.find(conn, org_id, about)) is not None:
            return stored, delivery
        wanted.insert(0, EventId(UUID(asked)))
    for one in wanted:
        if (stored := events.find(conn, org_id, one)) is not None:
            return stored, None
    raise NotFound(f"there is no event, delivery or dedupe key {asked[:80]}: `trace-ray alerts events` lists events")


def _digest(conn: Connection, org_id: OrgId, reference: str) -> str:
    return bundles.pin(conn, org_id, reference).digest


alerts_group.add_command(backtest_commands.backtest_command)
delivery_commands.add(alerts_group)
