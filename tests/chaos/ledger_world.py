"""The processes of a ledger run and what can be done to them: a Postgres of its own, dispatchers, workers."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

import psycopg

from state import jobs, repair, tasks
from state.db import Database
from tests import pg
from tests.chaos import ledger_dispatcher, ledger_worker
from tests.chaos.ledger_wire import Log
from tests.integration.state.ledger import CHAIN, job, stream
from trace_ray.contracts import DEFAULT_ORG, FixedTarget, Job, TaskId, VersionId
from trace_ray.errors import DatabaseUnavailable, RefusedInput
from trace_ray.lite import account
from trace_ray.lite.postgres import LocalPostgres

FORKED: Final = multiprocessing.get_context("forkserver")  # a process starts within moments: its imports are done
FORKED.set_forkserver_preload(["__main__", ledger_dispatcher.__name__, ledger_worker.__name__])
HOUR_S: Final = 3600.0
WORKERS: Final = 2
DISPATCHERS: Final = (("one", False), ("one", False), ("two", True))  # cluster, and whether it is the rival
ENDLESS: Final = 10**9  # blocks
SINK: Final = """
    CREATE SCHEMA chaos;
    CREATE TABLE chaos.sink (key text PRIMARY KEY, topic text NOT NULL, caused boolean NOT NULL,
      deliveries int NOT NULL DEFAULT 1)
"""
BACKENDS: Final = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'trace-dispatcher'
"""
LEADER: Final = "SELECT holder FROM state.dispatcher"
OPEN: Final = """
    SELECT (SELECT count(*) FROM state.tasks WHERE state IN ('queued', 'running')) + (SELECT count(*) FROM state.outbox)
      + (SELECT count(*) FROM state.cursors JOIN state.streams USING (stream_id) JOIN state.jobs USING (job_id)
         WHERE next_block <> to_block)
"""
FURTHEST: Final = """
    SELECT max(next_block) FROM state.cursors JOIN state.streams USING (stream_id) WHERE job_id = %s::uuid
"""
VISIBLE: Final = """
    SELECT dataset_version FROM state.dataset_versions WHERE replaced_snapshot IS NULL ORDER BY random() LIMIT %s::int
"""
RUNNING: Final = """
    SELECT task_id FROM state.tasks WHERE state IN ('running', 'queued')
    ORDER BY (state = 'queued'), random() LIMIT %s::int
"""


