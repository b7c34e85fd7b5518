"""One child process, seen from the parent: start, ask, kill. The parent takes every answer for hostile.

The child is started by exec, never by forking this process: it inherits no thread, no descriptor but its socket, and a
constant environment. It dies with the thread that started it.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

from query.failures import Code, Failure, Help
from query.protocol import BATCH_BYTES, Channel, Kind, ProtocolBroken, fields, integer, texts
from query.refusals import Reason, SqlRejected
from query.verdict import Json, Verdict
from trace_ray.contracts import BlockRange

ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve address space, which is capped
    "MALLOC_ARENA_MAX": "2",
}
BOOT: Final = "import sys; sys.path[:] = sys.argv[1:]; from query.worker import main; main()"
EXIT_S: Final = 5.0

VERDICT: Final = {"relations": list, "functions": list, "block_ranges": dict}
HEADER: Final = {"columns": list}
DONE: Final = {"rows": int, "truncated": bool}
REFUSED: Final = {"reason": str, "position": int, "name": str}
FAIL: Final = {"code": str, "help": str, "names": list, "position": int}


class Failed(Exception):
    """The child reports a failed statement."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code.value)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child is told before anything else. `read` are directories of local objects, `port` 0 for no network."""

    spill: Path
    read: tuple[Path, ...]
    port: int
    threads: int
    memory_mb: int
    spill_mb: int
    address_space_mb: int


@dataclass(slots=True)
class Result:
    """What came back: columns as (name, type), and the rows."""

    columns: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    table: pa.Table | None = None
    truncated: bool = False


