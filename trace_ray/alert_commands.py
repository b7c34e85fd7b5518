"""The group of commands for alerts."""

import click

from trace_ray import delivery_commands


@click.group()
def alerts() -> None:
    """Work on alerts: what was sent, what could not be, and whether a channel works."""


delivery_commands.add(alerts)
