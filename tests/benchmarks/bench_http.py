"""The query service under Ray Serve against the same app under bare uvicorn: `python -m tests.benchmarks.bench_http`.

Both serve one data directory of one ledger, on one machine and by turns; clients keep their connections and ask in a
process of their own. Two minutes. Ratios are Serve's throughput over uvicorn's, and uvicorn's p50 over Serve's: 1 is
"costs nothing".

The floor is a Serve application that reads the same body and answers one byte. Whatever the app does, a question under
Serve costs what it costs under uvicorn and that; so no ratio of throughput can pass floor / (floor + uvicorn) while the
CPU is what is short.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from state.db import connect
from tests import pg
from tests.benchmarks.apart import QUICK
from tests.conftest import free_port
from tests.load.service import serving
from tests.served import Served, publish, settings_for
from trace_ray import config
from trace_ray.config import Settings

CLIENTS: Final = (1, 8, 32)
ROUNDS: Final = 3
SECONDS: Final = 4.0  # of one turn of one side
WARM_UP_S: Final = 1.5
TARGET: Final = 0.7
ASK: Final = "--ask"
QUESTIONS: Final = "/v1/query"
FLOOR: Final = "/floor"
SQL: Final = (
    "select block_number, gas_used from devnet_blocks where block_number between 10 and 20 order by block_number"
)
ROWS: Final = 11


@dataclass(frozen=True, slots=True)
class Turn:
    """Questions a second, and the median seconds of one."""

    per_second: float
    p50: float


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides and the floor at so many clients; medians of the rounds."""

    clients: int
    serve: Turn
    uvicorn: Turn
    floor: Turn

    @property
    def bound(self) -> float:
        """No throughput above this is possible."""
        return self.floor.per_second / (self.floor.per_second + self.uvicorn.per_second)

    @property
    def throughput(self) -> float:
        return self.serve.per_second / self.uvicorn.per_second

    @property
    def latency(self) -> float:
        return self.uvicorn.p50 / self.serve.p50


# --- the asking process -------------------------------------------------------------------------------------------


def ask(url: str, token: str, *, path: str, clients: int, seconds: float) -> Turn:
    """Ask with so many clients at once, each as soon as it has its answer."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        body = json.dumps({"sql": SQL})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        while (began := time.perf_counter()) < end:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            taken.append(time.perf_counter() - began)
            if response.status != 200 or (path == QUESTIONS and len(json.loads(answer)["rows"]) != ROWS):
                raise RuntimeError(f"{response.status}: {answer[:200]!r}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Turn(len(taken) / (time.perf_counter() - began), statistics.median(taken))


def turn(url: str, token: str, path: str, clients: int, seconds: float) -> Turn:
    """Ask from a process of its own; its token comes on stdin."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_http", ASK, url, path, str(clients), str(seconds)]
    done = subprocess.run(command, input=token, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode or done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    return Turn(**json.loads(done.stdout))


# --- the two sides ------------------------------------------------------------------------------------------------


@contextmanager
def under_serve(settings: Settings) -> Generator[str]:
    """Serve as `up` does, on a Ray cluster of its own."""
    from trace_ray.lite import ray_cluster  # Ray reads the cluster's token when it is imported, by the lines below

    cluster = ray_cluster.start(settings)
    try:
        from actors import remote, runtime

        runtime.connect(cluster.address, data_dir=settings.data_dir)
        port = free_port()
        application = remote.query_application(settings.data_dir, embedded=True)
        runtime.serve_queries(application, space=runtime.namespace(settings.data_dir), port=port, build="bench")
        _serve_floor()
        yield f"http://127.0.0.1:{port}"
        runtime.disconnect()
    finally:
        ray_cluster.stop(settings.data_dir)


def _serve_floor() -> None:
    from ray import serve
    from ray.serve.schema import LoggingConfig
    from starlette.requests import Request

    @serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
    class Floor:
        async def __call__(self, request: Request) -> str:
            await request.body()
            return "."

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.run(Floor.bind(), name="floor", route_prefix=FLOOR, logging_config=quiet)


def run(*, clients: Sequence[int], rounds: int, seconds: float) -> list[Sides]:
    """Measure both sides by turns."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as a user of its own
        server = pg.server(Path(name) / "postgres")
        try:
            url = pg.fresh_database(server)
            settings = settings_for(Path(name) / "stack", url)
            with connect(url, application_name="trace-bench") as conn:
                ledger = publish(settings, conn)
                config.save_stack(settings)
                with serving(settings) as bare, under_serve(settings) as ours:
                    token = Served(bare.url, settings, conn, ledger, []).token()
                    return [_sides((ours, bare.url), token, many, rounds, seconds) for many in clients]
        finally:
            server.stop()


def _sides(sides: tuple[str, str], token: str, clients: int, rounds: int, seconds: float) -> Sides:
    places = [(sides[0], QUESTIONS), (sides[1], QUESTIONS), (sides[0], FLOOR)]
    for url, path in places:
        turn(url, token, path, clients, min(WARM_UP_S, seconds))
    turns = [[turn(url, token, path, clients, seconds) for url, path in places] for _ in range(rounds)]
    serve, uvicorn, floor = (
        Turn(statistics.median(one.per_second for one in side), statistics.median(one.p50 for one in side))
        for side in zip(*turns, strict=True)
    )
    return Sides(clients, serve, uvicorn, floor)


def table(found: Sequence[Sides]) -> str:
    """Return the figures, for people and for the page of benchmarks."""
    lines = [
        "| clients | Serve | uvicorn | floor | throughput | of at most | p50 | wanted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        sides = [
            f"{side.per_second:.0f}/s, p50 {side.p50 * 1e3:.1f} ms" for side in (one.serve, one.uvicorn, one.floor)
        ]
        reached = min(one.throughput, one.latency) >= TARGET
        lines.append(
            f"| {one.clients} | {' | '.join(sides)} | {one.throughput:.2f}x | {one.bound:.2f}x | {one.latency:.2f}x "
            f"| {TARGET:g}x each, {'reached' if reached else 'missed'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == [ASK]:
        url, path, clients, seconds = sys.argv[2:6]
        found = ask(url, sys.stdin.read(), path=path, clients=int(clients), seconds=float(seconds))
        print(json.dumps(asdict(found)))
        return
    quick = sys.argv[1:2] == [QUICK]
    print(table(run(clients=CLIENTS, rounds=1 if quick else ROUNDS, seconds=1.0 if quick else SECONDS)), end="")


if __name__ == "__main__":
    main()
