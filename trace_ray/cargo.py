"""Compiles an author's Cargo project into one Linux program, with the Cargo that is installed."""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from trace_ray.errors import FatalError, RefusedInput

MUSL, GNU = "x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu"
BUILD_S: Final = 3600.0
ASK_S: Final = 60.0
ELF_X86_64: Final = (b"\x7fELF\x02\x01", b"\x3e\x00")  # 64 bits, little-endian; the machine stands at byte 18
INSTALL: Final = (
    f"install Rust from https://rustup.rs and run `rustup target add {MUSL}`, or build with `cargo lambda build` "
    'elsewhere and put its `bootstrap` into a directory with language = "bootstrap"'
)


def build(directory: Path) -> bytes:
    """Return the program of a Cargo project: static (musl) where that target is installed. Cargo's words go to stderr.

    Raises:
        RefusedInput: there is no Cargo here, no target that fits, or not exactly one program.
        FatalError: it does not compile.
    """
    if shutil.which("cargo") is None:
        raise RefusedInput(f"there is no cargo here: {INSTALL}")
    if not (directory / "Cargo.toml").is_file():
        raise RefusedInput(f"{directory} has no Cargo.toml: make one with `trace-ray bundle init --lang rust`")
    command = ["cargo", "build", "--release", "--target", _target(), "--message-format", "json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise FatalError(f"cargo took longer than {BUILD_S:.0f} s: build by hand first") from None
    if done.returncode != 0:
        raise FatalError("it does not compile: mend what cargo says above")
    programs = [found for line in done.stdout.splitlines() if (found := _executable(line))]
    if len(programs) != 1:
        raise RefusedInput(f"Cargo.toml makes {len(programs)} programs: a bundle has exactly one [[bin]]")
    return check_program(Path(programs[0]).read_bytes())


def check_program(program: bytes) -> bytes:
    """Return a program for Linux on x86_64. Raises RefusedInput for anything else."""
    start, machine = ELF_X86_64
    if not program.startswith(start) or program[18:20] != machine:
        raise RefusedInput(f"bootstrap is no Linux program for x86_64: {INSTALL}")
    return program


def _target() -> str:
    if _is_installed(MUSL):
        return MUSL
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return GNU
    raise RefusedInput(f"Rust cannot build for Linux on x86_64 here: run `rustup target add {MUSL}`")


def _is_installed(target: str) -> bool:
    command = ["rustc", "--print", "target-libdir", "--target", target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and Path(done.stdout.strip()).is_dir()


def _executable(line: bytes) -> str | None:
    """Return the program that a line of Cargo's JSON names."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return said.get("executable") if said.get("reason") == "compiler-artifact" else None
