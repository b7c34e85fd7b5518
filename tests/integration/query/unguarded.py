"""Runs statements without the gate, in processes behind the walls that are left on. Run as a script.

Reads one JSON object from stdin: the statements, the sources, the directories, and which walls stand. Writes one JSON
line per statement: what it returned (bytes in hex), or the class of its error, or the signal that ended its process.

A process runs statements one after another for as long as a benign one is still answered after each. A statement that
hangs, kills or spoils it ends it; the next runs in a fresh one, which must answer the benign statement first.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final, TypedDict

import duckdb
import pyarrow as pa

from query import confine, engine
from query.confine import Territory
from query.results import plain
from query.worker import MIB, readable

BENIGN, EXPECTED = "select count(*) from devnet_blocks", "[[60]]"
NO_DOWNLOADS: Final = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
SHOWN_ROWS, SHOWN = 200, 30_000
START_S: Final = 60.0
RENEWED_AFTER: Final = 40  # statements; what one left behind must not stop all others


class Task(TypedDict):
    """`walls` holds `lock` (DuckDB's own) and `landlock`, or one of them; `seconds` is what each statement may take."""

    statements: list[str]
    sources: dict[str, list[str]]
    spill: str
    walls: list[str]
    seconds: float


class Broken(Exception):
    """A fresh process does not answer the benign statement: an attack has harmed more than its own process."""


# --- the child ----------------------------------------------------------------------------------------------------


def opened(task: Task) -> duckdb.DuckDBPyConnection:
    """Confine this process as told and connect."""
    spill = Path(task["spill"])
    confine.limit_resources(memory_bytes=2048 * MIB, file_bytes=256 * MIB)
    if "landlock" in task["walls"]:
        objects = [path for paths in task["sources"].values() for path in paths]
        confine.enter(Territory(read=(*readable(objects, remote=False), engine.httpfs()), write=spill))
    if "lock" in task["walls"]:
        limits = engine.EngineLimits(threads=1, memory_mb=512, spill_mb=64)
        return engine.Engine(task["sources"], limits=limits, spill=spill, remote=True).connection
    connection = duckdb.connect(config={**NO_DOWNLOADS, "threads": 1, "temp_directory": str(spill)})
    connection.load_extension(str(engine.httpfs()))  # as the lock has it: else nobody could be reached, wall or not
    connection.execute("set http_retries = 0")
    for relation, files in task["sources"].items():
        connection.execute(f"create temp view {relation} as select * from read_parquet({files})")
    return connection


def outcome(connection: duckdb.DuckDBPyConnection, sql: str) -> object:
    """Run all statements of a text; return the first rows, or the error."""
    try:
        batch = connection.execute(sql).to_arrow_reader(SHOWN_ROWS).read_next_batch()
        return repr([plain(column) for column in batch.columns])[:SHOWN]
    except StopIteration:
        return "[]"
    except Exception as error:  # noqa: BLE001 - whatever it is, the test judges by what was returned
        return {"error": f"{type(error).__name__}: {error}"[:SHOWN]}


def serve(task: Task, statements: list[str], writer: int) -> None:
    """Say what each statement comes to and whether a benign one is answered after it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # COPY can write to /dev/stdout
    connection = opened(task)
    say(writer, outcome(connection, BENIGN))
    for sql in statements:
        found = outcome(connection, sql)
        say(writer, [found, outcome(connection, BENIGN) == EXPECTED])


def say(writer: int, message: object) -> None:
    rest = json.dumps(message).encode() + b"\n"
    while rest:
        rest = rest[os.write(writer, rest) :]


# --- the parent ---------------------------------------------------------------------------------------------------


class Session:
    """One child and what it says."""

    def __init__(self, task: Task, statements: list[str]) -> None:
        self._reader, writer = os.pipe()
        self._heard = b""
        self.child = os.fork()
        if self.child == 0:
            os.close(self._reader)
            serve(task, statements, writer)
            os._exit(0)
        os.close(writer)
        said = self.hear(START_S)
        if said != EXPECTED:
            raise Broken(f"{said} {self.end()} before: {statements[0][:200]}")

    def hear(self, seconds: float) -> object:
        """Return the next message; None when the child is silent for too long, or gone."""
        end = time.monotonic() + seconds
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._reader, 1 << 16) if ready else b""
            if not piece:
                return None
            self._heard += piece
        line, self._heard = self._heard.split(b"\n", 1)
        return json.loads(line)

    def end(self) -> dict[str, int]:
        """Kill the child; return the signal that ended it, which is its own where it was dead already."""
        os.close(self._reader)
        os.kill(self.child, signal.SIGKILL)
        return {"signal": os.WTERMSIG(os.waitpid(self.child, 0)[1])}


def main() -> None:
    task: Task = json.load(sys.stdin)
    pa.array([None])  # imports pandas where it is installed, while its files can still be read
    waiting = task["statements"]
    while waiting:
        waiting = waiting[run_some(task, waiting) :]


def run_some(task: Task, statements: list[str]) -> int:
    """Run the first statements in one child, until it is spoilt or renewed; return how many."""
    session = Session(task, statements)
    for done in range(min(len(statements), RENEWED_AFTER)):
        said = session.hear(task["seconds"])
        if not isinstance(said, list):
            sys.stdout.write(json.dumps(session.end()) + "\n")
            return done + 1
        found, sound = said
        sys.stdout.write(json.dumps(found) + "\n")
        if not sound:
            session.end()
            return done + 1
    session.end()
    return min(len(statements), RENEWED_AFTER)


if __name__ == "__main__":
    main()
