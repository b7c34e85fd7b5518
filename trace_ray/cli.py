"""The one door: parses arguments, wires the parts, turns errors into exit codes. Imported by nobody.

Exit codes: 0 done; 1 failed; 2 wrong usage or refused input; 3 not reachable; 4 incomplete (dead ranges).
What needs Ray is imported inside its command: Ray takes half a second, and reads its token when it is imported.
"""

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from actors.repairer import withdraw_lost
from actors.sweeper import for_stack
from state import datasets, jobs, migrate, repair, tasks
from state.db import Database
from trace_ray import (
    access_commands,
    alert_commands,
    bundle_commands,
    config,
    console,
    demo,
    doctor,
    follow,
    ledger_commands,
)
from trace_ray import check as checking
from trace_ray.build import build_id
from trace_ray.config import Settings
from trace_ray.console import say
from trace_ray.contracts import Job
from trace_ray.errors import (
    DatabaseUnavailable,
    RefusedInput,
    SourceUnavailable,
    StackUnavailable,
    StoreUnavailable,
    TraceError,
)
from trace_ray.lite import anvil, devnet, ray_cluster
from trace_ray.lite.alone import alone
from trace_ray.lite.effective import need_pools, share_pools
from trace_ray.wiring import object_store, settings_here, transaction

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
UNREACHABLE: Final = 3
INCOMPLETE: Final = 4

SIGNED_EXTRA_S: Final = 60.0  # a signed URL outlives its query, also when the clocks differ a little

