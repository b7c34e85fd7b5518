"""Which code runs: the version of the package and a digest of its files, so that an upgraded stack notices the old one.

A digest, because a checkout changes without its version. What was read at import stays: `build_id` is asked for at the
start of a process, before an upgrade can change the files under it.
"""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

PACKAGES: Final = ("actors", "query", "state", "trace_ray")
CODE: Final = (".py", ".sql", ".json")
DIGITS: Final = 12  # of the digest: enough to tell builds apart, short enough to read


@cache
def build_id() -> str:
    """Return `<version>+<digest>`, e.g. `0.1.0+3f2a9c01d4be`. The same files give the same id on every machine."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for name, content in sorted(_code(files(package), package)):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    try:
        number = version("trace-ray")
    except PackageNotFoundError:  # shipped as a working directory, never installed
        number = "0"
    return f"{number}+{digest.hexdigest()[:DIGITS]}"


def _code(folder: Traversable, name: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            found += _code(entry, path)
        elif entry.name.endswith(CODE):
            found.append((path, entry.read_bytes()))
    return found
