"""The query service under uvicorn in a process of its own, and what that process holds.

`python -m tests.load.service DATA_DIR PORT` serves the stack of a data directory until it is told to end.
"""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvicorn

from actors.questions import CONNECTIONS, make_app
from query.pool import SIZE
from tests.conftest import free_port, wait_until
from trace_ray import config
from trace_ray.config import Settings

MIB = 1024**2
RSS_GROWTH = 192 * MIB  # verdicts, grants, and a heap that large answers leave in pieces: it varies by 150
CONNECTIONS_MORE = 2 * CONNECTIONS - 2  # to the ledgers: opened when many ask at once, and kept
SETTLE_S = 30.0  # the killed are buried, connections closed, threads without work ended


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a service holds: its processes, its open files, its memory in bytes, its files on scratch."""

    children: int
    open_files: int
    rss: int
    scratch: int

    def beyond(self, before: "Holdings") -> str:
        """Say what is there that was not before; empty when nothing has leaked.

        Memory may grow by RSS_GROWTH, and each ledger may have all of its connections open.
        """
        found = {
            "processes": self.children - before.children,
            "open files": self.open_files - before.open_files - CONNECTIONS_MORE,
            "MiB of memory": max(0, self.rss - before.rss - RSS_GROWTH) // MIB,
            "files on scratch": self.scratch - before.scratch,
        }
        return ", ".join(f"{more:+d} {what}" for what, more in found.items() if more > 0)


@dataclass(frozen=True)
class Service:
    """A running service: where it answers, and its process."""

    url: str
    process: psutil.Process
    scratch: Path

    def holdings(self) -> Holdings:
        return Holdings(
            children=len(self.process.children(recursive=True)),
            open_files=self.process.num_fds(),
            rss=self.process.memory_info().rss,
            scratch=sum(path.is_file() for path in self.scratch.rglob("*")),
        )

    def is_settled(self) -> bool:
        """Say whether nothing runs: the zygote, a full pool, and no connection of a client."""
        port = int(self.url.rpartition(":")[2])
        open_now = any(one.laddr.port == port and one.raddr for one in self.process.net_connections("tcp"))
        return not open_now and len(self.process.children(recursive=True)) == 1 + SIZE + 1


@contextmanager
def serving(settings: Settings) -> Generator[Service]:
    """Serve the stack of `settings` in a process of its own until the block ends."""
    config.save_stack(settings)
    port = free_port()
    command = [sys.executable, "-m", "tests.load.service", str(settings.data_dir), str(port)]
    log = settings.data_dir / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    service = Service(f"http://127.0.0.1:{port}", psutil.Process(process.pid), settings.data_dir / "scratch")

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        with suppress(httpx.TransportError):
            return httpx.get(f"{service.url}/readyz").status_code == 200
        return False

    try:
        wait_until(ready, what="the query service")
        yield service
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    data_dir, port = Path(sys.argv[1]), int(sys.argv[2])
    app = make_app(config.load_stack(data_dir), build="load", stack="here", observe=lambda _: None)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_keep_alive=30)


if __name__ == "__main__":
    main()
