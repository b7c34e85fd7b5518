"""Verified files on a disk: written without following a link or touching a file that is there, and looked at again."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from trace_ray.bundle.manifest import BundleFile, Manifest
from trace_ray.bundle.verify import Verified, contents

PLAIN, EXECUTABLE, DIRECTORY = 0o444, 0o555, 0o555
CHUNK: Final = 1024**2
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(bundle: Verified, directory: Path, *, sync: bool = False) -> None:
    """Write the files of a bundle into a new directory: files 0444 or 0555, directories 0555.

    Args:
        directory: Is made. Half-written after an error: use a staging directory, and give it its name afterwards.
        sync: Wait until the disk has it all.

    Raises:
        BundleRejected: a file is not what was signed.
        OSError: the disk refuses.
    """
    directory.mkdir(mode=0o755)
    top = os.open(directory, FOLDER)
    try:
        for file, parts in contents(bundle):
            folder = _enter(top, PurePosixPath(file.path).parts[:-1])
            try:
                _write(folder, file, parts, sync=sync)
            finally:
                os.close(folder)
    finally:
        os.close(top)
    for found, _, _ in os.walk(directory, topdown=False):
        Path(found).chmod(DIRECTORY)


def is_intact(directory: Path, manifest: Manifest, *, hashed: bool) -> bool:
    """Say whether a directory holds exactly these files, with their sizes and modes; with `hashed`, their content."""
    found: dict[str, os.stat_result] = {}
    for folder, folders, names in os.walk(directory):
        if stat.S_IMODE(os.lstat(folder).st_mode) != DIRECTORY:
            return False
        for name in names + [one for one in folders if Path(folder, one).is_symlink()]:
            path = Path(folder, name)
            found[path.relative_to(directory).as_posix()] = path.lstat()
    if found.keys() != {file.path for file in manifest.files}:
        return False
    return all(_is(file, found[file.path]) for file in manifest.files) and (
        not hashed or all(_digest(directory / file.path) == file.digest for file in manifest.files)
    )


def _enter(top: int, parts: tuple[str, ...]) -> int:
    """Return a descriptor of a directory below `top`; made where it is missing. No link is followed."""
    here = os.dup(top)
    for part in parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            inner = os.open(part, FOLDER, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def _write(folder: int, file: BundleFile, parts: Iterator[bytes], *, sync: bool) -> None:
    descriptor = os.open(PurePosixPath(file.path).name, NEW, 0o600, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as out:
        for part in parts:
            out.write(part)
        out.flush()
        os.fchmod(descriptor, EXECUTABLE if file.executable else PLAIN)
        if sync:
            os.fsync(descriptor)


def _is(file: BundleFile, state: os.stat_result) -> bool:
    mode = EXECUTABLE if file.executable else PLAIN
    return stat.S_ISREG(state.st_mode) and stat.S_IMODE(state.st_mode) == mode and state.st_size == file.size


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while part := file.read(CHUNK):
            hashed.update(part)
    return hashed.hexdigest()
