"""Random statements over small relations in real Parquet files, answered from all files, from the pruned ones, and from
exactly the rows that the pruner says can matter, which shows a mistake that whole files would hide.

`python -m tests.integration.query.random_queries 5000 [SEED]` tries many and says how much was pruned.
"""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from query import engine, prune
from query.verdict import EVERYTHING
from tests.integration.query.random_relations import Store
from tests.integration.query.random_statements import Writer
from trace_ray.contracts import BlockRange, GrantedFile


@dataclass(frozen=True)
class Verdict:
    """One statement: whether it can be run, what was narrowed, and which answers differ from the full one."""

    sql: str
    ran: bool
    narrowed: frozenset[str]
    dropped_files: int
    wrong: str


class Court:
    """Asks one statement of all files, of the pruned ones, and of the rows that can matter."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connections = {kind: self._connect() for kind in ("full", "files", "rows")}

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connection.execute("set threads = 1")
        connection.execute("set parquet_metadata_cache = true")
        for name, files in self._store.files.items():
            connection.execute(self._view(name, files))
            connection.execute(f"create table all_{name} as from ({self._scan(files)})")
        return connection

    def _scan(self, files: Sequence[GrantedFile]) -> str:
        return f"select * from read_parquet({[str(self._store.root / file.key) for file in files]})"

    def _view(self, name: str, files: Sequence[GrantedFile]) -> str:
        return f"create or replace temp view {name} as {self._scan(files)}"

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def judge(self, sql: str) -> Verdict:
        names = {name: name for name in self._store.files}
        answer = json.loads(engine.parse_tree(sql))
        if answer["error"]:
            return Verdict(sql, False, frozenset(), 0, "")
        ranges = prune.block_ranges(answer["statements"][0]["node"], names)
        full = self._ask("full", sql)
        if isinstance(full, str):
            return Verdict(sql, False, frozenset(), 0, "")
        dropped = self._bind(ranges)
        wrong = [kind for kind in ("files", "rows") if self._ask(kind, sql) != full]
        narrowed = frozenset(name for name, blocks in ranges.items() if blocks != EVERYTHING)
        return Verdict(sql, True, narrowed, dropped, ", ".join(wrong))

    def _bind(self, ranges: Mapping[str, tuple[BlockRange, ...]]) -> int:
        dropped = 0
        for name, files in self._store.files.items():
            kept = prune.select_files(files, ranges.get(name, EVERYTHING))
            dropped += len(files) - len(kept)
            self._connections["files"].execute(self._view(name, kept))
            spans = [f"block_number between {one.start} and {one.end - 1}" for one in ranges.get(name, EVERYTHING)]
            self._connections["rows"].execute(
                f"create or replace temp view {name} as select * from all_{name} where {' or '.join(spans) or 'false'}"
            )
        return dropped

    def _ask(self, kind: str, sql: str) -> Counter[str] | str:
        try:
            return Counter(map(repr, self._connections[kind].execute(sql).fetchall()))
        except (duckdb.InternalException, duckdb.FatalException) as error:  # the engine's own; it is of no use any more
            self._connections[kind].close()
            self._connections[kind] = self._connect()
            return str(error)
        except duckdb.Error as error:
            return str(error)


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tally: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        court = Court(Store.write(Path(name)))
        for place in range(count):
            verdict = court.judge(Writer(random.Random(seed * 1_000_003 + place)).statement())
            tally["ran"] += verdict.ran
            tally["narrowed"] += bool(verdict.narrowed)
            tally["with files dropped"] += verdict.dropped_files > 0
            if verdict.wrong:
                tally["wrong"] += 1
                print(f"WRONG ({verdict.wrong}): {verdict.sql}\n")
        court.close()
    print(f"{count} statements in {time.monotonic() - started:.0f} s: {dict(tally)}")


if __name__ == "__main__":
    main()