JobFile = click.option(
    "-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="The job file (YAML)."
)
Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def main() -> NoReturn:
    """Run the command line; always ends the process."""
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        code = REFUSED
    except (click.Abort, KeyboardInterrupt):
        code = _fail("stopped: what was started goes on, see `trace-ray status`", FAILED)
    except RefusedInput as error:
        code = _fail(str(error), REFUSED)
    except (DatabaseUnavailable, StackUnavailable, SourceUnavailable, StoreUnavailable) as error:
        code = _fail(str(error), UNREACHABLE)
    except (TraceError, click.ClickException) as error:
        code = _fail(str(error), FAILED)
    sys.exit(code or DONE)


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        click.echo(line, err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trace-ray")
def cli() -> None:
    """Sync EVM chains into verified Parquet and query them with SQL."""


cli.add_command(ledger_commands.ledger)
cli.add_command(ledger_commands.explain)
cli.add_command(ledger_commands.buffer_group)
cli.add_command(alert_commands.alerts_group)
cli.add_command(access_commands.token)
cli.add_command(access_commands.users)
cli.add_command(access_commands.roles)
cli.add_command(access_commands.audit_command)
cli.add_command(bundle_commands.bundle)


# --- the stack ----------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--moved-store", is_flag=True, help="The published objects were copied to TRACE_OBJECT_STORE.")
def up(moved_store: bool) -> None:
    """Start the local stack: Postgres, Ray, Dispatcher, workers. Harmless when it runs; another build takes over."""
    _up(settings_here(), moved_store=moved_store)


@cli.command()
def down() -> None:
    """Stop what `up` started. Loses nothing."""
    _down()


@cli.command(name="devnet")
@click.option("--blocks", default=200, show_default=True, type=click.IntRange(4, 100_000), help="The chain's head.")
@click.option("--txs", default=20, show_default=True, type=click.IntRange(0, 500), help="Transactions in a block.")
@click.option("--port", default=8545, show_default=True, type=click.IntRange(1, 65_535))
def devnet_command(blocks: int, txs: int, port: int) -> None:
    """Run a real EVM node (anvil) with a filled chain until Ctrl-C."""
    settings = settings_here()
    binary = anvil.find(settings.data_dir) or anvil.install(settings.data_dir, say)
    with devnet.running_here(settings.data_dir, binary, port=port) as net:
        with console.progress_bar("filling the chain", total=blocks) as show:
            head = net.fill(blocks=blocks, transactions=txs, progress=show)
        say(f"Chain 31337 at {net.url}, blocks 0 to {head}. Ctrl-C stops it")
        say(f"export TRACE_RPC_POOL_STANDARD_URLS={net.url}")
        net.wait()


@cli.command(name="doctor")
@Json
def doctor_command(as_json: bool) -> None:
    """Tell what works on this machine, what does not, and how to mend it."""
    findings = doctor.examine()
    console.print_findings(findings, as_json=as_json)
    if any(finding.state == "broken" for finding in findings):
        sys.exit(FAILED)


@cli.command(name="demo")
@click.option("--exit", "and_exit", is_flag=True, help="Stop everything at the end.")
@click.option(
    "--blocks", default=demo.BLOCKS, show_default=True, type=click.IntRange(10, 20_000), help="The chain's head."
)
@click.option("--txs", default=demo.TRANSACTIONS, show_default=True, type=click.IntRange(1, 200))
def demo_command(and_exit: bool, blocks: int, txs: int) -> None:
    """Devnet, stack, a whole sync and three questions; then it is yours to explore."""
    demo.run(blocks=blocks, transactions=txs, keep=not and_exit, sync=_sync, ask=_ask_for_demo, down=_down)


# --- jobs ---------------------------------------------------------------------------------------------------------


@cli.command()
@JobFile
@Json
def check(path: Path, as_json: bool) -> None:
    """Validate a job file; with its RPC at hand also chain id, head and what the node can do."""
    settings = settings_here()
    report = checking.examine(config.read_job(path, settings.org_id), settings)
    console.print_check(report, as_json=as_json)


@cli.command()
@JobFile
def apply(path: Path) -> None:
    """Create or update the job of a file."""
    settings = settings_here()
    job = config.read_job(path, settings.org_id)
    _upgrade(settings)
    _apply(job, settings)


@cli.command()
@JobFile
def sync(path: Path) -> None:
    """Start the stack if needed, apply the job, and follow it until it is complete."""
    _sync(path)


@cli.command()
@click.option("--job", "name", help="Only this job.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@Json
def status(name: str | None, watch: bool, as_json: bool) -> None:
    """Show each stream: cursor, ranges by state, speed, head and lag, last error."""
    settings = settings_here()
    if watch and as_json:
        raise click.UsageError("--watch and --json do not go together: leave one of them out")
    if watch:
        follow.watch(Database(config.state_url(settings), application_name="trace-cli"), settings.org_id, name)
        return
    with transaction(settings) as conn:
        found = jobs.status(conn, settings.org_id, name)
    console.print_status(found, as_json=as_json)


@cli.command()
@click.argument("name", metavar="JOB")
def pause(name: str) -> None:
    """Stop planning new ranges; running ranges finish."""
    settings = settings_here()
    with transaction(settings) as conn:
        jobs.pause(conn, settings.org_id, name)
    say(f"{name} is paused; `trace-ray resume {name}` goes on")


@cli.command()
@click.argument("name", metavar="JOB")
def resume(name: str) -> None:
    """Go on with a paused job."""
    settings = settings_here()
    with transaction(settings) as conn:
        jobs.resume(conn, settings.org_id, name)
    say(f"{name} goes on; watch it with `trace-ray status --job {name} --watch`")


@cli.command()
@click.argument("name", metavar="JOB")
def retry(name: str) -> None:
    """Put the dead ranges of a job back into the queue."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = jobs.status(conn, settings.org_id, name)[0]
        ranges = tasks.retry_dead(conn, found.job_id)
    say(f"{ranges} dead range{'' if ranges == 1 else 's'} of {name} put back")


@cli.command(name="repair")
@click.argument("name", metavar="JOB")
@click.option("--check-objects", is_flag=True, help="First look whether every published object is still there.")
def repair_command(name: str, check_objects: bool) -> None:
    """Plan exactly the missing ranges of a job again, also while it runs."""
    settings = settings_here()
    if check_objects:
        database = Database(config.state_url(settings), application_name="trace-cli")
        lost = withdraw_lost(database, object_store(settings), settings.org_id, name)
        say(f"{lost} published version{'' if lost == 1 else 's'} had lost objects and were withdrawn")
    with transaction(settings) as conn:
        console.print_repaired(name, repair.repair(conn, settings.org_id, name))


@cli.command(name="sweep")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--older-than", "hours", default=24.0, show_default=True, type=click.FloatRange(1), help="In hours.")
def sweep_command(dry_run: bool, hours: float) -> None:
    """Remove what attempts left: staging directories, objects that were never published, drafts that are done with."""
    settings = settings_here()
    swept = for_stack(settings, kept_s=hours * 3600).sweep(dry_run=dry_run)
    say(
        f"{'Would remove' if dry_run else 'Removed'} {swept.objects} unpublished objects and {swept.batches} batches "
        f"of drafts ({swept.bytes:,} bytes), {swept.directories} staging directories, {swept.results} expired answers "
        f"of queries and {swept.audited} old rows of the audit; {swept.kept} old objects are in use or unknown here"
    )


# --- data ---------------------------------------------------------------------------------------------------------


@cli.command(name="datasets")
@Json
def datasets_command(as_json: bool) -> None:
    """List what is published."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = datasets.listing(conn, settings.org_id)
    console.print_datasets(found, as_json=as_json)


@cli.command()
@click.argument("name", metavar="DATASET")
@Json
def coverage(name: str, as_json: bool) -> None:
    """Show what is published of a dataset: blocks, gaps by block, certificates."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = datasets.coverage(conn, settings.org_id, name)
    console.print_coverage(found, as_json=as_json)


@cli.command()
@click.argument("sql")
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(console.FORMATS))
@click.option("--as-of", type=click.IntRange(0), help="Read this snapshot, as an earlier answer named it.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 10_000), help="Rows at the most.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the answer to a file.")
def query(sql: str, form: str, as_of: int | None, limit: int, output: Path | None) -> None:
    """Ask a question in SQL (`-` reads it from standard input)."""
    if sql == "-":
        sql = sys.stdin.read()
    _ask(settings_here(), sql, form=form, as_of=as_of, limit=limit, output=output)


# --- wiring -------------------------------------------------------------------------------------------------------


def _up(settings: Settings, *, moved_store: bool = False) -> None:
    for warning in settings.warnings:
        say(f"Note: {warning}")
    with alone(settings.data_dir):
        cluster = ray_cluster.find(settings)
        if cluster is None:
            say("Starting Ray (about 10 s)")
            cluster = ray_cluster.start(settings)
        from trace_ray.lite import stack

        running = stack.up(settings, cluster, say, moved_store=moved_store)
    console.print_stack(running, ray_cluster.token_file(settings.data_dir) if cluster.own else None)


def _down() -> None:
    settings = settings_here()
    stopped: list[str] = []
    with alone(settings.data_dir):
        cluster = ray_cluster.find(settings)
        from trace_ray.lite import stack

        stack.down(settings, cluster, stopped.append)
    for part in stopped:
        say(part)
    say("The stack is down; `trace-ray up` goes on where it stopped" if stopped else "No stack is running")


def _sync(path: Path) -> None:
    settings = settings_here()
    job = config.read_job(path, settings.org_id)
    need_pools(job, settings)
    _up(settings)
    settings = settings_here()  # now with the databases of the stack
    _apply(job, settings)
    database = Database(config.state_url(settings), application_name="trace-sync")
    try:
        complete = follow.until_complete(database, job)
    finally:
        database.close()
    if not complete:
        sys.exit(INCOMPLETE)


def _upgrade(settings: Settings) -> None:
    """Bring the running stack to this build; one that runs elsewhere is only told of."""
    if (holder := migrate.foreign_leader(config.state_url(settings), build_id())) is None:
        return
    cluster = ray_cluster.find(settings)
    if cluster is not None:
        from trace_ray.lite import stack

        if stack.runs_other_build(settings, cluster):
            _up(settings)
            return
    say(f"Note: the Dispatcher on {holder} is of another build: run `trace-ray up` there")


def _apply(job: Job, settings: Settings) -> None:
    need_pools(job, settings)
    share_pools(settings)
    with transaction(settings) as conn:
        applied = jobs.apply(conn, job)
    console.print_applied(job, applied)


def _ask(
    settings: Settings, sql: str, *, form: str, as_of: int | None = None, limit: int = 1000, output: Path | None = None
) -> None:
    from query import confine, run  # late: pyarrow takes a fifth of a second, which only a question needs
    from query.question import Limits, Question

    with transaction(settings) as conn:
        grant = datasets.pin(conn, settings.org_id, None, as_of)
    store = object_store(settings)
    # who types the SQL here owns the data: a kernel without Landlock takes one wall away, not the answer
    limits = Limits(without_landlock=not confine.is_complete(confine.landlock_abi()))
    valid_s = limits.timeout_s + SIGNED_EXTRA_S
    answer = run.once(
        Question(sql, limit),
        grant,
        locate=lambda key: store.presign(key, valid_s),
        scratch=settings.data_dir / "scratch",
        limits=limits,
    )
    console.print_answer(answer, form=form, output=output)


def _ask_for_demo(sql: str) -> None:
    _ask(settings_here(), sql, form="table")
