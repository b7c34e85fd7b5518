"""Each command as a user types it: answers, refusals in one sentence, and exit codes."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from tests.acceptance.conftest import Cli
from tests.conftest import Chain, Replay

pytestmark = pytest.mark.slow

LAST = 63


@pytest.fixture(scope="module")
def synced(stack: Cli, anvil_chain: Chain) -> Cli:
    """A stack that holds the blocks [0, 64) of a job named `shop`."""
    stack.environment["TRACE_RPC_POOL_STANDARD_URLS"] = anvil_chain.url
    stack.run("sync", "-f", str(stack.job("shop", end=LAST + 1)))
    return stack


def test_without_a_stack_commands_say_how_to_start_one(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    for command in (("status",), ("datasets",), ("query", "SELECT 1"), ("pause", "x")):
        done = cli.run(*command, code=3)
        assert done.stderr == "the embedded Postgres is not running: run `trace-ray up`\n"
        assert done.stdout == ""


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "arrow", "parquet"])
def test_an_answer_comes_in_each_form_and_also_into_a_file(synced: Cli, form: str, tmp_path: Path) -> None:
    file = tmp_path / "answer"
    sql = "SELECT block_number, block_hash FROM shop_blocks WHERE block_number < 3 ORDER BY 1"
    synced.run("query", "--format", form, "-o", str(file), sql)
    content = file.read_bytes()
    match form:
        case "json":
            document = json.loads(content)
            numbers = [row[0] for row in document["rows"]]
            assert set(document) == {"columns", "rows", "truncated", "query_id", "snapshot"}
            assert document["snapshot"][0]["name"] == "shop_blocks"
        case "ndjson":
            numbers = [json.loads(line)["block_number"] for line in content.splitlines()]
        case "csv":
            numbers = [int(row["block_number"]) for row in csv.DictReader(io.StringIO(content.decode()))]
        case "arrow":
            numbers = ipc.open_stream(content).read_all().column("block_number").to_pylist()
        case _:
            numbers = pq.read_table(io.BytesIO(content)).column("block_number").to_pylist()
    assert numbers == [0, 1, 2]


def test_a_table_shows_hashes_as_people_write_them(synced: Cli) -> None:
    done = synced.run("query", "SELECT block_hash FROM shop_blocks WHERE block_number = 1")
    assert "0x" in done.stdout
    assert "1 row in" in done.stderr


def test_sql_is_read_from_standard_input(synced: Cli) -> None:
    done = synced.run("query", "--format", "csv", "-", text="SELECT count(*) AS n FROM shop_blocks")
    assert done.stdout.split() == ['"n"', str(LAST + 1)]


def test_an_earlier_snapshot_answers_with_its_own_rows(synced: Cli) -> None:
    first = json.loads(
        synced.run("query", "--format", "json", "--as-of", "1", "SELECT count(*) FROM shop_blocks").stdout
    )
    assert first["rows"][0][0] < LAST + 1
    assert first["snapshot"][0]["snapshot"] == 1


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
        ("FROM '/etc/passwd'", "relation"),
        ("DELETE FROM shop_blocks", "SELECT"),
        ("SELECT 1; SELECT 2", "one"),
        ("SELECT nothing FROM shop_blocks", "nothing"),
        ("SELEC 1", "SELEC"),
    ],
)
def test_refused_sql_ends_with_2_and_says_why(synced: Cli, sql: str, word: str) -> None:
    done = synced.run("query", sql, code=2)
    assert word.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert "passwd" not in done.stdout


def test_binary_forms_refuse_a_terminal(synced: Cli) -> None:
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "trace_ray", "query", "--format", "arrow", "FROM shop_blocks"],
        env=synced.process_environment(), stdout=follower, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert "-o FILE" in done.stderr


def test_datasets_and_coverage_agree_and_have_their_shapes(synced: Cli) -> None:
    listed = {one["dataset"]: one for one in synced.json("datasets", "--json")["datasets"]}
    assert set(listed) >= {"shop_blocks", "shop_transactions", "shop_logs"}
    found = synced.json("coverage", "shop_logs", "--json")
    assert set(found) == {
        "dataset", "dataset_uuid", "snapshot", "from_block", "to_block", "blocks", "rows", "files", "bytes", "gaps",
        "missing", "versions",
    }  # fmt: skip
    assert found["rows"] == sum(version["rows"] for version in found["versions"]) == listed["shop_logs"]["rows"]
    assert set(found["versions"][0]) == {"dataset_version", "range_start", "range_end", "rows", "certificate"}
    assert "no gaps" in synced.run("coverage", "shop_logs").stdout


def test_an_unknown_name_is_refused_with_the_known_ones(synced: Cli) -> None:
    assert "shop_blocks" in synced.run("coverage", "shop_block", code=2).stderr
    assert "shop" in synced.run("status", "--job", "shoop", code=2).stderr
    assert "shop" in synced.run("pause", "shoop", code=2).stderr


def test_a_paused_job_plans_nothing_and_a_resumed_one_goes_on(synced: Cli) -> None:
    path = synced.job("halt", end=8, chunk=2)
    text = path.read_text()
    path.write_text(text.replace("kind: chain_sync", "kind: chain_sync\nenabled: false"))
    synced.run("apply", "-f", str(path))
    (job,) = synced.json("status", "--job", "halt", "--json")["jobs"]
    assert (job["state"], job["enabled"]) == ("paused", False)
    assert all(stream["next_block"] == 0 for stream in job["streams"])
    assert "resume halt" in synced.run("sync", "-f", str(path), code=4).stderr  # not a wait without end
    synced.run("resume", "halt")
    synced.until("halt", lambda job: job["state"] == "complete")


def test_doctor_finds_every_part_working(synced: Cli) -> None:
    findings = synced.json("doctor", "--json")["findings"]
    assert not [finding for finding in findings if finding["state"] == "broken"]
    assert {finding["part"] for finding in findings} >= {"python", "postgres", "ray", "engine", "stack", "object store"}
    assert "works" in synced.run("doctor").stdout


def test_dead_ranges_end_a_sync_with_4_and_retry_puts_them_back(
    synced: Cli, anvil_chain: Chain, recording: Path
) -> None:
    node = Replay([recording])
    try:
        synced.environment["TRACE_RPC_POOL_LIAR_URLS"] = node.url
        node.faults(fail="empty", methods=["eth_getBlockReceipts", "eth_getLogs"])
        path = synced.job("liar", end=20, pool="liar")
        done = synced.run("sync", "-f", str(path), code=4)
        assert "retry liar" in done.stderr
        (job,) = synced.json("status", "--job", "liar", "--json")["jobs"]
        assert sum(stream["ranges"]["dead"] for stream in job["streams"]) > 0
        node.faults()
        synced.run("retry", "liar")
        synced.run("sync", "-f", str(path))
        assert synced.query("SELECT count(*) FROM liar_blocks") == [[20]]
    finally:
        node.stop()


def test_check_asks_the_node_and_counts_the_work(synced: Cli) -> None:
    report = synced.json("check", "--json", "-f", str(synced.job("plan", end=40)))
    assert report["providers"][0]["head"] == LAST
    assert [stream["ranges"] for stream in report["streams"]] == [2, 2, 2]
    wrong = synced.job("plan", end=40)
    wrong.write_text(wrong.read_text().replace("31337", "5"))
    assert "serves chain 31337, the job wants 5" in synced.run("check", "-f", str(wrong), code=2).stderr


def test_a_job_whose_pool_has_no_provider_is_refused(synced: Cli) -> None:
    path = synced.job("poolless", end=40, pool="nowhere")
    done = synced.run("apply", "-f", str(path), code=2)
    assert done.stderr == "rpc pool nowhere has no provider: set TRACE_RPC_POOL_NOWHERE_URLS\n"


def test_every_mistake_of_a_job_file_is_told_at_once(synced: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "kind: chain_sync\nname: Bad\nchain_id: 1\nmode: {kind: fixed_target, from_block: 5, to_block: 5}\n"
    )
    done = synced.run("apply", "-f", str(path), code=2)
    assert len(done.stderr.splitlines()) >= 3
    assert all(line.startswith(str(path)) for line in done.stderr.splitlines())


def test_wrong_usage_ends_with_2(synced: Cli) -> None:
    assert "No such command" in synced.run("sink", code=2).stderr
    assert "--watch and --json" in synced.run("status", "--watch", "--json", code=2).stderr
    assert synced.run("query", code=2).stderr


def test_no_secret_of_a_provider_url_is_written_anywhere(synced: Cli, replay: Replay) -> None:
    secret = "s3cr3t-k3y-in-the-url"
    synced.environment["TRACE_RPC_POOL_SECRET_URLS"] = f"{replay.url}/{secret}?token={secret}"
    replay.faults(fail="500", fail_times=3)  # errors too must not quote the URL
    done = synced.run("sync", "-f", str(synced.job("secret", end=10, pool="secret")))
    assert secret not in done.stdout + done.stderr
    holding = [
        path
        for path in synced.data_dir.rglob("*")
        if path.is_file() and path.name != "stack.json" and secret.encode() in path.read_bytes()
    ]
    assert holding == []
    assert (synced.data_dir / "stack.json").stat().st_mode & 0o077 == 0
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert secret not in listing
