"""Commands for operators of the ledgers: look at tasks, events and dead letters, explain a range, put things back."""

from uuid import UUID

import click

from state import buffer, outbox, views
from trace_ray import ledger_console
from trace_ray.console import say
from trace_ray.contracts import TaskId
from trace_ray.wiring import settings_here, transaction

STATES = ("queued", "running", "succeeded", "dead", "cancelled")
LISTED = 100  # rows that a person reads; --limit shows more

Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
Limit = click.option(
    "--limit", default=LISTED, show_default=True, type=click.IntRange(1, 10_000), help="Entries at the most."
)


@click.group()
def ledger() -> None:
    """Look into the ledgers: tasks, attempts, events, dead letters."""


@ledger.command(name="tasks")
@click.option("--job", help="Only tasks of this job.")
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@Limit
@Json
def tasks_command(job: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List tasks, the newest trouble first."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = views.tasks(conn, settings.org_id, job=job, state=state, limit=limit)
    ledger_console.print_tasks(found, as_json=as_json)


@ledger.command(name="attempts")
@click.argument("task", type=click.UUID)
@Json
def attempts_command(task: UUID, as_json: bool) -> None:
    """Show every attempt of a TASK: worker, times, outcome, failure."""
    settings = settings_here()
    with transaction(settings) as conn:
        found, history = views.attempts(conn, settings.org_id, TaskId(task))
    ledger_console.print_attempts(found, history, as_json=as_json)


@ledger.command(name="outbox")
@click.option("--failed", "failed_only", is_flag=True, help="Only events whose attempts are used up.")
@Limit
@Json
def outbox_command(failed_only: bool, limit: int, as_json: bool) -> None:
    """List events that are not handled yet, failed ones first."""
    with transaction(settings_here()) as conn:
        found = outbox.listing(conn, failed_only=failed_only, limit=limit)
    ledger_console.print_outbox(found, as_json=as_json)


@ledger.command(name="dead-letters")
@click.option("--queue", help="Only those of this buffer queue.")
@Limit
@Json
def dead_letters_command(queue: str | None, limit: int, as_json: bool) -> None:
    """List messages whose deliveries are used up, newest first, and how full each buffer queue is."""
    with transaction(settings_here()) as conn:
        found = buffer.dead_letters(conn, queue=queue, limit=limit)
        depths = [depth for depth in buffer.depths(conn) if queue in (None, depth.queue)]
    ledger_console.print_dead_letters(found, depths, as_json=as_json)


@ledger.command(name="replay-outbox")
@click.argument("event", type=int, required=False)
def replay_outbox_command(event: int | None) -> None:
    """Give failed events fresh attempts: one EVENT, or all of them."""
    with transaction(settings_here()) as conn:
        replayed = outbox.replay(conn, event)
    say(f"{replayed} failed event{'' if replayed == 1 else 's'} put back")


@click.command()
@click.argument("asked", metavar="RANGE_OR_VERSION")
@Limit
@Json
def explain(asked: str, limit: int, as_json: bool) -> None:
    """Tell how a range came to stand where it stands, from its objects back to its attempts.

    RANGE_OR_VERSION is DATASET:BLOCK, DATASET:START-END (the end is not in it), the id of a dataset version, or the key
    or the digest of an object.
    """
    settings = settings_here()
    with transaction(settings) as conn:
        found = views.explain(conn, settings.org_id, asked, limit=limit)
    ledger_console.print_explanation(found, as_json=as_json)


@click.group(name="buffer")
def buffer_group() -> None:
    """Work on the buffer queues."""


@buffer_group.command(name="replay")
@click.argument("message", metavar="[MESSAGE_ID]", type=click.UUID, required=False)
@click.option("--queue", help="All dead letters of this queue.")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
def replay_command(message: UUID | None, queue: str | None, every: bool) -> None:
    """Put dead letters back into their queue with fresh deliveries."""
    if sum((message is not None, queue is not None, every)) != 1:
        raise click.UsageError("name one MESSAGE_ID, or a --queue, or --all: exactly one of them")
    with transaction(settings_here()) as conn:
        replayed = buffer.replay(conn, message_id=message, queue=queue)
    say(f"{replayed} dead letter{'' if replayed == 1 else 's'} put back")
