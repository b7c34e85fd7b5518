"""How people see deliveries: a table on a terminal, one JSON document for scripts."""

from collections.abc import Sequence
from datetime import datetime

from trace_ray.alerts import DeliveryKind, DeliveryState
from trace_ray.console import out, print_json, say, table
from trace_ray.notices import ChannelDepth, DeliveryView

HEADINGS = ("delivery", "rule", "channel", "kind", "state", "attempts", "made", "next try", "why")


def print_deliveries(found: Sequence[DeliveryView], depths: Sequence[ChannelDepth], *, as_json: bool) -> None:
    """List deliveries with the reason why each is where it is, below what each channel has open."""
    if as_json:
        documents = [delivery_document(view) for view in found]
        print_json({"deliveries": documents, "channels": [_depth(one) for one in depths]})
        return
    if depths:
        rows = ((one.channel, one.queued, one.sending, one.dead, _when(one.oldest)) for one in depths)
        out.print(table(("channel", "queued", "sending", "dead", "oldest open"), rows))
    if not found:
        say("No such delivery")
        return
    out.print(table(HEADINGS, (_cells(view) for view in found)))


def _cells(view: DeliveryView) -> tuple[object, ...]:
    one = view.delivery
    why = view.reason if view.state is DeliveryState.SUPPRESSED else one.last_error
    kind = f"retracts {one.retracts}" if one.kind is DeliveryKind.RETRACTION else one.kind
    return (
        one.delivery_id, view.rule, one.channel, kind, view.state, one.attempt, _when(view.created_at),
        _when(view.due_at), why or "",
    )  # fmt: skip


def delivery_document(view: DeliveryView) -> dict[str, object]:
    """Return a delivery as JSON."""
    one = view.delivery
    return {
        "delivery_id": str(one.delivery_id),
        "event_id": str(one.event_id),
        "rule": view.rule,
        "channel": one.channel,
        "kind": one.kind,
        "retracts": str(one.retracts) if one.retracts else None,
        "state": view.state,
        "reason": view.reason,
        "attempts": one.attempt,
        "failures": view.failures,
        "replays": view.replays,
        "last_error": one.last_error,
        "created_at": view.created_at.isoformat(),
        "due_at": view.due_at.isoformat() if view.due_at else None,
        "settled_at": view.settled_at.isoformat() if view.settled_at else None,
    }


def _depth(one: ChannelDepth) -> dict[str, object]:
    return {
        "channel": one.channel,
        "queued": one.queued,
        "sending": one.sending,
        "dead": one.dead,
        "oldest": one.oldest.isoformat() if one.oldest else None,
    }


def _when(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S") if at else ""
