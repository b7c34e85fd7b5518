"""The rules for names inside a bundle, for manifests, zips and what an author builds alike. Pure.

A name is the relative path of one regular file: plain, and the same file on every file system.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from trace_ray.errors import BundleFault, BundleRejected

MAX_BYTES: Final = 240  # leaves room below NAME_MAX (255) for a name that is one long segment
MAX_DEPTH: Final = 16
FORBIDDEN: Final = ("\\", ":")  # other systems take them for separators, drives or streams
UNSEEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control and format characters, halves of pairs, line separators


def check_path(path: str) -> str:
    """Return the path. Raises BundleRejected: `zip_path`."""
    if any(unicodedata.category(letter) in UNSEEN for letter in path):
        raise _bad(path, "has characters that nobody sees")  # first: what cannot be encoded ends here
    if len(path.encode()) > MAX_BYTES:
        raise _bad(path, f"is longer than {MAX_BYTES} bytes")
    if any(one in path for one in FORBIDDEN):
        raise _bad(path, "has a backslash or a colon")
    if not unicodedata.is_normalized("NFC", path):
        raise _bad(path, "is not in Unicode form NFC")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise _bad(path, "is not a plain relative path")
    if len(parts) > MAX_DEPTH:
        raise _bad(path, f"is deeper than {MAX_DEPTH} levels")
    return path


def check_distinct(paths: Sequence[str]) -> None:
    """Refuse names that meet in one place, also where upper and lower case are the same.

    Raises:
        BundleRejected: `zip_dup` for the same name twice, `zip_case_collision` for names that differ in case alone,
            and for a file where another name needs a directory.
    """
    if len(set(paths)) != len(paths):
        twice = next(path for path, times in Counter(paths).items() if times > 1)
        raise BundleRejected(BundleFault.ZIP_DUP, f"{twice[:80]!a} is in it twice: build it again")
    files: dict[str, str] = {}
    for path in paths:
        if (other := files.setdefault(_folded(path), path)) != path:
            raise _meet(path, other)
    folders: dict[str, str] = {}
    for path in paths:
        for folder in map(str, PurePosixPath(path).parents):
            folded = _folded(folder)
            if folded in files:
                raise _meet(path, files[folded])
            if (other := folders.setdefault(folded, folder)) != folder:
                raise _meet(folder, other)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _bad(path: str, why: str) -> BundleRejected:
    return BundleRejected(BundleFault.ZIP_PATH, f"the name {path[:80]!a} {why}: rename the file")


def _meet(path: str, other: str) -> BundleRejected:
    return BundleRejected(
        BundleFault.ZIP_CASE_COLLISION,
        f"{path[:80]!a} and {other[:80]!a} meet where case does not count: rename one of them",
    )
