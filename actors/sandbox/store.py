"""Verified bundles on a worker's disk, by digest: fetched once, checked at each use, the least used one dropped.

    {root}/{sha256[:2]}/{sha256}/files/      what a sandbox sees as its code: 0444 or 0555, never half-written
    {root}/{sha256[:2]}/{sha256}/bundle.zip  what it was unpacked from
    {root}/locks/{sha256}                    shared while in use, exclusive while made or dropped; dated by its use
    {root}/staging/                          what is on its way in or out; only a rename makes it visible

Any number of processes may share a root. Neither the object store nor this disk is trusted: each use checks the zip
against the pin, the signature and the keys that came with the lease.
"""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from trace_ray.bundle.extract import extract, is_intact
from trace_ray.bundle.keys import Keyring
from trace_ray.bundle.manifest import DIGEST, MAX_ZIP, Manifest
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.bundle.verify import Verified, check_size, verify
from trace_ray.errors import BundleFault, BundleRejected, DiskFull, StoreUnavailable
from trace_ray.storage import ObjectStore

logger = logging.getLogger(__name__)

CAPACITY: Final = 4 * 1024**3  # bytes; sixteen bundles of the largest size
REHASHED: Final = 8 * 1024**2  # bytes of files that are hashed again at each use: some 10 ms
LOCK_S: Final = 60.0  # longer than a bundle takes to fetch and unpack
POLL_S: Final = 0.02
TRIES: Final = 5  # a bundle can be dropped between its making and its use, but hardly five times
STAGING_KEPT_S: Final = 3600.0  # what is older was left by a process that died
ZIP, FILES, BYTES, STAGING, LOCKS = "bundle.zip", "files", "bytes", "staging", "locks"


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A verified bundle for as long as its `use` lasts. `directory` holds exactly the files of the manifest."""

    directory: Path
    manifest: Manifest


class BundleStore:
    """The bundles of one worker machine. Safe to share between threads and processes.

    `root` should lie on the file system of the sandboxes' directories, so that files can be hard-linked; every user can
    enter it. What is stored stays below `capacity` bytes, unless more than that is in use at once.
    """

    def __init__(self, root: Path, objects: ObjectStore, *, capacity: int = CAPACITY, lock_s: float = LOCK_S) -> None:
        self._root = root
        self._objects = objects
        self._capacity = capacity
        self._lock_s = lock_s
        with _disk_errors():
            for directory in (root, root / STAGING, root / LOCKS):
                _make_directory(directory)
            self._drop_old_staging()

    @contextmanager
    def use(self, bundle: PushedBundle, keyring: Keyring) -> Generator[StoredBundle]:
        """Hold a bundle's files. They stay until the block ends, whatever else is fetched.

        Args:
            bundle: As the ledger pinned it.
            keyring: As it was when the lease was given out.

        Raises:
            BundleRejected: a rule is broken; trying again cannot help.
            ObjectMissing: the object store lost the zip.
            StoreUnavailable, DiskFull: later, or on another machine, it may succeed.
        """
        if not DIGEST.fullmatch(bundle.digest):
            raise BundleRejected(BundleFault.SHA_MISMATCH, "its pin is no SHA-256: pin it again")
        for _ in range(TRIES):
            with self._locked(bundle.digest, fcntl.LOCK_SH):
                with _disk_errors():
                    stored = self._ready(bundle, keyring)
                if stored is not None:
                    yield stored
                    return
            with self._locked(bundle.digest, fcntl.LOCK_EX), _disk_errors():
                if self._ready(bundle, keyring) is None:  # another process may have made it
                    self._make(bundle, keyring)
        raise StoreUnavailable("bundles are dropped before they are used: give the store of bundles more room")

    # --- one bundle -----------------------------------------------------------------------------------------------

    def _ready(self, bundle: PushedBundle, keyring: Keyring) -> StoredBundle | None:
        """Return the bundle when it is there and intact, verified anew. Under its lock."""
        entry = self._entry(bundle.digest)
        try:
            verified = _verified(entry / ZIP, bundle, keyring)
        except FileNotFoundError:
            return None
        except BundleRejected as error:
            if error.code not in (BundleFault.SHA_MISMATCH, BundleFault.SIZE):
                raise
            logger.warning("stored bundle damaged", extra={"digest": bundle.digest, "what": "zip"})
            return None
        found = verified.manifest
        if not is_intact(entry / FILES, found, hashed=found.total <= REHASHED):
            logger.warning("stored bundle damaged", extra={"digest": bundle.digest, "what": "files"})
            return None
        return StoredBundle(entry / FILES, found)

    def _make(self, bundle: PushedBundle, keyring: Keyring) -> None:
        """Fetch, verify and unpack a bundle; nothing of it is visible before all of it is there. Under its lock."""
        staging = self._new_staging()
        try:
            self._fetch(bundle, staging / ZIP)
            verified = _verified(staging / ZIP, bundle, keyring)
            total = bundle.size + verified.manifest.total
            self._make_room(total, besides=bundle.digest)
            large = verified.manifest.total > REHASHED  # is not hashed again: a power cut must not leave zeros in it
            extract(verified, staging / FILES, sync=large)
            (staging / BYTES).write_text(str(total))
            (staging / ZIP).chmod(0o444)
            entry = self._entry(bundle.digest)
            _make_directory(entry.parent)
            self._discard(bundle.digest)
            staging.chmod(0o755)
            staging.rename(entry)
            entry.chmod(0o555)  # after the rename: of a directory that cannot be written, only root changes the parent
        finally:
            _remove(staging)
        logger.info("bundle stored", extra={"digest": bundle.digest, "bytes": total})

    def _fetch(self, bundle: PushedBundle, path: Path) -> None:
        """Copy the zip, unless the object store shows one that is too large to be it: it would fill the disk."""
        for stored in self._objects.list(bundle.key):
            if stored.key == bundle.key:
                check_size(stored.bytes)
        self._objects.get(bundle.key, path)

    # --- room -----------------------------------------------------------------------------------------------------

    def _make_room(self, needed: int, *, besides: str) -> None:
        """Drop the bundles that were used longest ago, until `needed` bytes fit; never one in use."""
        sizes = {entry.name: _bytes(entry) for entry in self._root.glob("[0-9a-f][0-9a-f]/*") if entry.name != besides}
        used = sum(sizes.values())
        for digest in sorted(sizes, key=self._used_at):
            if used + needed <= self._capacity:
                return
            with contextlib.suppress(BlockingIOError), self._locked(digest, fcntl.LOCK_EX, wait=False):
                self._discard(digest)
                (self._root / LOCKS / digest).unlink()
                used -= sizes[digest]
                logger.info("bundle dropped", extra={"digest": digest, "bytes": sizes[digest]})

    def _used_at(self, digest: str) -> int:
        try:
            return (self._root / LOCKS / digest).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _discard(self, digest: str) -> None:
        """Take an entry out of sight, then remove it. Under its exclusive lock."""
        entry, away = self._entry(digest), self._new_staging()
        with contextlib.suppress(FileNotFoundError):
            entry.chmod(0o755)
            entry.rename(away / FILES)
        _remove(away)

    def _drop_old_staging(self) -> None:
        for left in (self._root / STAGING).iterdir():
            with contextlib.suppress(FileNotFoundError):  # its own process has just finished
                if left.stat().st_mtime < time.time() - STAGING_KEPT_S:
                    _remove(left)

    # --- places and locks -----------------------------------------------------------------------------------------

    def _entry(self, digest: str) -> Path:
        return self._root / digest[:2] / digest

    def _new_staging(self) -> Path:
        staging = self._root / STAGING / uuid4().hex
        staging.mkdir(mode=0o700)
        return staging

    @contextmanager
    def _locked(self, digest: str, kind: int, *, wait: bool = True) -> Generator[None]:
        """Hold the lock of a bundle; whoever waits for it also notes when.

        Raises:
            StoreUnavailable: not within `lock_s`.
            BlockingIOError: it is held, and we do not wait.
        """
        path = self._root / LOCKS / digest
        give_up = time.monotonic() + self._lock_s
        while True:
            with _disk_errors():
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _flock(lock, kind, give_up, patient=wait)
                if _is_file(lock, path):  # else its last holder dropped the bundle, and the lock with it
                    if wait:
                        os.utime(lock)
                    yield
                    return
            finally:
                os.close(lock)


def _verified(path: Path, bundle: PushedBundle, keyring: Keyring) -> Verified:
    """Check a zip of the disk. Read once: what is verified is what is unpacked. Raises BundleRejected, OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_ZIP + 1)
    return verify(content, bundle.envelope, pin=bundle.digest, keyring=keyring)


def _flock(lock: int, kind: int, give_up: float, *, patient: bool) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not patient:
                raise
            if time.monotonic() > give_up:
                raise StoreUnavailable("a bundle is being made by another process for too long: try again") from None
            time.sleep(POLL_S)
        else:
            return


def _is_file(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _make_directory(directory: Path) -> None:
    """Make a directory that every user can enter, whatever the umask."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)


def _bytes(entry: Path) -> int:
    """Return what an entry takes, as was noted when it was made; a power cut may have lost the note."""
    try:
        return int((entry / BYTES).read_text())
    except (OSError, ValueError):
        return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(entry) for name in names)


def _remove(directory: Path) -> None:
    """Remove a tree whose directories nobody may write."""
    for folder, _, _ in os.walk(directory):
        os.chmod(folder, 0o700)  # noqa: PTH101 - os.walk gives texts
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _disk_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk of the store of bundles is full: free some space") from error
        raise StoreUnavailable(
            f"the disk of the store of bundles fails ({type(error).__name__}): look at the disk"
        ) from error
