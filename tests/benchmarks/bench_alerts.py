"""From a published range to its delivered webhook, on Ray: `python -m tests.benchmarks.bench_alerts [--quick]`.

One rule, one signed Python handler that raises one alert per range, and a receiver on this machine that takes it.
Ranges are published one after another, each when the alert of the one before is delivered, so that none waits for
another. All times are those of the ledgers: the parts follow one another, and what is measured besides is how long the
sandbox ran. The clock starts when the last of the range's datasets is published.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from state import jobs
from state.db import Connection, Database, connect
from tests.acceptance.conftest import Cli
from tests.benchmarks.parts import until
from tests.benchmarks.rich_chain import CACHE
from tests.conftest import free_port
from tests.receivers import Receiver
from trace_ray import config
from trace_ray.lite import anvil
from trace_ray.lite.devnet import Devnet

TARGET_S: Final = 1.0  # p50
RANGES: Final = 60
QUICK_RANGES: Final = 6
WARM_UP: Final = 3  # ranges before those that count: actors start, sandboxes get ready
BLOCKS: Final = 4  # of a range
TRANSACTIONS: Final = 10
FIRST_BLOCK: Final = 4  # those before set up contracts, and transfer nothing
RANGE_S: Final = 90.0
NAME: Final = "watch"
HANDLER: Final = """\
from datetime import UTC, datetime


def handler(event, context):
    blocks, names = event["range"], event["datasets"]
    (row,) = context.trace.query(
        f"SELECT t.block_number, t.block_hash, t.transaction_hash, t.value_string, b.timestamp "
        f"FROM chain_transactions t JOIN chain_blocks b USING (block_number) "
        f"WHERE t.block_number >= {int(blocks['from_block'])} AND t.block_number < {int(blocks['to_block'])} "
        f"ORDER BY t.value_binary DESC, t.block_number, t.transaction_index LIMIT 1"
    )
    context.trace.emit([{
        "alert_definition_id": event["alert_definition_id"],
        "dedupe_key": f"{event['alert_definition_id']}:{row['block_hash']}:{row['transaction_hash']}",
        "event_time": datetime.fromtimestamp(row["timestamp"], UTC).isoformat(),
        "chain_id": event["chain_id"],
        "block_number": row["block_number"],
        "block_hash": row["block_hash"],
        "tx_hash": row["transaction_hash"],
        "payload": {"wei": row["value_string"]},
    }])
"""
RULE: Final = """\
kind: alert_rule
name: watch
bundle: watch@0.1.0
datasets: [chain_blocks, chain_transactions]
channels: [bench]
"""
PARTS: Final = {
    "published": "the range is published, until it is queued for the rule",
    "queued": "until a worker has the evaluation",
    "leased": "until its end is in the ledger: the sandbox, and the way there and back",
    "ended": "until the sink keeps the event",
    "kept": "until the webhook is sent",
    "sent": "until the receiver's answer is recorded",
}
EVALUATIONS: Final = b"""
SELECT t.range_start, t.task_id, extract(epoch FROM v.published)::float8 AS published,
  extract(epoch FROM t.created_at)::float8 AS queued, extract(epoch FROM a.started_at)::float8 AS leased,
  extract(epoch FROM a.ended_at)::float8 AS ended, (a.seconds ->> 'invoke')::float8 AS sandbox, a.attempt
FROM state.tasks t JOIN state.attempts a USING (task_id)
  JOIN LATERAL (SELECT max(published_at) AS published FROM state.dataset_versions v
    WHERE v.range_start = t.range_start AND v.dataset_uuid IN (SELECT dataset_uuid FROM state.rule_datasets)) v ON TRUE
WHERE t.kind = 'evaluation' AND a.outcome = 'succeeded' ORDER BY t.range_start
"""
DELIVERIES: Final = b"""
SELECT e.task_id, extract(epoch FROM e.created_at)::float8 AS kept,
  extract(epoch FROM d.first_sent_at)::float8 AS sent, extract(epoch FROM d.settled_at)::float8 AS delivered
