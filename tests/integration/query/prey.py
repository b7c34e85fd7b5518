"""What an attack would like to have, and runs of statements without the gate against it."""

import hashlib
import json
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from query.spawn import ENVIRONMENT
from tests.integration.query.unguarded import Task

HARNESS = Path(__file__).with_name("unguarded.py")
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Prey:
    """A file with a marker, an object of another tenant, a directory, a port on which nobody may call."""

    marker: str
    outside: Path
    secret: Path
    foreign: Path
    port: int
    connections: list[object]

    def shown_in(self, outcome: object) -> bool:
        """Whether the marker stands in what a statement returned, as text or as bytes."""
        text = json.dumps(outcome)
        return self.marker in text or self.marker.encode().hex() in text

    def places(self, granted: str) -> dict[str, object]:
        """The places of the hostile corpus; `granted` is an object that may be read."""
        return {"secret": self.secret, "object": granted, "foreign": self.foreign, "outside": self.outside,
                "port": self.port}  # fmt: skip


@contextmanager
def roaming(directory: Path) -> Generator[Prey]:
    """Lay out a prey under `directory`, with listeners on the loopback addresses."""
    marker = "marker" + secrets.token_hex(8)
    outside = directory / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_text(f"a,b\n{marker},2\n")
    pq.write_table(pa.table({"block_number": [1], "chain_id": [1], "s": [marker]}), outside / "foreign.parquet")
    connections: list[object] = []
    listeners = [socket.create_server(("127.0.0.1", 0))]
    port = listeners[0].getsockname()[1]
    if socket.has_dualstack_ipv6():
        listeners.append(socket.create_server(("::1", port), family=socket.AF_INET6))

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection.getpeername())
            connection.close()

    threads = [threading.Thread(target=accept, args=(listener,)) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield Prey(marker, outside, outside / "secret.csv", outside / "foreign.parquet", port, connections)
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join(5)


def fingerprint(*directories: Path) -> str:
    """A sha256 over every name and byte below the directories."""
    found = hashlib.sha256()
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            found.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()


def unguarded(
    statements: Sequence[str],
    walls: Sequence[str],
    *,
    sources: dict[str, list[str]],
    spill: Path,
    marker: str,
    seconds: float = 3.0,
) -> list[object]:
    """What the statements come to without the gate, behind these walls only, each in a process of its own."""
    spill.mkdir(parents=True, exist_ok=True)
    task = Task(statements=list(statements), sources=sources, spill=str(spill), walls=list(walls), seconds=seconds)
    done = subprocess.run(
        [sys.executable, str(HARNESS)],
        input=json.dumps(task), capture_output=True, text=True, timeout=170, check=False, cwd=spill,
        env={**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), "TRACE_MARK": marker},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
