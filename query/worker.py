"""A worker: judges statements, and runs those of one grant. Holds no credentials; everything it says is judged.

It is forked by the zygote with one socket. Order: limits, Landlock, the engine, HELLO; then frames. Landlock tightens
once more at BIND, to exactly the objects bound, before the engine starts a second thread: it does not reach threads
that run already.
"""

import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

from query import confine, engine, failures, gate
from query.confine import ConfinementFailed, Territory
from query.engine import Engine, EngineLimits, Rows
from query.failures import Code, Failure, Help
from query.protocol import Channel, Kind, ProtocolBroken, fields, integer, texts
from query.refusals import SqlRejected
from query.verdict import Json
from query.wire import Frame

MIB: Final = 1024**2
SLACK: Final = 16 * MIB  # the engine counts blocks, the kernel files: its own cap must meet a query first
FRAME_BYTES: Final = 4 * MIB  # rows are collected up to this: fewer frames, and memory that caches still hold
CGROUPS: Final = ("/proc/self/cgroup", "/sys/fs/cgroup")  # the engine looks for limits and aborts if it may not
OWN_THREADS: Final = Path("/proc/self/task")
RESOLVER: Final = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/run/systemd/resolve", "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/usr/share/ca-certificates",
    "/usr/lib", "/lib", "/lib64",
)  # fmt: skip

SETUP: Final = {
    "spill": str,
    "read": list,
    "port": int,
    "threads": int,
    "memory_mb": int,
    "spill_mb": int,
    "address_space_mb": int,
}
JUDGE: Final = {"sql": str, "relations": list}
BIND: Final = {"objects": list}
RUN: Final = {"sql": str, "views": dict, "limit": int, "max_bytes": int, "milliseconds": int}


class Worker:
    """The state of one conversation. Made when the process is confined already."""

    def __init__(self, channel: Channel, setup: Mapping[str, Json]) -> None:
        self._channel = channel
        self._spill = Path(str(setup["spill"]))
        self._port = integer(setup["port"]) or None
        limits = EngineLimits(
            threads=integer(setup["threads"]),
            memory_mb=integer(setup["memory_mb"]),
            spill_mb=integer(setup["spill_mb"]),
        )
        self._engine = Engine(limits=limits, spill=self._spill, remote=self._port is not None)
        self._objects: list[str] | None = None

    def judge(self, sql: str, relations: list[str]) -> None:
        """Judge a statement. The service holds the verdict; without one it asks for no run."""
        verdict = gate.validate_sql(sql, relations)
        self._channel.send_json(
            Kind.VERDICT,
            {
                "relations": sorted(verdict.relations),
                "functions": sorted(verdict.functions),
                "block_ranges": {
                    name: [[blocks.start, blocks.end] for blocks in ranges]
                    for name, ranges in verdict.block_ranges.items()
                },
            },
        )

    def bind(self, objects: list[str]) -> None:
        """Tie this process to its objects, for good."""
        if self._objects is not None:
            raise ProtocolBroken("bound already")
        if OWN_THREADS.is_dir() and len(list(OWN_THREADS.iterdir())) > 1:
            raise ConfinementFailed("a second thread runs already, which Landlock would not reach")
        confine.enter(
            Territory(read=readable(objects, remote=self._port is not None), write=self._spill, port=self._port)
        )
        self._engine.bind(objects)
        self._objects = objects
        self._channel.send_json(Kind.BOUND, {})

    def run(self, sql: str, views: Mapping[str, list[int]], *, limit: int, max_bytes: int, milliseconds: int) -> None:
        """Run an accepted statement over `views` (relation -> places in the bound objects) and send its rows."""
        objects = self._objects
        if objects is None:
            raise ProtocolBroken("nothing is bound")
        sources = {name: [objects[place] for place in places] for name, places in views.items()}
        with self._engine.interrupted_after(milliseconds / 1000):
            self._engine.show(sources)
            rows = self._engine.run(sql)
            self._channel.send_json(Kind.HEADER, {"columns": [asdict(column) for column in rows.columns]})
            with closing(rows):
                sent = self._send(rows, limit, max_bytes)
        self._channel.send_json(Kind.DONE, {"rows": sent, "truncated": rows.truncated})

    def _send(self, rows: Rows, limit: int, max_bytes: int) -> int:
        """Send BATCH frames, each a whole Arrow stream: a frame can be read without the others."""
        frame = Frame(rows.schema)
        sent = 0
        for batch in rows.batches(limit=limit, max_bytes=max_bytes, piece_bytes=FRAME_BYTES):
            frame.add(batch)
            sent += batch.num_rows
            if frame.size >= FRAME_BYTES:
                self._channel.send(Kind.BATCH, frame.take())
        if frame.size or not sent:
            self._channel.send(Kind.BATCH, frame.take())
        return sent


