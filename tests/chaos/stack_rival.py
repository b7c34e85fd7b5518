"""A second Dispatcher in a process of its own: another holder that tries to lead the ledger of a running stack.

It is the real core with one worker inside. While it leads it plans, leases, extracts and publishes; it knows nothing of
the stack's workers, so it frees what they hold. It prints a line per term and ends by a kill.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from actors.ingest import Ingester, Limits
from actors.orders import Result
from actors.worker import Worker
from state.db import Database
from tests.conftest import REPOSITORY
from trace_ray import config
from trace_ray.contracts import WorkerId
from trace_ray.errors import DatabaseUnavailable, FencedError
from trace_ray.extract.native import NativeEngine
from trace_ray.storage import open_store

SLOT = WorkerId("rival/0.0")
PAUSE_S = 0.05
READY = "ready\n"


@dataclass
class Rival:
    """The running process."""

    pid: int
    _process: "subprocess.Popen[str]"

    def terms(self) -> int:
        """Return how often it led; it has ended by now."""
        out, _ = self._process.communicate(timeout=30)
        return len(out.splitlines())


@contextlib.contextmanager
def running(data_dir: Path) -> Generator[Rival]:
    """Start one beside the stack of a data directory; none is left behind."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-rival-") as staging:  # not its own: it ends by a kill
        command = [sys.executable, "-m", "tests.chaos.stack_rival", str(data_dir), staging]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=_environment())
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == READY
            yield Rival(process.pid, process)
        finally:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRACE_")}


def main() -> None:
    data_dir, staging = Path(sys.argv[1]), Path(sys.argv[2])
    settings = config.load_stack(data_dir)
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    database = Database(config.state_url(settings), application_name="trace-dispatcher")
    timing = Timing(lease_s=settings.lease_s, leader_s=settings.leader_s, policy=config.LOCAL_RETRIES)
    limits = Limits(range_s=settings.range_timeout_s, share=1.0)
    ingester = Ingester(NativeEngine(), store, lambda: settings.rpc_pools, staging, limits)
    print(READY, end="", flush=True)
    while True:
        core = Dispatcher(database, holder=f"rival/rival/{os.getpid()}", timing=timing)
        with contextlib.suppress(DatabaseUnavailable, FencedError):
            if core.lead():
                print(f"epoch {core.epoch}", flush=True)
                lead(core, ingester)
        time.sleep(PAUSE_S)


def lead(core: Dispatcher, ingester: Ingester) -> None:
    """Work until another one leads."""
    worker = Worker(SLOT, ingester.run)
    core.recover({}, ())
    outcomes: list[Result] = []
    heads: list[HeadAnswer] = []
    while True:
        inbox = Inbox(outcomes=tuple(outcomes), heads=tuple(heads), slots=(SLOT, SLOT))
        orders = core.tick(inbox, now=time.monotonic())
        heads = [ingester.answer_head(request) for request in orders.heads]
        outcomes = worker.run(orders.groups)
        worker.held(orders.settled)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
