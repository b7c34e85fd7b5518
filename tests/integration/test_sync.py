"""From a node to published Parquet, with every part real but Ray."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from state.db import Database
from tests import drive, truth
from tests.conftest import Chain, Replay, S3Server
from trace_ray.contracts import BlockRange, Level, Publication, Receipts, S3Credentials, Stream
from trace_ray.extract.choice import make_engine
from trace_ray.reports import JobState, JobStatus
from trace_ray.storage import ObjectStore, open_store

ENGINES = ("cryo", "native")
DATASETS = ("blocks", "transactions", "logs")


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    key = S3Credentials(access_key=server.access_key, secret_key=server.secret_key)
    return open_store(f"s3://{server.bucket}/data", data_dir=tmp_path, s3_endpoint=server.endpoint, s3=key)


@pytest.fixture
def database(state_url: str) -> Database:
    return Database(state_url, application_name="test")


@pytest.fixture
def line(database: Database, tmp_path: Path, replay: Replay) -> Callable[..., drive.Line]:
    def make(engine: str = "cryo", *, store: ObjectStore | None = None, **options: float) -> drive.Line:
        kept = store or open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
        return drive.Line(database, make_engine(engine), kept, tmp_path / "staging", replay.url, **options)

    return make


def complete(status: JobStatus) -> bool:
    return status.state is JobState.COMPLETE


@pytest.mark.parametrize("engine", ENGINES)
def test_every_published_row_equals_what_the_node_says(
    engine: str, store: ObjectStore, database: Database, rich_chain: Chain, tmp_path: Path
) -> None:
    sync = drive.Line(database, make_engine(engine), store, tmp_path / "staging", rich_chain.url)
    sync.apply(drive.job(end=rich_chain.head + 1, chunk_size=100))
    sync.run(until=complete)

    wanted = truth.rows(rich_chain.url, 0, rich_chain.head + 1)

    for name in DATASETS:
        assert sync.table(f"devnet_{name}", tmp_path).to_pylist() == wanted[name]
    assert len(wanted["blocks"]) >= 300
    levels = {(one.dataset_key, one.certificate.level) for one in sync.outcomes if isinstance(one, Publication)}
    assert levels >= {("transactions", Level.RECEIPTS_ROOT), ("logs", Level.RECEIPTS_ROOT)}
    assert len(levels) == len(DATASETS)


@pytest.mark.parametrize("engine", ENGINES)
def test_to_block_is_not_part_of_the_range(engine: str, line: Callable[..., drive.Line], tmp_path: Path) -> None:
    sync = line(engine)
    sync.apply(drive.job(start=10, end=31, chunk_size=10))
    sync.run(until=complete)
    numbers = sync.table("devnet_blocks", tmp_path).column("block_number").to_pylist()
    assert numbers == list(range(10, 31))
    assert drive.spans(sync.grant("devnet_blocks")) == [BlockRange(10, 20), BlockRange(20, 30), BlockRange(30, 31)]


def test_a_target_beyond_the_head_waits_and_says_so(
    line: Callable[..., drive.Line], replay: Replay, tmp_path: Path
) -> None:
    sync = line()
    replay.faults(head=30)
    sync.apply(drive.job(end=50, chunk_size=10))
    waiting = sync.run(until=lambda status: status.streams[0].ranges.succeeded == 4)
    assert waiting.state is not JobState.COMPLETE
    assert sync.table("devnet_blocks", tmp_path).column("block_number").to_pylist() == list(range(31))
    replay.faults()
    sync.run(until=complete)
    assert sync.table("devnet_blocks", tmp_path).column("block_number").to_pylist() == list(range(50))


FAULTS = [
    {"fail": "empty", "methods": ["eth_getLogs"], "fail_times": 2},
    {"fail": "short", "methods": ["eth_getLogs"], "fail_times": 2},
    {"fail": "short", "methods": ["eth_getBlockReceipts"], "fail_times": 2},
    {"fail": "empty", "methods": ["eth_getBlockReceipts"], "fail_times": 2},
    {"fail": "fork", "fail_times": 2},
    {"fail": "drop", "fail_times": 4},
    {"fail": "500", "fail_times": 4},
    {"fail": "429", "fail_rate": 0.2},
    {"fail": "garbage", "fail_times": 4},
    {"fail": "truncated", "fail_times": 4},
    {"fail": "null", "fail_times": 4},
    {"fail": "rpc", "fail_times": 4},
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault['fail']}-{'-'.join(fault.get('methods', []))}")
def test_a_provider_that_fails_for_a_while_costs_time_and_no_row(
    engine: str, fault: dict[str, object], line: Callable[..., drive.Line], replay: Replay, tmp_path: Path
) -> None:
    wanted = truth.rows(replay.url, 0, 64)
    sync = line(engine)
    replay.faults(**fault)
    sync.apply(drive.job(end=64, chunk_size=16))
    sync.run(until=complete)
    for name in DATASETS:
        assert sync.table(f"devnet_{name}", tmp_path).to_pylist() == wanted[name]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "fault",
    [
        {"fail": "empty", "methods": ["eth_getLogs", "eth_getBlockReceipts"]},
        {"fail": "500", "methods": ["eth_getBlockByNumber"]},
    ],
)
def test_a_provider_that_fails_for_good_publishes_nothing_wrong_and_ends_dead(
    engine: str, fault: dict[str, object], line: Callable[..., drive.Line], replay: Replay
) -> None:
    sync = line(engine)
    sync.apply(drive.job(end=64, chunk_size=32, datasets=("transactions", "logs")))
    sync.tick()  # the head is known before the node breaks
    replay.faults(**fault)
    status = sync.run(until=lambda status: all(stream.ranges.dead == 2 for stream in status.streams))
    assert all(stream.last_error for stream in status.streams)
    assert not sync.grant().datasets or not sync.grant("devnet_logs").datasets[0].files
    assert status.state is JobState.BLOCKED


@pytest.mark.parametrize("fail", ["500", "drop"])
def test_an_outage_longer_than_three_attempts_ends_no_range(
    fail: str, line: Callable[..., drive.Line], replay: Replay, tmp_path: Path
) -> None:
    sync = line()
    sync.apply(drive.job(end=64, chunk_size=16))
    sync.tick()  # the head is known before the node breaks
    replay.faults(fail=fail)
    began = time.monotonic()
    waiting = sync.run(until=lambda status: time.monotonic() - began > 4 and status.state is JobState.BLOCKED)
    assert waiting.reason is not None
    assert "standard" in waiting.reason
    assert all(stream.ranges.dead == 0 for stream in waiting.streams)
    replay.faults()
    sync.run(until=complete)
    assert sync.table("devnet_logs", tmp_path).to_pylist() == truth.rows(replay.url, 0, 64)["logs"]


def test_two_streams_of_one_kind_are_published_each_for_itself(line: Callable[..., drive.Line], tmp_path: Path) -> None:
    sync = line()
    job = drive.job(end=20, datasets=("logs",))
    twin = replace(job.streams[0], dataset_key="twin", dataset="devnet_twin")
    sync.apply(replace(job, streams=(*job.streams, twin)))
    sync.run(until=complete)
    assert sync.table("devnet_twin", tmp_path) == sync.table("devnet_logs", tmp_path)


def test_a_dataset_that_cannot_be_made_does_not_end_the_others(line: Callable[..., drive.Line]) -> None:
    sync = line("native")
    job = drive.job(end=20, datasets=("blocks", "logs"))
    traces = Stream("traces", "traces", "standard", 20, 8, "devnet_traces")
    sync.apply(replace(job, streams=(*job.streams, traces)))
    status = sync.run(until=lambda status: sum(stream.ranges.succeeded for stream in status.streams) == 2)
    assert {stream.dataset_key for stream in status.streams if stream.ranges.succeeded} == {"blocks", "logs"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_provider_that_hangs_is_killed_at_the_deadline_and_tried_again(
    engine: str, line: Callable[..., drive.Line], replay: Replay, tmp_path: Path
) -> None:
    sync = line(engine, range_s=3.0)
    sync.apply(drive.job(end=20, chunk_size=20))
    sync.tick()
    replay.faults(fail="hang", methods=["eth_getBlockByNumber"], fail_times=1)
    sync.run(until=complete)
    assert sync.table("devnet_blocks", tmp_path).num_rows == 20


def test_a_changed_chunk_size_keeps_ranges_gapless(line: Callable[..., drive.Line], tmp_path: Path) -> None:
    sync = line()
    sync.apply(drive.job(end=64, chunk_size=10, max_inflight=2))
    sync.run(until=lambda status: status.streams[0].ranges.succeeded >= 2)
    sync.apply(drive.job(end=64, chunk_size=7, max_inflight=2))
    sync.run(until=complete)
    found = drive.spans(sync.grant("devnet_blocks"))
    assert found[0].start == 0
    assert found[-1].end == 64
    assert all(left.end == right.start for left, right in pairwise(found))
    assert {len(blocks) for blocks in found} > {10, 7}
    assert sync.table("devnet_transactions", tmp_path).to_pylist() == truth.rows(sync.url, 0, 64)["transactions"]


def test_applying_and_syncing_again_changes_nothing(line: Callable[..., drive.Line]) -> None:
    sync = line()
    sync.apply(drive.job(end=40))
    sync.run(until=complete)
    before = sync.grant()
    sync.apply(drive.job(end=40))
    sync.run(until=complete)
    assert sync.grant() == before


def test_raising_to_block_goes_on_from_the_cursor(line: Callable[..., drive.Line], tmp_path: Path) -> None:
    sync = line()
    sync.apply(drive.job(end=30))
    sync.run(until=complete)
    sync.apply(drive.job(end=64))
    sync.run(until=complete)
    assert sync.table("devnet_blocks", tmp_path).column("block_number").to_pylist() == list(range(64))


def test_a_range_without_logs_publishes_an_empty_typed_file_and_says_so(
    line: Callable[..., drive.Line], replay: Replay, tmp_path: Path
) -> None:
    empty = next(n for n in range(64) if not truth.rows(replay.url, n, n + 1)["logs"])
    sync = line()
    sync.apply(drive.job(start=empty, end=empty + 1, datasets=("logs",)))
    sync.run(until=complete)
    table = sync.table("devnet_logs", tmp_path)
    assert table.num_rows == 0
    assert "topic0" in table.column_names
    (published,) = [outcome for outcome in sync.outcomes if isinstance(outcome, Publication)]
    assert published.rows == 0
    assert published.certificate.level is Level.RECEIPTS_ROOT


@pytest.mark.parametrize("engine", ENGINES)
def test_mainnet_blocks_with_blob_and_set_code_transactions_sync(
    engine: str,
    mainnet_recording: Path,
    serve_recording: Callable[..., Replay],
    database: Database,
    tmp_path: Path,
) -> None:
    first, end = 22_431_080, 22_431_091
    node = serve_recording([mainnet_recording])
    store = open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
    sync = drive.Line(database, make_engine(engine), store, tmp_path / "staging", node.url)
    sync.apply(
        drive.job(
            name="mainnet", chain_id=1, start=first, end=end, chunk_size=4, receipts=Receipts.NONE,
            datasets=("blocks", "transactions"),
        )
    )  # fmt: skip
    sync.run("mainnet", until=complete)
    assert sync.table("mainnet_blocks", tmp_path).num_rows == 11
    transactions = sync.table("mainnet_transactions", tmp_path)
    assert transactions.num_rows == 1_479
    assert set(transactions.column("transaction_type").to_pylist()) == {0, 1, 2, 3, 4}
