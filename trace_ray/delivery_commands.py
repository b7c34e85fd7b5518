"""Commands for deliveries: look at them, put dead ones back, try a channel. Mounted on the group `alerts`."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import click

from actors import senders
from state import deliveries
from trace_ray import delivery_console
from trace_ray.alerts import DeliveryId, DeliveryKind, DeliveryState, EventId, RuleId, Severity, delivery_id
from trace_ray.channels import Unsent
from trace_ray.config import Settings
from trace_ray.console import say
from trace_ray.errors import NotFound, TraceError
from trace_ray.notices import Notice
from trace_ray.wiring import data_transaction, settings_here

STATES = tuple(state.value for state in DeliveryState)
LISTED = 100  # rows that a person reads; --limit shows more

Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
NO_HASH = "0x" + "0" * 64


def add(group: click.Group) -> None:
    """Mount the commands on a group."""
    for command in (deliveries_command, replay_command, test_command):
        group.add_command(command)


@click.command(name="deliveries")
@click.option("--state", type=click.Choice(STATES), help="Only deliveries in this state.")
@click.option("--rule", metavar="NAME", help="Only those of this rule.")
@click.option("--channel", metavar="NAME", help="Only those to this channel.")
@click.option("--limit", default=LISTED, show_default=True, type=click.IntRange(1, 10_000), help="Rows at the most.")
@Json
def deliveries_command(state: str | None, rule: str | None, channel: str | None, limit: int, as_json: bool) -> None:
    """List deliveries, the newest first: where each stands, and why it is not sent; and what each channel has open."""
    settings = settings_here()
    with data_transaction(settings) as conn:
        found = deliveries.listing(conn, settings.org_id, state=state, rule=rule, channel=channel, limit=limit)
        depths = [one for one in deliveries.depths(conn, settings.org_id) if channel in (None, one.channel)]
    delivery_console.print_deliveries(found, depths, as_json=as_json)


@click.command(name="replay")
@click.argument("delivery", metavar="[DELIVERY]", type=click.UUID, required=False)
@click.option("--channel", metavar="NAME", help="All dead deliveries to this channel.")
@click.option("--all", "every", is_flag=True, help="All dead deliveries.")
def replay_command(delivery: UUID | None, channel: str | None, every: bool) -> None:
    """Send dead deliveries again, with fresh attempts and under the same keys.

    A DELIVERY that is named may also be suppressed: it is then sent however old it is.
    """
    if sum((delivery is not None, channel is not None, every)) != 1:
        raise click.UsageError("name one DELIVERY, or a --channel, or --all: exactly one of them")
    settings = settings_here()
    named = None if delivery is None else DeliveryId(delivery)
    with data_transaction(settings) as conn:
        replayed = deliveries.replay(conn, settings.org_id, delivery=named, channel=channel)
    say(f"{replayed} deliver{'y' if replayed == 1 else 'ies'} put back")


@click.command(name="test")
@click.argument("channel")
def test_command(channel: str) -> None:
    """Send a test message to CHANNEL, once, and tell what came of it. Nothing is kept."""
    settings = settings_here()
    name = channel.lower()
    if name not in settings.channels:
        raise NotFound(_no_channel(settings, channel))
    sending = senders.for_settings(settings)[name](_test_notice(name, datetime.now(UTC)))
    if isinstance(sending, Unsent):
        raise TraceError(f"channel {name} did not take the test message: {sending.error}")
    say(f"channel {name} took the test message" + (f"; {sending.note}" if sending.note else ""))


def _no_channel(settings: Settings, channel: str) -> str:
    known = ", ".join(sorted(settings.channels)) or "none is"
    return f"channel {channel} is not set (set: {known}): set TRACE_CHANNEL_{channel.upper()}_KIND"


def _test_notice(channel: str, now: datetime) -> Notice:
    event = EventId(uuid4())
    return Notice(
        delivery_id=delivery_id(event, channel, DeliveryKind.ALERT),
        event_id=event,
        kind=DeliveryKind.ALERT,
        rule_id=RuleId(UUID(int=0)),
        rule="test",
        severity=Severity.INFO,
        dedupe_key=f"test:{event}",
        event_time=now,
        chain_id=0,
        block_number=0,
        block_hash=NO_HASH,
        tx_hash=None,
        payload="{}",
        created_at=now,
        test=True,
    )