class Child:
    """A child process and its spill directory. Use as a context manager; leaving it kills the process."""

    def __init__(self, setup: Setup, *, deadline: float) -> None:
        """Start the process.

        Args:
            deadline: On the clock of `time.monotonic`; each wait ends there. May be moved.

        Raises:
            OSError: there is no room or no right for another process or its directory.
        """
        self.deadline = deadline
        self._setup = setup
        setup.spill.mkdir(mode=0o700, parents=True)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", BOOT, *import_path()],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    cwd=setup.spill,
                    close_fds=True,
                )
            except OSError:
                ours.close()
                raise
        self._socket = ours
        self._channel = Channel(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End the process at once and remove what it spilled."""
        self.process.kill()
        self.process.wait(EXIT_S)
        self._socket.close()
        shutil.rmtree(self._setup.spill, ignore_errors=True)

    def hello(self) -> int:
        """Tell the child its limits, wait until it has given up its powers; return its version of Landlock."""
        setup = self._setup
        self._send(
            Kind.SETUP,
            {
                "parent": os.getpid(),
                "spill": str(setup.spill),
                "read": [str(path) for path in setup.read],
                "port": setup.port,
                "threads": setup.threads,
                "memory_mb": setup.memory_mb,
                "spill_mb": setup.spill_mb,
                "address_space_mb": setup.address_space_mb,
            },
        )
        return integer(fields(self._expect(Kind.HELLO), {"landlock": int})["landlock"])

    def judge(self, sql: str, relations: Sequence[str]) -> Verdict:
        """Have a statement judged.

        Raises:
            SqlRejected: the gate refuses it.
            ProtocolBroken: the verdict names what is not granted.
        """
        self._send(Kind.JUDGE, {"sql": sql, "relations": list(relations)})
        message = fields(self._expect(Kind.VERDICT, relations=relations), VERDICT)
        ranges = message["block_ranges"]
        named = frozenset(texts(message["relations"]))
        if not named <= set(relations) or not isinstance(ranges, dict) or frozenset(ranges) != named:
            raise ProtocolBroken("the verdict does not fit the grant")
        return Verdict(
            relations=named,
            functions=frozenset(texts(message["functions"])),
            block_ranges={str(name): _block_ranges(listed) for name, listed in ranges.items()},
        )

    def bind(self, sources: Mapping[str, Sequence[str]]) -> None:
        """Tie the child to these objects, for good."""
        self._send(Kind.BIND, {"sources": {name: list(paths) for name, paths in sources.items()}})
        self._expect(Kind.BOUND)

    def run(self, *, limit: int, max_bytes: int, seconds: float) -> Result:
        """Run the accepted statement. The child interrupts itself after `seconds`.

        Raises:
            Failed: the statement failed.
        """
        self._send(Kind.RUN, {"limit": limit, "max_bytes": max_bytes, "milliseconds": int(seconds * 1000)})
        result = Result(columns=_columns(self._expect(Kind.HEADER)))
        stream = bytearray()
        while True:
            kind, payload = self._receive()
            if kind is Kind.DONE:
                break
            if kind is not Kind.BATCH or len(stream) + len(payload) > BATCH_BYTES:
                raise ProtocolBroken("rows expected")
            stream += payload
        done = fields(payload, DONE)
        result.table, result.truncated = _table(bytes(stream)), done["truncated"] is True
        if result.table.num_rows != done["rows"] or result.table.num_rows > limit:
            raise ProtocolBroken("another number of rows")
        if result.table.num_columns != len(result.columns):
            raise ProtocolBroken("another number of columns")
        return result

    def _send(self, kind: Kind, message: Mapping[str, object]) -> None:
        self._channel.send_json(kind, message, deadline=self.deadline)

    def _expect(self, wanted: Kind, *, relations: Sequence[str] = ()) -> bytes:
        kind, payload = self._receive(relations=relations)
        if kind is not wanted:
            raise ProtocolBroken("another frame expected")
        return payload

    def _receive(self, *, relations: Sequence[str] = ()) -> tuple[Kind, bytes]:
        kind, payload = self._channel.receive(deadline=self.deadline)
        if kind is Kind.REFUSED:
            raise _refusal(payload, relations)
        if kind is Kind.FAIL:
            raise Failed(_failure(payload))
        return kind, payload


def import_path() -> list[str]:
    """Return where this process imports from, for the child: on a cluster that is a working directory."""
    here = str(Path(__file__).resolve().parents[1])
    kept = [entry for entry in sys.path if Path(entry).is_absolute() and Path(entry).exists()]
    return kept if here in kept else [*kept, here]


def _block_ranges(listed: Json) -> tuple[BlockRange, ...]:
    if not isinstance(listed, list):
        raise ProtocolBroken("not a list of ranges")
    ranges: list[BlockRange] = []
    for pair in listed:
        if not isinstance(pair, list) or len(pair) != len(("start", "end")):
            raise ProtocolBroken("not a range")
        start, end = pair
        if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
            raise ProtocolBroken("not a range")
        ranges.append(BlockRange(start, end))
    return tuple(ranges)


def _columns(payload: bytes) -> list[tuple[str, str]]:
    listed = fields(payload, HEADER)["columns"]
    columns: list[tuple[str, str]] = []
    for column in listed if isinstance(listed, list) else []:
        if not isinstance(column, dict) or set(column) != {"name", "type"}:
            raise ProtocolBroken("not a column")
        name, kind = texts([column["name"], column["type"]])
        columns.append((name, kind))
    return columns


def _table(stream: bytes) -> pa.Table:
    try:
        table = pa.ipc.open_stream(stream).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        raise ProtocolBroken("not an Arrow stream") from None
    return table


def _refusal(payload: bytes, relations: Sequence[str]) -> SqlRejected:
    message = fields(payload, REFUSED)
    reason, position, name = message["reason"], message["position"], message["name"]
    if reason not in list(Reason) or not isinstance(name, str):
        raise ProtocolBroken("unknown refusal")
    plain = name if name.isidentifier() and name.isascii() else ""
    return SqlRejected(Reason(reason), integer(position) or None, plain, relations)


def _failure(payload: bytes) -> Failure:
    message = fields(payload, FAIL)
    code, explanation, position = message["code"], message["help"], message["position"]
    if code not in list(Code) or explanation not in list(Help):
        raise ProtocolBroken("unknown failure")
    names = tuple(texts(message["names"]))
    at = integer(position)
    return Failure(Code(code), Help(explanation), names, at - 1 if at > 0 else None)
