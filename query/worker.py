"""The child process: judges and runs the statements of one grant. Holds no credentials; everything it says is judged.

It is started by exec with a clean environment and one socket. Order: imports, limits, Landlock, HELLO; then frames.
Landlock tightens once more at BIND, to exactly the objects bound, before the data engine starts its threads.
"""

import io
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from query import confine, engine, failures, gate
from query.confine import Territory
from query.engine import Engine, EngineLimits
from query.failures import Code, Failure, Help
from query.protocol import Channel, Kind, ProtocolBroken, fields, integer, texts
from query.refusals import SqlRejected
from query.verdict import Json

if TYPE_CHECKING:
    from typing_extensions import Buffer

SOCKET_FD: Final = 0
MIB: Final = 1024**2
SLACK: Final = 16 * MIB  # the engine counts blocks, the kernel files: its own cap must meet a query first
CGROUPS: Final = ("/proc/self/cgroup", "/sys/fs/cgroup")  # the engine looks for limits and aborts if it may not
RESOLVER: Final = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/run/systemd/resolve", "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/usr/share/ca-certificates",
    "/usr/lib", "/lib", "/lib64",
)  # fmt: skip

SETUP: Final = {
    "parent": int,
    "spill": str,
    "read": list,
    "port": int,
    "threads": int,
    "memory_mb": int,
    "spill_mb": int,
    "address_space_mb": int,
}
JUDGE: Final = {"sql": str, "relations": list}
BIND: Final = {"sources": dict}
RUN: Final = {"limit": int, "max_bytes": int, "milliseconds": int}


class Worker:
    """The state of one conversation."""

    def __init__(self, channel: Channel, setup: Mapping[str, Json]) -> None:
        self._channel = channel
        self._spill = Path(str(setup["spill"]))
        self._port = integer(setup["port"]) or None
        self._limits = EngineLimits(
            threads=integer(setup["threads"]),
            memory_mb=integer(setup["memory_mb"]),
            spill_mb=integer(setup["spill_mb"]),
        )
        self._sql: str | None = None
        self._engine: Engine | None = None

    def judge(self, sql: str, relations: list[str]) -> None:
        """Judge a statement; only the one accepted last can be run."""
        self._sql = None
        verdict = gate.validate_sql(sql, relations)
        self._sql = sql
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

    def bind(self, sources: Mapping[str, list[str]]) -> None:
        """Tie this process to its objects, for good."""
        confine.enter(
            Territory(read=readable(sources, remote=self._port is not None), write=self._spill, port=self._port)
        )
        self._engine = Engine(sources, limits=self._limits, spill=self._spill)
        self._channel.send_json(Kind.BOUND, {})

    def run(self, *, limit: int, max_bytes: int, milliseconds: int) -> None:
        """Run the accepted statement and send its rows as one Arrow stream in BATCH frames."""
        if self._engine is None or self._sql is None:
            raise ProtocolBroken("nothing is judged and bound")
        sent = 0
        with self._engine.interrupted_after(milliseconds / 1000):
            rows = self._engine.run(self._sql)
            self._channel.send_json(Kind.HEADER, {"columns": [asdict(column) for column in rows.columns]})
            sink = FrameSink(self._channel)
            with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), rows.schema) as stream:
                for batch in rows.batches(limit=limit, max_bytes=max_bytes):
                    stream.write(batch)  # pyright: ignore[reportUnknownMemberType] - partial stub
                    sent += batch.num_rows
        self._channel.send_json(Kind.DONE, {"rows": sent, "truncated": rows.truncated})


class FrameSink(io.RawIOBase):
    """A writable file whose content travels in BATCH frames."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer", /) -> int:
        content = bytes(data)
        self._channel.send(Kind.BATCH, content)
        return len(content)


def readable(sources: Mapping[str, list[str]], *, remote: bool) -> tuple[Path, ...]:
    """Return the files that the engine needs to read: the local objects, or what HTTP needs."""
    system = existing(CGROUPS)
    if remote:
        return (*system, *existing(RESOLVER), engine.httpfs())
    return (*system, *(Path(path) for paths in sources.values() for path in paths))


def existing(paths: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(path) for path in paths if Path(path).exists())


def answer(worker: Worker, kind: Kind, payload: bytes) -> None:
    """Do what one frame asks."""
    match kind:
        case Kind.JUDGE:
            message = fields(payload, JUDGE)
            worker.judge(str(message["sql"]), texts(message["relations"]))
        case Kind.BIND:
            sources = fields(payload, BIND)["sources"]
            if not isinstance(sources, dict):
                raise ProtocolBroken("sources")
            worker.bind({str(name): texts(paths) for name, paths in sources.items()})
        case Kind.RUN:
            message = fields(payload, RUN)
            limit, max_bytes = integer(message["limit"]), integer(message["max_bytes"])
            worker.run(limit=limit, max_bytes=max_bytes, milliseconds=integer(message["milliseconds"]))
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


def main() -> None:
    """Be the child: read SETUP, give up all power, then serve."""
    channel = Channel(socket.socket(fileno=os.dup(SOCKET_FD)))
    _, payload = channel.receive()
    setup = fields(payload, SETUP)
    gate.validate_sql("select 1", ())  # loads what is loaded late, while files can still be read
    confine.die_with_parent(integer(setup["parent"]))
    confine.limit_resources(
        memory_bytes=integer(setup["address_space_mb"]) * MIB, file_bytes=integer(setup["spill_mb"]) * MIB + SLACK
    )
    port = integer(setup["port"]) or None
    read = tuple(Path(path) for path in texts(setup["read"]))
    read += readable({}, remote=port is not None)
    abi = confine.enter(Territory(read=read, write=Path(str(setup["spill"])), port=port))
    channel.send_json(Kind.HELLO, {"landlock": abi})
    serve(channel, Worker(channel, setup))