def readable(objects: Iterable[str], *, remote: bool) -> tuple[Path, ...]:
    """Return the files that the engine needs to read: the local objects, or what HTTP needs."""
    system = existing(CGROUPS)
    if remote:
        return (*system, *existing(RESOLVER), engine.httpfs())
    return (*system, *(Path(path) for path in objects))


def existing(paths: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths if Path(path).exists())


def places(views: Json) -> dict[str, list[int]]:
    if not isinstance(views, dict):
        raise ProtocolBroken("not views")
    listed = {name: value for name, value in views.items() if isinstance(value, list)}
    return {name: [integer(place) for place in value] for name, value in listed.items()}


def answer(worker: Worker, kind: Kind, payload: bytes | memoryview) -> None:
    """Do what one frame asks."""
    match kind:
        case Kind.JUDGE:
            message = fields(payload, JUDGE)
            worker.judge(str(message["sql"]), texts(message["relations"]))
        case Kind.BIND:
            worker.bind(texts(fields(payload, BIND)["objects"]))
        case Kind.RUN:
            message = fields(payload, RUN)
            worker.run(
                str(message["sql"]),
                places(message["views"]),
                limit=integer(message["limit"]),
                max_bytes=integer(message["max_bytes"]),
                milliseconds=integer(message["milliseconds"]),
            )
        case _:
            raise ProtocolBroken("not a question")


def serve(channel: Channel, worker: Worker) -> None:
    """Answer frames until the parent hangs up. Every failure becomes a frame without text of the engine."""
    while True:
        kind, payload = channel.receive()
        try:
            answer(worker, kind, payload)
        except ProtocolBroken:
            raise
        except SqlRejected as refusal:
            channel.send_json(
                Kind.REFUSED, {"reason": refusal.reason, "position": refusal.position or 0, "name": refusal.name}
            )
        except Exception as error:  # noqa: BLE001 (the top of the loop; an unknown error refuses, it never passes)
            report(channel, failure(error))


def failure(error: Exception) -> Failure:
    """Sort an error by what the asker can do."""
    match error:
        case engine.TypeUnsupported():
            return Failure(Code.SQL_ERROR, Help.TYPE)
        case engine.SourceUnreadable():
            return Failure(Code.STORE)
        case engine.RowTooLarge():
            return Failure(Code.RESULT_TOO_LARGE)
        case confine.ConfinementFailed() | engine.EngineMismatch():
            return Failure(Code.CONFINEMENT)
        case _:
            return failures.classify(engine.error_kind(error), engine.error_details(error))


def report(channel: Channel, failed: Failure) -> None:
    position = 0 if failed.position is None else failed.position + 1
    channel.send_json(
        Kind.FAIL, {"code": failed.code, "help": failed.help, "names": list(failed.names), "position": position}
    )


def main(channel: Channel, setup: Mapping[str, Json], *, parent: int) -> None:
    """Be the worker: give up all power, open the engine, then serve until the service hangs up."""
    confine.die_with_parent(parent)
    confine.limit_resources(
        memory_bytes=integer(setup["address_space_mb"]) * MIB, file_bytes=integer(setup["spill_mb"]) * MIB + SLACK
    )
    port = integer(setup["port"]) or None
    read = tuple(Path(path) for path in texts(setup["read"]))
    read += readable((), remote=port is not None)
    if sys.platform == "linux":
        read += (OWN_THREADS,)
    abi = confine.enter(Territory(read=read, write=Path(str(setup["spill"])), port=port))
    worker = Worker(channel, setup)
    gate.validate_sql("select 1", ())  # opens the parser before the first question waits for it
    channel.send_json(Kind.HELLO, {"landlock": abi})
    serve(channel, worker)