FROM data.alert_events e JOIN data.alert_deliveries d USING (event_id) WHERE d.state = 'delivered'
"""
PUBLISHED: Final = b"SELECT count(*) AS n FROM state.tasks WHERE kind = 'sync' HAVING bool_and(state = 'succeeded')"
DELIVERED: Final = b"SELECT count(*) AS n FROM data.alert_deliveries WHERE state = 'delivered'"


class Bench:
    """A stack with the rule, and its chain."""

    def __init__(self, cli: Cli, state: Database, data: Connection) -> None:
        self._cli = cli
        self._state = state
        self._data = data
        self._end = FIRST_BLOCK

    def publish(self) -> None:
        """Let the job reach one range further, and wait for its alert."""
        wanted = self._delivered() + 1
        self._reach(self._end + BLOCKS)
        until(
            lambda: self._delivered() >= wanted, what=f"the alert of the blocks before {self._end}", timeout_s=RANGE_S
        )

    def watch(self) -> None:
        """Apply the rule. Its datasets must be there: they come with the first range, which it does not look at."""
        self._reach(self._end + BLOCKS)
        until(lambda: self._published() > 0, what="the first range", timeout_s=RANGE_S)
        path = self._cli.data_dir / "rule.yaml"
        path.write_text(RULE, encoding="utf-8")
        self._cli.run("alerts", "apply", "-f", str(path))

    def _reach(self, end: int) -> None:
        self._end = end
        job = config.read_job(self._cli.job("chain", start=FIRST_BLOCK, end=end, chunk=BLOCKS))
        with self._state.transaction() as conn:
            jobs.apply(conn, job)

    def _published(self) -> int:
        with self._state.transaction() as conn:
            row = conn.execute(PUBLISHED).fetchone()
        return int(row["n"]) if row else 0

    def _delivered(self) -> int:
        (row,) = self._data.execute(DELIVERED)
        return int(row["n"])

    def times(self) -> list[dict[str, float]]:
        """Return the times of each range, in order: an instant in seconds per part, and the seconds of the sandbox."""
        with self._state.transaction() as conn:
            evaluations = conn.execute(EVALUATIONS).fetchall()
        delivered = {row["task_id"]: row for row in self._data.execute(DELIVERIES)}
        return [{**row, **delivered[row["task_id"]]} for row in evaluations]


@contextmanager
def benches(directory: Path, ranges: int) -> Generator[Bench]:
    """Give a stack on Ray, a chain that is long enough, and a receiver."""
    binary = anvil.find(CACHE) or anvil.install(CACHE, print)
    net = Devnet(binary, port=None, log=directory / "anvil.log", state_dir=directory / "states")
    cli = Cli(directory, {"TRACE_WORKERS": "2"})
    with net, Receiver() as receiver:
        net.fill(blocks=FIRST_BLOCK + BLOCKS * ranges, transactions=TRANSACTIONS)
        cli.environment |= {
            "TRACE_HTTP_PORT": str(free_port()),
            "TRACE_RPC_POOL_STANDARD_URLS": net.url,
            "TRACE_ALERTS_ALLOW_LOOPBACK": "1",
            "TRACE_CHANNEL_BENCH_KIND": "webhook",
            "TRACE_CHANNEL_BENCH_URL": receiver.url("/"),
            "TRACE_CHANNEL_BENCH_SECRET": "of-the-benchmark-4711",
        }
        try:
            cli.run("up")
            push(cli)
            settings = config.load_stack(directory)
            state = Database(config.state_url(settings), application_name="trace-bench")
            with connect(config.data_url(settings), application_name="trace-bench") as data:
                data.autocommit = True
                yield Bench(cli, state, data)
            state.close()
        finally:
            cli.run("down")


def push(cli: Cli) -> None:
    """Make, sign and push the bundle."""
    project, made, key = cli.data_dir / NAME, cli.data_dir / f"{NAME}.zip", cli.data_dir / "author.key"
    cli.run("bundle", "keygen", "-o", str(key))
    cli.run("bundle", "trust", f"{key}.pub")
    cli.run("bundle", "init", str(project), "--lang", "python")
    (project / "handler.py").write_text(HANDLER, encoding="utf-8")
    cli.run("bundle", "build", str(project), "-o", str(made))
    cli.run("bundle", "sign", str(made), "--key", str(key))
    cli.run("bundle", "push", str(made))


def run(ranges: int) -> list[dict[str, float]]:
    """Return the times of so many ranges."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # as root, Postgres and sandboxes run as users of their own
        with benches(directory, ranges + WARM_UP + 1) as bench:
            bench.watch()
            for _ in range(WARM_UP + ranges):
                bench.publish()
                time.sleep(0.1)  # its last words are spoken before the next range begins
            return bench.times()[-ranges:]


def table(times: Sequence[dict[str, float]]) -> str:
    """Return p50 and p99 of the whole and of its parts, in Markdown."""
    whole = [one["delivered"] - one["published"] for one in times]
    lines = ["| part | p50 ms | p99 ms |", "|---|---|---|"]
    lines.append(f"| **published range to delivered webhook** (p50 wanted: {TARGET_S * 1000:.0f}) | {_both(whole)} |")
    ends = [*list(PARTS)[1:], "delivered"]
    for (part, text), end in zip(PARTS.items(), ends, strict=True):
        lines.append(f"| {text} | {_both([one[end] - one[part] for one in times])} |")
        if part == "leased":
            lines.append(f"| of that, the handler in its sandbox | {_both([one['sandbox'] for one in times])} |")
    verdict = "reached" if statistics.median(whole) <= TARGET_S else "missed"
    return "\n".join(lines) + f"\n\n{len(times)} ranges, one after another: {verdict}.\n"


def _both(seconds: Sequence[float]) -> str:
    ordered = sorted(one * 1000 for one in seconds)
    return f"{statistics.median(ordered):.0f} | {ordered[round(0.99 * (len(ordered) - 1))]:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_alerts")
    parser.add_argument("--quick", action="store_true", help="a short form, for trying out")
    print(table(run(QUICK_RANGES if parser.parse_args().quick else RANGES)), end="")


if __name__ == "__main__":
    main()