class World:
    """One run's server and processes."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.sockets = directory / "sockets"
        self.calm_file = directory / "calm"
        self.log_file = directory / "log"
        self.log = Log(self.log_file)
        self.jobs = (
            job(*(stream(key, chunk_size=10, max_inflight=24) for key in ("blocks", "transactions", "logs"))),
            self._second_job(),
        )
        self._processes: dict[str, ForkServerProcess] = {}
        self._frozen: dict[str, float] = {}
        self._started = 0
        self.postgres: LocalPostgres
        self.url: str
        self._database: Database

    @staticmethod
    def _second_job() -> Job:
        made = job(*(stream(key, chunk_size=7, max_inflight=16) for key in ("blocks", "logs")), name="second")
        streams = tuple(replace(one, dataset=f"second_{one.dataset_key}") for one in made.streams)
        return replace(made, chain_id=CHAIN + 1, streams=streams)

    def begin(self) -> None:
        self.sockets.mkdir()
        self.postgres = pg.server(self.directory / "postgres")
        self.url = pg.fresh_database(self.postgres)
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(SINK)
        self._database = Database(self.url, application_name="chaos-operator")
        for one in self.jobs:
            self._apply(replace(one, mode=FixedTarget(0, ENDLESS)))
        self.respawn()

    # --- processes ------------------------------------------------------------------------------------------------

    def respawn(self) -> None:
        """Start what is missing, and wake up what slept long enough."""
        for name, wake_at in list(self._frozen.items()):
            if time.monotonic() >= wake_at:
                self._thaw(name)
        for number, (cluster, rival) in enumerate(DISPATCHERS):
            if not self._lives(f"d{number}"):
                arguments = ["--cluster", cluster, *(["--rival"] if rival else [])]
                wrong = -HOUR_S if rival else 0.0
                self._spawn_dispatcher(number, [*arguments, "--clock", str(wrong)])
        for number in range(WORKERS):
            if not self._lives(f"w{number}"):
                self._spawn_worker(number, clock=HOUR_S if number == 0 else 0.0)

    def _spawn_dispatcher(self, number: int, arguments: list[str]) -> None:
        common = ["--sockets", str(self.sockets), "--log", str(self.log_file), "--number", str(number)]
        self._spawn(f"d{number}", ledger_dispatcher.main, [self.url, *common, *arguments])

    def _spawn_worker(self, number: int, *, clock: float) -> None:
        for old in self.sockets.glob(f"{number}.*"):
            old.unlink()
        socket = self.sockets / f"{number}.{self._started}.sock"  # each process start has a worker id of its own
        self._spawn(f"w{number}", ledger_worker.main, [str(socket), "--clock", str(clock)])

    def _spawn(self, name: str, main: Callable[[list[str]], None], arguments: list[str]) -> None:
        self._started += 1
        everywhere = ["--seed", str(self.seed), "--calm", str(self.calm_file)]
        self._processes[name] = FORKED.Process(target=main, args=([*arguments, *everywhere],), name=name)
        self._processes[name].start()

    def _lives(self, name: str) -> bool:
        """Raises RuntimeError when a process ended by itself: nothing but a signal may end it."""
        code = self._processes[name].exitcode if name in self._processes else -1
        if code is not None and code >= 0:
            raise RuntimeError(f"process {name} ended by itself with exit code {code}: its error is above")
        return code is None

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self._processes[name].pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended at this moment
            os.kill(pid, number)

    def kill(self, name: str) -> bool:
        if not self._lives(name):
            return False
        self._frozen.pop(name, None)
        self._processes[name].kill()
        self._processes[name].join()
        return True

    def freeze(self, name: str, seconds: float) -> bool:
        """Stop a process for a while; at most two at a time."""
        if name in self._frozen or len(self._frozen) > 1 or not self._lives(name):
            return False
        self._signal(name, signal.SIGSTOP)
        self._frozen[name] = time.monotonic() + seconds
        return True

    def _thaw(self, name: str) -> None:
        del self._frozen[name]
        self._signal(name, signal.SIGCONT)

    def tell_to_lead(self, name: str) -> bool:
        if not self._lives(name) or name == self.leader():
            return False
        self._signal(name, signal.SIGUSR1)
        return True

    def leader(self) -> str | None:
        """Return the process that holds the term, living or dead; None when the server does not answer."""
        found = self.ask(LEADER)
        pid = int(found[0][0].rpartition("/")[2]) if found else None
        return next((name for name, process in self._processes.items() if process.pid == pid), None)

    def followers(self) -> list[str]:
        leader = self.leader()
        return [name for name in self._processes if name.startswith("d") and name != leader]

    def workers(self) -> list[str]:
        return [name for name in self._processes if name.startswith("w")]

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()
        if hasattr(self, "postgres"):
            self.postgres.stop()

    # --- the server -----------------------------------------------------------------------------------------------

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]] | None:
        """Return rows, or None when the server does not answer."""
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=2, application_name="chaos") as conn:
                return conn.execute(query.encode(), values).fetchall()
        except psycopg.OperationalError:
            return None

    def backends(self) -> list[int]:
        """Return the server's processes that serve dispatchers."""
        return [int(pid) for (pid,) in self.ask(BACKENDS) or ()]

    def crash_backend(self, rng: random.Random) -> bool:
        """Kill one backend: the server throws out everybody and recovers from its log."""
        pids = self.backends()
        if not pids:
            return False
        os.kill(rng.choice(pids), signal.SIGKILL)
        return True

    def crash_server(self) -> None:
        """Stop the server as a power cut would, and start it again."""
        files = self.postgres._files
        owner = files.stat()
        runner = account.Account(owner.st_uid, owner.st_gid)
        account.run(runner, "pg_ctl", "stop", "-D", files, "-m", "immediate", "-w")
        self.postgres.start()

    # --- the operator ---------------------------------------------------------------------------------------------

    def cancel(self, count: int) -> bool:
        chosen = [TaskId(task) for (task,) in self.ask(RUNNING, count) or ()]
        with contextlib.suppress(DatabaseUnavailable), self._database.transaction() as conn:
            return tasks.cancel(conn, chosen) > 0
        return False

    def retry_dead(self) -> int:
        with contextlib.suppress(DatabaseUnavailable), self._database.transaction() as conn:
            return sum(tasks.retry_dead(conn, one.job_id) for one in self.jobs)
        return 0

    def withdraw(self, count: int) -> bool:
        """Take published versions out of sight, and order the next generation of their blocks."""
        chosen = [VersionId(version) for (version,) in self.ask(VISIBLE, count) or ()]
        with contextlib.suppress(DatabaseUnavailable), self._database.transaction() as conn:
            withdrawn = repair.withdraw(conn, chosen, reason="chaos")
            for one in self.jobs:
                repair.repair(conn, DEFAULT_ORG, one.name)
            return withdrawn > 0
        return False

    def _apply(self, one: Job) -> None:
        with self._database.transaction() as conn:
            jobs.apply(conn, one)

    def calm(self) -> None:
        """No more faults: everybody is awake and does well, and the jobs end where their furthest stream is."""
        self.calm_file.touch()
        for name in list(self._frozen):
            self._thaw(name)
        self.respawn()
        self._await_server()
        for one in self.jobs:
            with self._database.transaction() as conn:
                jobs.pause(conn, DEFAULT_ORG, one.name)
            self._end_where_it_is(one)
        self.retry_dead()

    def _end_where_it_is(self, one: Job) -> None:
        """Let a job end at its furthest stream; a tick that began before the pause may still plan a little more."""
        for last in (False, False, False, True):
            furthest = self.ask(FURTHEST, one.job_id)
            assert furthest, "the server answers when all is calm"
            try:
                self._apply(replace(one, mode=FixedTarget(0, furthest[0][0])))
            except RefusedInput:
                if last:
                    raise
                time.sleep(0.2)
            else:
                return

    def _await_server(self) -> None:
        self._database.close()  # what is left of a connection from before a crash
        while self.ask("SELECT 1") is None:
            time.sleep(0.05)

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; False when that takes too long."""
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            self.respawn()
            left = self.ask(OPEN)
            if left is not None and left[0][0] == 0:
                return True
            time.sleep(0.05)
        return False


@contextmanager
def world(seed: int) -> Generator[World]:
    """A world in a directory of its own, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="trace-ray-chaos-"))
    directory.chmod(0o755)  # as root, Postgres runs as a user of its own
    made = World(directory, seed)
    try:
        made.begin()
        yield made
    finally:
        made.end()
        shutil.rmtree(directory, ignore_errors=True)
