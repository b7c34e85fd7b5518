"""`trace-ray demo`: a filled chain, a stack, a whole sync and three questions, on a fresh machine."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trace_ray import config
from trace_ray.console import progress_bar, say
from trace_ray.lite import anvil, devnet

BLOCKS: Final = 1999  # the last block: the job of docs/examples syncs [0, 2000)
TRANSACTIONS: Final = 20

JOB: Final = """\
kind: chain_sync
name: devnet
chain_id: {chain_id}
chain_name: devnet
mode:
  kind: fixed_target
  from_block: 0
  to_block: {to_block} # end-exclusive: the last block is {last}
streams:
  blocks:       {{cryo_dataset_name: blocks,       rpc_pool: standard, chunk_size: 200, max_inflight: 8}}
  transactions: {{cryo_dataset_name: transactions, rpc_pool: standard, chunk_size: 200, max_inflight: 8}}
  logs:         {{cryo_dataset_name: logs,         rpc_pool: standard, chunk_size: 200, max_inflight: 8}}
"""

QUESTIONS: Final = (
    (
        "How many blocks and transactions, and how full were they?",
        "SELECT count(*) AS blocks, sum(n) AS transactions, round(avg(n), 1) AS per_block, max(n) AS most\n"
        "FROM (SELECT b.block_number, count(t.transaction_hash) AS n\n"
        "      FROM devnet_blocks b LEFT JOIN devnet_transactions t USING (block_number) GROUP BY 1)",
    ),
    (
        "Which contracts emit the most events?",
        "SELECT '0x' || lower(hex(address)) AS contract, count(*) AS events,\n"
        "       count(DISTINCT transaction_hash) AS transactions\n"
        "FROM devnet_logs GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    ),
    (
        "What did each type of transaction cost in a hundred blocks? (Only the files of those blocks are read.)",
        "SELECT transaction_type AS type, count(*) AS transactions, count(*) FILTER (NOT success) AS reverted,\n"
        "       round(avg(gas_used)) AS gas, round(avg(gas_price) / 1e9, 2) AS gwei\n"
        "FROM devnet_transactions WHERE block_number BETWEEN {low} AND {high} GROUP BY 1 ORDER BY 1",
    ),
)


def run(
    *,
    blocks: int,
    transactions: int,
    keep: bool,
    sync: Callable[[Path], None],
    ask: Callable[[str], None],
    down: Callable[[], None],
) -> None:
    """Run the whole of it. `sync` takes a job file, `ask` prints an answer, `down` stops the stack."""
    settings = config.read_settings()
    binary = anvil.find(settings.data_dir) or anvil.install(settings.data_dir, say)
    say(f"1. A real node with {blocks:,} blocks, up to {transactions} transactions in each")
    net = devnet.running(settings.data_dir) or _fill(settings.data_dir, binary, blocks, transactions)
    try:
        say(f"   {net.url}, chain {devnet.CHAIN_ID}, blocks 0 to {net.head:,}")
        _sync(net, sync)
        say("3. Three questions")
        for question, text in QUESTIONS:
            sql = text.format(low=net.head // 4, high=net.head // 4 + 99)
            say(f"\n{question}")
            say(sql)
            ask(sql)
    finally:
        if not keep:
            down()
    if keep:
        _tell_next()


def _fill(data_dir: Path, binary: Path, blocks: int, transactions: int) -> devnet.DevnetProcess:
    with progress_bar("filling the chain", total=blocks) as show:
        return devnet.start_detached(data_dir, binary, blocks=blocks, transactions=transactions, progress=show)


def _sync(net: devnet.DevnetProcess, sync: Callable[[Path], None]) -> None:
    say("2. Postgres, Ray, a Dispatcher and its workers; then the sync")
    text = JOB.format(chain_id=devnet.CHAIN_ID, to_block=net.head + 1, last=net.head)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "demo.yaml"
        path.write_text(text)
        sync(path)


def _tell_next() -> None:
    trace = shutil.which("trace-ray") and "trace-ray"
    trace = trace or (sys.argv[0] if Path(sys.argv[0]).name == "trace-ray" else "python -m trace_ray")
    say(
        f"""
It is yours to explore:
  {trace} status                       what ran
  {trace} datasets                     what is published
  {trace} coverage devnet_logs         and how each range was proven
  {trace} query "FROM devnet_blocks"   your own questions
  {trace} down                         stops everything; `{trace} up` goes on"""
    )
