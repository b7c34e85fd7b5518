"""One sender per kind of channel: what a receiver is told, and over which line. Nothing is tried twice here."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from actors import outgoing
from actors.outgoing import Network
from trace_ray import destination, webhook
from trace_ray.channels import Channel, ChannelKind, Sending, Sent, Unsent
from trace_ray.config import Settings
from trace_ray.errors import DestinationRefused
from trace_ray.notices import Notice

logger = logging.getLogger(__name__)

Sender = Callable[[Notice], Sending]
"""Sends a delivery once and says what came of it."""


def for_settings(settings: Settings) -> dict[str, Sender]:
    """Return the senders of the channels that are set, by name; one that must not be sent to fails each time."""
    network = Network(allow_loopback=settings.alerts_allow_loopback)
    return {name: _make_or_fail(channel, network) for name, channel in settings.channels.items()}


def _make_or_fail(channel: Channel, network: Network) -> Sender:
    try:
        return make(channel, network)
    except DestinationRefused as wrong:
        unsent = Unsent(f"TRACE_CHANNEL_{channel.name.upper()}_URL {wrong}")
        return lambda _: unsent


def make(channel: Channel, network: Network) -> Sender:
    """Return the sender of a channel.

    Raises:
        DestinationRefused: its URL is not to be sent to.
    """
    return MAKERS[channel.kind](channel, network)


def _webhook(channel: Channel, network: Network) -> Sender:
    place = destination.web(channel.url or "", allow_loopback=network.allow_loopback)

    def send(notice: Notice) -> Sending:
        content = webhook.body(notice)
        headers = webhook.headers(notice, content, channel.secrets, datetime.now(UTC))
        return outgoing.post(network, place, headers, content, _judge)

    return send


def _slack(channel: Channel, network: Network) -> Sender:
    place = destination.web(channel.url or "", allow_loopback=network.allow_loopback)

    def send(notice: Notice) -> Sending:
        content = webhook.slack_body(notice)
        headers = webhook.headers(notice, content, (), datetime.now(UTC))
        return outgoing.post(network, place, headers, content, _judge)

    return send


def _email(channel: Channel, network: Network) -> Sender:
    place = destination.mail(channel.url or "", allow_loopback=network.allow_loopback)
    password = channel.secrets[0] if channel.secrets else None

    def send(notice: Notice) -> Sending:
        message = webhook.email(notice, sender=channel.sender or "", recipients=channel.recipients)
        return outgoing.mail(network, place, message, user=channel.user, password=password)

    return send


def _log(channel: Channel, network: Network) -> Sender:
    def send(notice: Notice) -> Sending:
        facts = {
            "channel": channel.name,
            "delivery_id": notice.delivery_id,
            "event_id": notice.event_id,
            "kind": notice.kind,
            "retracts": notice.retracts,
            "rule": notice.rule,
            "severity": notice.severity,
            "chain_id": notice.chain_id,
            "block_number": notice.block_number,
            "dedupe_key": notice.dedupe_key,
        }
        logger.info("alert", extra=facts)
        return Sent()

    return send


def _judge(status: int, headers: Mapping[str, str]) -> Sending:
    return webhook.judge(status, headers, datetime.now(UTC))


MAKERS = {
    ChannelKind.WEBHOOK: _webhook,
    ChannelKind.SLACK: _slack,
    ChannelKind.EMAIL: _email,
    ChannelKind.LOG: _log,
}
