"""The command that tries a rule on what is published already. Mounted on the group `alerts`; it writes no ledger."""

import logging
import sys
from pathlib import Path
from typing import Final

import click

from state import bundles, datasets, evaluations, rules
from state.db import Connection
from trace_ray import backtest_console, rulefile
from trace_ray.alerts import Rule
from trace_ray.backtest_reports import Report, Tried
from trace_ray.bundle.manifest import DIGEST
from trace_ray.bundle.pushed import UsableBundle
from trace_ray.config import EVALUATOR_SLOTS
from trace_ray.contracts import BlockRange, OrgId
from trace_ray.errors import RefusedInput, TraceError
from trace_ray.wiring import settings_here, transaction

FAILED: Final = 1
SHOWN: Final = 20  # events that a person reads; --limit shows more
MOST_SHOWN: Final = 1_000
MOST_EVALUATIONS: Final = 100_000


@click.command(name="backtest")
@click.argument("name", metavar="RULE", required=False)
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="A rule file (YAML) instead of a RULE.")
@click.option("--from", "start", required=True, type=click.IntRange(0), metavar="BLOCK", help="The first block.")
@click.option("--to", "end", required=True, type=click.IntRange(1), metavar="BLOCK", help="The end, exclusive.")
@click.option("--compare", metavar="VERSION", help="Another version of the bundle: what it would emit differently.")
@click.option(
    "--workers", default=EVALUATOR_SLOTS, show_default=True, type=click.IntRange(1, 64), help="Evaluations at once."
)
@click.option(
    "--limit", default=SHOWN, show_default=True, type=click.IntRange(1, MOST_SHOWN), help="Events that are shown."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def backtest_command(
    *,
    name: str | None,
    path: Path | None,
    start: int,
    end: int,
    compare: str | None,
    workers: int,
    limit: int,
    as_json: bool,
) -> None:
    """Run a rule over published blocks in its sandbox. Nothing is recorded or delivered."""
    if (name is None) == (path is None):
        raise click.UsageError("name a RULE, or a file with -f: one of them")
    if end <= start:
        raise click.UsageError("--to is the end of the blocks: write a number above --from")
    from actors import backtest  # late: query processes and sandboxes take half a second to import

    settings = settings_here()
    logging.getLogger("actors").setLevel(logging.WARNING)  # its news would come between our lines
    with transaction(settings) as conn:
        rule = _rule(conn, settings.org_id, name, path)
        versions = [bundles.usable(conn, settings.org_id, rule.bundle)]
        if compare is not None:
            versions.append(_other(conn, versions[0], compare))
        planned = evaluations.preview(conn, rule, BlockRange(start, end))
        _check_count(rule, len(planned))
        grant = datasets.pin(conn, settings.org_id, rule.datasets, planned[0].as_of)
    count = len(planned) * len(versions)
    try:
        with (
            backtest.opened(settings, grant, workers=workers, shown=limit) as test,
            backtest_console.progress(count, quiet=as_json) as progress,
        ):
            tried: list[Tried] = []
            for version in versions:
                before = sum(len(one.ended) for one in tried)
                ended = test.run(rule, version, planned, lambda done, before=before: progress(before + done))
                tried.append(Tried(version.bundle, tuple(ended)))
    except KeyboardInterrupt:
        raise TraceError("the backtest was stopped; it has changed nothing") from None
    report = Report(rule, planned[0].as_of, len(planned), tuple(tried), limit)
    backtest_console.print_report(report, as_json=as_json)
    if not all(ended.good for one in tried for ended in one.ended):
        sys.exit(FAILED)


def _rule(conn: Connection, org_id: OrgId, name: str | None, path: Path | None) -> Rule:
    """Return the rule as the ledger has it, or as `apply` would make it of a file."""
    if path is None:
        return rules.report(conn, org_id, name or "").rule
    rule, _ = rules.pinned(conn, rulefile.read(path, org_id), _digest)
    return rule


def _other(conn: Connection, usual: UsableBundle, version: str) -> UsableBundle:
    """Return another version of a bundle, named as such, as name@version or by its digest."""
    bundle = usual.bundle
    reference = version if "@" in version or DIGEST.fullmatch(version) else f"{bundle.name}@{version}"
    digest = _digest(conn, bundle.org_id, reference)
    if digest == bundle.digest:
        raise RefusedInput(f"{reference} is what the rule runs: name another version after --compare")
    return bundles.usable(conn, bundle.org_id, digest)


def _check_count(rule: Rule, count: int) -> None:
    names = ", ".join(rule.datasets)
    if count == 0:
        raise RefusedInput(f"no block of that range is published of {names}: see `trace-ray coverage DATASET`")
    if count > MOST_EVALUATIONS:
        raise RefusedInput(
            f"that are {count:,} evaluations: narrow --from and --to to {MOST_EVALUATIONS:,} at the most"
        )


def _digest(conn: Connection, org_id: OrgId, reference: str) -> str:
    return bundles.pin(conn, org_id, reference).digest
