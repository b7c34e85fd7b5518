"""One worker process, seen from the service: ask, kill. The service takes every answer for hostile."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa

from query import confine, wire
from query.failures import Code, Failure, Help
from query.protocol import Channel, Kind, ProtocolBroken, fields, integer, texts
from query.refusals import Reason, SqlRejected
from query.shares import Asker
from query.verdict import Json, Verdict
from query.verdicts import Judged
from trace_ray.contracts import BlockRange, OrgId

VERDICT: Final = {"relations": list, "functions": list, "block_ranges": dict}
HEADER: Final = {"columns": list}
DONE: Final = {"rows": int, "truncated": bool}
REFUSED: Final = {"reason": str, "position": int, "name": str}
HARMLESS: Final = frozenset({Code.SQL_ERROR, Code.RESULT_TOO_LARGE})  # the process goes on after these
PROCESS_CPU: Final = 2  # with a process id, the number of its CPU clock: CPUCLOCK_SCHED in Linux
NICEST: Final = 19
BACKGROUND: Final = 10  # so much nicer than before: a tenth of the CPU of others, two fifths under Ray (15, then 19)
FAIL: Final = {"code": str, "help": str, "names": list, "position": int}


class Failed(Exception):
    """The child reports a failed statement."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code.value)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Reach:
    """What workers may touch before they are bound: directories of local objects, or the port of a store (0: none)."""

    read: tuple[Path, ...] = ()
    port: int = 0

    @classmethod
    def of(cls, locations: Sequence[str]) -> "Reach":
        """Return what reaches these: paths of local files, or URLs of one store."""
        if not locations or not is_url(locations[0]):
            return cls(read=confine.roots(Path(location) for location in locations))
        parts = urlsplit(locations[0])
        return cls(port=parts.port or (443 if parts.scheme == "https" else 80))


def is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Binding:
    """What a worker is tied to: its key, and where each object of it is."""

    key: bytes
    locations: Mapping[str, str] = field(repr=False)


