"""How people see a backtest: progress, events and failures on a terminal, one JSON document for scripts."""

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import islice

from trace_ray.alerts import Draft
from trace_ray.backtest_reports import Ended, Report, Seen, Tried, difference, distinct
from trace_ray.console import notes, out, print_json, printable, progress_bar, say, table

PARTS = 10  # lines about progress where there is no terminal
RANGES = 20  # lines of a table of blocks: neighbouring evaluations share one


@contextmanager
def progress(total: int, *, quiet: bool) -> Generator[Callable[[int], None]]:
    """Show a bar on a terminal, and a line at each tenth elsewhere."""
    if quiet:
        yield lambda _done: None
        return
    with progress_bar("evaluating", total=total) as show:
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            show(done)
            if not notes.is_terminal and done * PARTS // total > told:
                told = done * PARTS // total
                say(f"{done:,} of {total:,} evaluations have ended")

        yield tell


def print_report(report: Report, *, as_json: bool) -> None:
    """Print what the rule would have emitted, and where its bundle failed."""
    if as_json:
        print_json(_document(report))
        return
    here = report.tried[0]
    if here.ended:
        out.print(table(("blocks", "evaluations", "failed", "events", "seconds"), _ranges(here.ended)))
    _print_events(report, here)
    if len(report.tried) > 1:
        _print_difference(report)
    for one in report.tried:
        _print_failures(report, one)


# --- for people ---------------------------------------------------------------------------------------------------


def _print_events(report: Report, here: Tried) -> None:
    drafts = _first(here, report.shown)
    if drafts:
        rows = ((one.block_number, one.dedupe_key, json.dumps(one.payload, ensure_ascii=False)) for one in drafts)
        out.print()
        out.print(table(("block", "dedupe key", "payload"), rows))
    count = len(distinct(here.ended))
    more = f", the first {len(drafts)} are shown" if count > len(drafts) else ""
    blocks = f" in blocks {_extent(here.ended)}" if here.ended else ""
    say(f"{report.rule.name} with {_name(here)}: {_many(count, 'event')}{blocks}, snapshot {report.snapshot}{more}")


def _print_difference(report: Report) -> None:
    here, there = report.tried
    found = difference(here.ended, there.ended)
    rows = [("only here", one) for one in found.only_here]
    rows += [("only there", one) for one in found.only_there]
    rows += [("changed", one) for one, _ in found.changed]
    if rows:
        out.print()
        out.print(
            table(
                ("", "block", "dedupe key"),
                ((what, one.block_number, one.dedupe_key) for what, one in rows[: report.shown]),
            )
        )
    more = f", the first {report.shown} are shown" if len(rows) > report.shown else ""
    say(
        f"{_name(here)} (here) and {_name(there)} (there): {len(found.only_here):,} only here, "
        f"{len(found.only_there):,} only there, {len(found.changed):,} changed{more}"
    )


def _print_failures(report: Report, one: Tried) -> None:
    for failed in one.failed:
        say(f"{_name(one)} failed on blocks {failed.blocks}: {failed.outcome}: {_line(failed.detail)}")
        for line in failed.log.splitlines():
            say(f"  {printable(line)}")
    if len(one.ended) < report.planned:
        say(
            f"{_many(len(one.failed), 'evaluation')} of {_name(one)} failed, so "
            f"{report.planned - len(one.ended):,} were not started"
        )


def _ranges(ended: Sequence[Ended]) -> Iterable[Sequence[object]]:
    """Yield a row for neighbouring evaluations, so that there are never more than a screen of them."""
    size = -(-len(ended) // RANGES)
    for first in range(0, len(ended), size):
        part = ended[first : first + size]
        events, failed = sum(len(one.events) for one in part), sum(not one.good for one in part)
        yield _extent(part), len(part), failed, f"{events:,}", f"{sum(one.seconds for one in part):.2f}"


def _extent(ended: Sequence[Ended]) -> str:
    return f"[{ended[0].blocks.start}, {ended[-1].blocks.end})"


def _name(one: Tried) -> str:
    return f"{one.bundle.name}@{one.bundle.version}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


# --- for scripts --------------------------------------------------------------------------------------------------


def _document(report: Report) -> dict[str, object]:
    here = report.tried[0]
    document: dict[str, object] = {
        "rule": report.rule.name,
        "rule_id": str(report.rule.rule_id),
        "snapshot": report.snapshot,
        "planned": report.planned,
        **_tried(here),
        "events": [_event(one) for one in _first(here, report.shown)],
        "compare": None,
    }
    if len(report.tried) > 1:
        found = difference(here.ended, report.tried[1].ended)
        document["compare"] = {
            **_tried(report.tried[1]),
            "only_here": _keys(found.only_here, report.shown),
            "only_there": _keys(found.only_there, report.shown),
            "changed": _keys([one for one, _ in found.changed], report.shown),
            "counts": {
                "only_here": len(found.only_here),
                "only_there": len(found.only_there),
                "changed": len(found.changed),
            },
        }
    return document


def _tried(one: Tried) -> dict[str, object]:
    return {
        "bundle": {"name": one.bundle.name, "version": one.bundle.version, "digest": one.bundle.digest},
        "event_count": len(distinct(one.ended)),
        "evaluations": [_evaluation(ended) for ended in one.ended],
    }


def _evaluation(ended: Ended) -> dict[str, object]:
    document: dict[str, object] = {
        "from_block": ended.blocks.start,
        "to_block": ended.blocks.end,
        "outcome": ended.outcome.value,
        "events": len(ended.events),
        "seconds": round(ended.seconds, 6),
    }
    return document if ended.good else {**document, "detail": ended.detail, "log": ended.log}


def _event(draft: Draft) -> dict[str, object]:
    return {
        "dedupe_key": draft.dedupe_key,
        "event_time": draft.event_time.isoformat(),
        "chain_id": draft.chain_id,
        "block_number": draft.block_number,
        "block_hash": draft.block_hash,
        "tx_hash": draft.tx_hash,
        "payload": dict(draft.payload),
    }


def _keys(found: Sequence[Seen], most: int) -> list[dict[str, object]]:
    return [{"dedupe_key": one.dedupe_key, "block_number": one.block_number} for one in found[:most]]


def _first(tried: Tried, most: int) -> list[Draft]:
    """Return the first events, each key once."""
    found: dict[str, Draft] = {}
    for draft in (draft for one in tried.ended for draft in one.drafts):
        found.setdefault(draft.dedupe_key, draft)
    return list(islice(found.values(), most))
