"""Runs statements without the gate, each in a fresh process behind the walls that are left on. Run as a script.

Reads one JSON object from stdin: the statements, the sources, the directories, and which walls stand. Writes one JSON
line per statement: what it returned (bytes in hex), or the class of its error, or the signal that ended it. A benign
statement is asked after each, in a process of its own; the script fails when it does not answer.
"""

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import TypedDict

import duckdb
import pyarrow as pa

from query import confine, engine
from query.confine import Territory
from query.results import plain
from query.worker import MIB, readable

BENIGN, EXPECTED = "select count(*) from devnet_blocks", "[[60]]"
SHOWN_ROWS, SHOWN = 200, 30_000  # a pipe holds 64 KiB


class Task(TypedDict):
    """`walls` holds `lock` (DuckDB's own) and `landlock`, or one of them; `seconds` is what each statement may take."""

    statements: list[str]
    sources: dict[str, list[str]]
    spill: str
    walls: list[str]
    seconds: float


def run(task: Task, sql: str) -> object:
    """Confine this process as told and run all statements of the text."""
    spill = Path(task["spill"])
    confine.limit_resources(memory_bytes=2048 * MIB, file_bytes=256 * MIB)
    if "landlock" in task["walls"]:
        confine.enter(
            Territory(
                read=readable([path for paths in task["sources"].values() for path in paths], remote=False), write=spill
            )
        )
    if "lock" in task["walls"]:
        limits = engine.EngineLimits(threads=1, memory_mb=512, spill_mb=64)
        connection = engine.Engine(task["sources"], limits=limits, spill=spill).connection
    else:
        connection = duckdb.connect(config={"threads": 1, "temp_directory": str(spill)})
        for relation, files in task["sources"].items():
            connection.execute(f"create temp view {relation} as select * from read_parquet({files})")
    try:
        batch = connection.execute(sql).to_arrow_reader(SHOWN_ROWS).read_next_batch()
        return repr([plain(column) for column in batch.columns])[:SHOWN]
    except StopIteration:
        return "[]"
    except Exception as error:  # noqa: BLE001 - whatever it is, the test judges by what was returned
        return {"error": f"{type(error).__name__}: {error}"[:SHOWN]}


def forked(task: Task, sql: str) -> object:
    """Run in a fork that is killed when it takes too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # COPY can write to /dev/stdout
        os.write(writer, json.dumps(run(task, sql)).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], task["seconds"])
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(said) if said else {"signal": os.WTERMSIG(status)}


def main() -> None:
    task: Task = json.load(sys.stdin)
    pa.array([None])  # imports pandas where it is installed, while its files can still be read
    for sql in task["statements"]:
        outcome = forked(task, sql)
        if forked({**task, "seconds": 30.0}, BENIGN) != EXPECTED:
            raise RuntimeError("the next benign statement is not answered")
        sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