class Child:
    """A worker process. Any failure leaves it `spent`: the conversation is not where it should be."""

    def __init__(self, pid: int, connection: socket.socket, spill: Path) -> None:
        """Take over a process that was just forked.

        `deadline`, on the clock of `time.monotonic`, is where each wait ends; it may be moved.
        """
        self.pid = pid
        self.spill = spill
        self.deadline = 0.0
        self.spent = False
        self.greeted = False
        self.asker: Asker | None = None  # of the question that it serves, or served last
        self.binding: Binding | None = None
        self.bound_at = time.monotonic()
        self.uses = 0
        self.leased_at = self.bound_at  # of the question that it serves, or served last
        self.long = False  # that question began among the long ones
        self.expected = False  # to be a long one, that question
        self.displaced = False  # that question has to make way
        self.answered = False  # all rows of that question are here
        self.slowed = False  # for good: a process may not raise its own priority again
        self._socket = connection
        self._channel = Channel(connection)
        self._places: dict[str, int] = {}
        self._cpu_before = 0.0
        self._alive = threading.Lock()
        self._reaped = False

    @property
    def org_id(self) -> OrgId | None:
        """Whose statements it has seen."""
        return None if self.asker is None else self.asker[0]

    # --- life and death -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End the process at once, and wake whoever waits for it. From any thread, any number of times."""
        with self._alive:
            self.spent = True
            if self._reaped:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def begin(self) -> None:
        """Count the time of a question from now on."""
        self.leased_at, self.answered = time.monotonic(), False
        self._cpu_before = self._cpu()

    @property
    def cpu_s(self) -> float:
        """How much CPU the question has used."""
        return self._cpu() - self._cpu_before

    def _cpu(self) -> float:
        if sys.platform != "linux":
            return time.monotonic()  # no other process's clock can be read: at most so much
        with self._alive, contextlib.suppress(OSError):
            if not self._reaped:
                return time.clock_gettime((~self.pid << 3) | PROCESS_CPU)
        return 0.0

    def displace(self) -> None:
        """End the process, and with it a question that will be asked again."""
        self.displaced = True
        self.kill()

    def slow_down(self) -> None:
        """Leave the CPU to all others from now on."""
        with self._alive:
            if self.slowed or self._reaped:
                return
            self.slowed = True
            with contextlib.suppress(OSError):  # it has just died
                for thread in Path(f"/proc/{self.pid}/task").iterdir():  # the kernel gives priorities to threads
                    nice = os.getpriority(os.PRIO_PROCESS, int(thread.name))
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), min(NICEST, nice + BACKGROUND))

    def bury(self) -> None:
        """Let go of a process that was killed and waited for: from now on its id may be another's."""
        with self._alive:
            self._reaped = True
            self._socket.close()

    def is_sound(self) -> bool:
        """Say whether an idle worker is alive and has kept silent, but for a first word that nobody has read."""
        if self.spent:
            return False
        told = select.poll()
        told.register(self._socket, select.POLLIN)
        happened = dict(told.poll(0)).get(self._socket.fileno(), 0)
        return happened == 0 or (happened == select.POLLIN and not self.greeted)

    def rss_bytes(self) -> int:
        """Return how much memory the process holds; 0 where the kernel does not say."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    # --- questions ------------------------------------------------------------------------------------------------

    def hello(self) -> int:
        """Wait until the process has given up its powers; return its version of Landlock."""
        version = integer(fields(self._expect(Kind.HELLO), {"landlock": int})["landlock"])
        self.greeted = True
        self.spent = False
        return version

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
        verdict = Verdict(
            relations=named,
            functions=frozenset(texts(message["functions"])),
            block_ranges={str(name): _block_ranges(listed) for name, listed in ranges.items()},
        )
        self.spent = False
        return verdict

    def bind(self, binding: Binding) -> None:
        """Tie the process to these objects, for good."""
        objects = list(binding.locations)
        self._send(Kind.BIND, {"objects": [binding.locations[key] for key in objects]})
        self._expect(Kind.BOUND)
        self._places = {key: place for place, key in enumerate(objects)}
        self.binding, self.bound_at = binding, time.monotonic()
        self.spent = False

    def run(
        self, judged: Judged, views: Mapping[str, Sequence[str]], *, limit: int, max_bytes: int, seconds: float
    ) -> "Rows":
        """Start an accepted statement over `views`, relation -> keys of bound objects.

        The process interrupts itself after `seconds`.

        Raises:
            Failed: the statement failed.
        """
        places = {name: [self._places[key] for key in keys] for name, keys in views.items()}
        self.uses += 1
        self._send(
            Kind.RUN,
            {
                "sql": judged.sql,
                "views": places,
                "limit": limit,
                "max_bytes": max_bytes,
                "milliseconds": int(seconds * 1000),
            },
        )
        return Rows(self, _columns(self._expect(Kind.HEADER)))

    def receive(self, *, relations: Sequence[str] = ()) -> tuple[Kind, bytes | memoryview]:
        """Return the next frame of an answer."""
        kind, payload = self._channel.receive(deadline=self.deadline)
        if kind is Kind.REFUSED:
            refusal = _refusal(payload, relations)
            self.spent = False
            raise refusal
        if kind is Kind.FAIL:
            failure = _failure(payload)
            self.spent = failure.code not in HARMLESS
            raise Failed(failure)
        return kind, payload

    def _send(self, kind: Kind, message: Mapping[str, object]) -> None:
        self.spent = True
        self._channel.send_json(kind, message, deadline=self.deadline)

    def _expect(self, wanted: Kind, *, relations: Sequence[str] = ()) -> bytes | memoryview:
        kind, payload = self.receive(relations=relations)
        if kind is not wanted:
            raise ProtocolBroken("another frame expected")
        return payload


class Rows:
    """The rows of a running statement, in pieces as they come."""

    def __init__(self, child: Child, columns: list[tuple[str, str]]) -> None:
        self.columns = columns
        self.truncated = False
        self._child = child

    def pieces(self) -> Iterator[pa.Table]:
        """Yield at least one piece, of one schema, possibly without rows; `truncated` holds after the last.

        Raises:
            Failed: the statement failed.
        """
        rows, schema = 0, None
        while True:
            kind, payload = self._child.receive()
            if kind is Kind.DONE:
                break
            if kind is not Kind.BATCH:
                raise ProtocolBroken("rows expected")
            piece = wire.read(payload)
            if piece.num_columns != len(self.columns) or (schema is not None and piece.schema != schema):
                raise ProtocolBroken("other columns")
            rows, schema = rows + piece.num_rows, piece.schema
            yield piece
        done = fields(payload, DONE)
        if schema is None or rows != done["rows"]:
            raise ProtocolBroken("another number of rows")
        self.truncated = done["truncated"] is True
        self._child.spent, self._child.answered = False, True


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


def _columns(payload: bytes | memoryview) -> list[tuple[str, str]]:
    listed = fields(payload, HEADER)["columns"]
    columns: list[tuple[str, str]] = []
    for column in listed if isinstance(listed, list) else []:
        if not isinstance(column, dict) or set(column) != {"name", "type"}:
            raise ProtocolBroken("not a column")
        name, kind = texts([column["name"], column["type"]])
        columns.append((name, kind))
    return columns


def _refusal(payload: bytes | memoryview, relations: Sequence[str]) -> SqlRejected:
    message = fields(payload, REFUSED)
    reason, position, name = message["reason"], message["position"], message["name"]
    if reason not in list(Reason) or not isinstance(name, str):
        raise ProtocolBroken("unknown refusal")
    plain = name if name.isidentifier() and name.isascii() else ""
    return SqlRejected(Reason(reason), integer(position) or None, plain, relations)


def _failure(payload: bytes | memoryview) -> Failure:
    message = fields(payload, FAIL)
    code, explanation, position = message["code"], message["help"], message["position"]
    if code not in list(Code) or explanation not in list(Help):
        raise ProtocolBroken("unknown failure")
    names = tuple(texts(message["names"]))
    at = integer(position)
    return Failure(Code(code), Help(explanation), names, at - 1 if at > 0 else None)
