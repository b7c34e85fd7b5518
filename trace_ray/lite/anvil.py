"""The devnet's node, anvil (Foundry): found on PATH, or installed with npm into the data directory.

Only a native binary is taken. The `anvil` that npm puts on PATH is a Node script around it: signals reach the script,
and the node lives on.
"""

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trace_ray.errors import StackUnavailable

VERSION: Final = "1.7.1"  # the chain's hashes belong to a build; this one is tested
INSTALL_S: Final = 300.0  # 25 MB on a slow line
PROBE_S: Final = 30.0
PACKAGES: Final = {
    ("Linux", "x86_64"): "anvil-linux-amd64",
    ("Linux", "aarch64"): "anvil-linux-arm64",
    ("Darwin", "x86_64"): "anvil-darwin-amd64",
    ("Darwin", "arm64"): "anvil-darwin-arm64",
}
SCOPE: Final = "@foundry-rs"
BY_HAND: Final = "put anvil (Foundry) on PATH"

Say = Callable[[str], None]


def find(data_dir: Path) -> Path | None:
    """Return a native anvil: the first one on PATH, else the one that `install` made; None when there is neither."""
    for directory in os.get_exec_path():
        found = shutil.which("anvil", path=directory)
        if found is not None and not _is_script(Path(found)):
            return Path(found)
    package = PACKAGES.get((platform.system(), platform.machine()))
    return None if package is None else _installed(data_dir / "tools", package)


def install(data_dir: Path, say: Say) -> Path:
    """Install the pinned anvil into the data directory unless it is there. Safe to repeat and to race.

    Raises:
        StackUnavailable: npm is missing or failed, there is no build for this machine, or the build does not run on it.
    """
    package = PACKAGES.get((platform.system(), platform.machine()))
    if package is None:
        raise StackUnavailable(f"no anvil is built for {platform.system()} on {platform.machine()}: {BY_HAND}")
    tools = data_dir / "tools"
    with _alone(data_dir):
        found = _installed(tools, package)
        if found is not None:
            return found
        npm = shutil.which("npm")
        if npm is None:
            raise StackUnavailable(f"anvil is missing and so is npm to install it: install Node.js, or {BY_HAND}")
        say(f"Installing anvil {VERSION} with npm")
        tools.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=tools) as making:
            _npm_install(npm, Path(making), f"{SCOPE}/{package}@{VERSION}", log=tools / "npm.log")
            _check_runs(_binary(Path(making), package))
            _publish(Path(making), tools, package)
    return _binary(tools, package)


# --- the installed one --------------------------------------------------------------------------------------------


def _home(tools: Path, package: str) -> Path:
    return tools / "node_modules" / SCOPE / package


def _binary(tools: Path, package: str) -> Path:
    return _home(tools, package) / "bin" / "anvil"


def _installed(tools: Path, package: str) -> Path | None:
    """Return the binary of the pinned version. It is moved here when complete, so what is here is whole."""
    try:
        version = json.loads((_home(tools, package) / "package.json").read_text(encoding="utf-8"))["version"]
    except FileNotFoundError:
        return None
    return _binary(tools, package) if version == VERSION else None


def _publish(making: Path, tools: Path, package: str) -> None:
    home = _home(tools, package)
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():
        home.rename(making / "replaced")
    _home(making, package).rename(home)


@contextmanager
def _alone(data_dir: Path) -> Generator[None]:
    """One installer at a time. The lock ends with its process, however that ends."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data_dir / "tools.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- npm ----------------------------------------------------------------------------------------------------------


def _npm_install(npm: str, prefix: Path, package: str, *, log: Path) -> None:
    command = [npm, "install", "--prefix", str(prefix), "--no-audit", "--no-fund", "--ignore-scripts", package]
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            raise StackUnavailable(
                f"npm did not install anvil within {INSTALL_S:.0f} s: check the network, or {BY_HAND}"
            ) from None
    if done.returncode != 0:
        code = re.search(r"npm (?:error|ERR!) code (\w+)", log.read_text(encoding="utf-8", errors="replace"))
        why = code.group(1) if code else f"exit code {done.returncode}"
        raise StackUnavailable(f"npm could not install anvil ({why}, its words are in {log}): mend that, or {BY_HAND}")


def _check_runs(binary: Path) -> None:
    try:
        subprocess.run([str(binary), "--version"], capture_output=True, check=True, timeout=PROBE_S)
    except (OSError, subprocess.SubprocessError):
        raise StackUnavailable(f"the anvil build of npm does not run on this machine: {BY_HAND}") from None


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
