"""Where the devnet's node comes from: PATH, or npm."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trace_ray.errors import StackUnavailable
from trace_ray.lite import anvil


def test_a_script_around_anvil_is_stepped_over(
    anvil_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, native = tmp_path / "script" / "anvil", tmp_path / "native" / "anvil"
    for path in (script, native):
        path.parent.mkdir()
    script.write_text("#!/usr/bin/env node\n")
    script.chmod(0o755)
    native.symlink_to(anvil_binary)
    monkeypatch.setenv("PATH", str(script.parent))
    assert anvil.find(tmp_path) is None
    monkeypatch.setenv("PATH", os.pathsep.join((str(script.parent), str(native.parent))))
    assert anvil.find(tmp_path) == native


def test_a_machine_without_npm_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackUnavailable, match=r"install Node\.js, or put anvil \(Foundry\) on PATH"):
        anvil.install(tmp_path / "data", lambda _: None)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed, so it cannot install anvil")
def test_two_installers_at_once_install_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        paths = {one.result() for one in [pool.submit(anvil.install, tmp_path, said.append) for _ in range(2)]}
    assert len(paths) == len(said) == 1
    npm = shutil.which("npm")
    assert npm is not None
    monkeypatch.setenv("PATH", str(tmp_path))  # no anvil there
    assert {anvil.find(tmp_path)} == paths
    version = subprocess.run([paths.pop(), "--version"], capture_output=True, check=True, text=True).stdout
    assert anvil.VERSION in version
    assert [one.name for one in (tmp_path / "tools").iterdir() if one.name.startswith("making")] == []
