"""What pruning saves: one question about two files, asked of the pruned list and of all files; and its own cost.

Run it alone: `python -m tests.benchmarks.bench_prune`, under a minute. It prints tables; ratios are within one run. The
S3 server is a real one on this machine (rclone), objects are read over signed URLs as a query's child reads them. "All
files" is asked twice: of our engine, which keeps footers and does not ask whether objects changed, and of the same
engine with DuckDB's own defaults for both.
"""

import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import botocore.session
import duckdb
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config

from query import engine, prune
from query.attach import show
from query.engine import Engine, EngineLimits
from tests.conftest import free_port, wait_until
from trace_ray.contracts import GrantedFile

FILES, BLOCKS, ROWS = 1_000, 100, 2_000  # files; blocks and rows of each
QUESTION = "select count(*), sum(value), max(block_number) from logs where block_number between 50_050 and 50_149"
JOIN = """with recent as (select * from logs where block_number >= 50_050), busy as (
  select block_number, count(*) as n from recent group by block_number)
select l.block_number, b.n, sum(l.value) from logs l join busy b using (block_number)
where block_number < 50_150 and exists (select 1 from logs e where e.block_number = l.block_number and e.value > 3)
group by all order by all"""
TARGETS = {"local": 25.0, "S3, warm": 100.0}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        root = Path(name)
        files = publish(root / "bucket")
        kept = prune.select_files(files, prune.block_ranges(tree(QUESTION), {"logs": "logs"})["logs"])
        local = compare(root, files, kept, lambda file: str(root / "bucket" / file.key))
        with s3(root) as sign:
            remote = compare(root, files, kept, sign)
    print(f"{FILES:,} files of {ROWS:,} rows; {len(kept)} hold the blocks of the question. Medians, milliseconds.\n")
    print("| objects | pruned | all files | times as fast | all files, defaults | times as fast | wanted |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for place, (pruned, full, plain) in {"local": local, "S3, warm": remote}.items():
        print(
            f"| {place} | {pruned * 1e3:.2f} | {full * 1e3:.1f} | {full / pruned:.0f} "
            f"| {plain * 1e3:.1f} | {plain / pruned:.0f} | {TARGETS[place]:.0f} |"
        )
    print("\n| the pruner's own cost | ms |\n| --- | --- |")
    for what, seconds in own_cost(files).items():
        print(f"| {what} | {seconds * 1e3:.3f} |")


def tree(sql: str) -> dict[str, engine.Json]:
    return json.loads(engine.parse_tree(sql))["statements"][0]["node"]


def publish(bucket: Path) -> list[GrantedFile]:
    bucket.mkdir()
    files: list[GrantedFile] = []
    for number in range(FILES):
        first = number * BLOCKS
        blocks = [first + row * BLOCKS // ROWS for row in range(ROWS)]
        path = bucket / f"{first}.parquet"
        columns = {"block_number": blocks, "value": [block * 7 % 1009 for block in blocks], "data": [b"\0" * 32] * ROWS}
        pq.write_table(pa.table(columns), path, compression="zstd")
        files.append(GrantedFile(path.name, first, first + BLOCKS - 1, path.stat().st_size, ROWS))
    return files


def compare(
    root: Path, files: Sequence[GrantedFile], kept: Sequence[GrantedFile], locate: Callable[[GrantedFile], str]
) -> tuple[float, float, float]:
    """Return the seconds of the warm question over the pruned list and over all files, each on an engine of its own."""
    answers: list[object] = []
    seconds: list[float] = []
    for chosen, rounds, defaults in ((kept, 40, False), (files, 7, False), (files, 7, True)):
        bound = Engine({"logs": [locate(file) for file in chosen]}, limits=EngineLimits(2, 512, 64), spill=root)
        if defaults:
            bound.connection.close()
            bound.connection = default_connection([locate(file) for file in chosen])
        run = bound.connection.execute
        answers.append(run(QUESTION).fetchall())
        seconds.append(median(lambda run=run: run(QUESTION).fetchall(), rounds))
        bound.connection.close()
    assert answers[0] == answers[1] == answers[2]
    return seconds[0], seconds[1], seconds[2]


def default_connection(locations: Sequence[str]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 2, "allow_persistent_secrets": False})
    connection.load_extension(str(engine.httpfs()))
    show(connection, {"logs": locations})
    return connection


def median(call: Callable[[], object], rounds: int) -> float:
    times: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def own_cost(files: Sequence[GrantedFile]) -> dict[str, float]:
    names = {"logs": "logs"}
    point, join = tree(QUESTION), tree(JOIN)
    ranges, joined = prune.block_ranges(point, names)["logs"], prune.block_ranges(join, names)["logs"]
    assert joined == ranges
    many = [GrantedFile(str(n), n * BLOCKS, n * BLOCKS + BLOCKS - 1, 1, ROWS) for n in range(10_000)]
    return {
        "ranges of a point query": median(lambda: prune.block_ranges(point, names), 200),
        "ranges of a join over two CTEs and a subquery": median(lambda: prune.block_ranges(join, names), 200),
        "files, of 1,000": median(lambda: prune.select_files(files, ranges), 200),
        "files, of 10,000": median(lambda: prune.select_files(many, ranges), 200),
    }


@contextlib.contextmanager
def s3(root: Path) -> Generator[Callable[[GrantedFile], str]]:
    """Serve the files of `root` over S3 and yield what signs the URL of one."""
    key, secret, endpoint = "trace" + secrets.token_hex(4), secrets.token_hex(16), f"http://127.0.0.1:{free_port()}"
    rclone = str(Path(sys.executable).parent / "rclone")
    command = [rclone, "serve", "s3", str(root), "--auth-key", f"{key},{secret}", "--vfs-cache-mode", "off"]
    with (root / "s3.log").open("wb") as log:
        process = subprocess.Popen([*command, "--addr", endpoint.removeprefix("http://")], stdout=log, stderr=log)

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(endpoint).status_code < 500
        return False

    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
        config=config,
    )  # fmt: skip
    try:
        wait_until(answers, what="the S3 server")
        yield lambda file: str(
            client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": file.key}, ExpiresIn=600)
        )
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
