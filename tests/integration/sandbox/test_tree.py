"""Versions of the runtime tree: the one in use stays, whoever uses it; the others make room."""

import os
import subprocess
import sys
from pathlib import Path

from actors.sandbox import tree

OTHER = """
import sys
from pathlib import Path
from actors.sandbox import tree
tree.FORMAT = "another one"
print(tree.open_tree(Path(sys.argv[1]), node=None).root, flush=True)
sys.stdin.read()
"""


def trees(home: Path) -> set[Path]:
    return {path for path in (home / "runtime").iterdir() if path.is_dir()}


def test_a_version_is_removed_once_the_last_process_that_uses_it_has_ended(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    try:
        ours = tree.open_tree(tmp_path, node=None)
        assert trees(tmp_path) == {theirs, ours.root}
    finally:
        other.kill()  # a process that is killed lets go as well
        other.communicate()

    again = tree.open_tree(tmp_path, node=None)
    assert (again, trees(tmp_path)) == (ours, {ours.root})
    assert sorted(path.name for path in (tmp_path / "runtime").glob("*.lock")) == [f"{ours.root.name}.lock"]
    assert (ours.root / "opt/python/bin/python3").is_file()
    assert ours.bootstraps.is_dir()


def test_what_killed_processes_left_is_removed_and_what_has_no_lock_is_not(tmp_path: Path) -> None:
    for name in (".new-fresh", ".new-left", ".old-left", "made-before-there-were-locks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "never-made.lock").write_text("")
    os.utime(tmp_path / ".new-left", (0, 0))

    tree._open(tmp_path / "current", tree._fill_bootstraps)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".new-fresh", "made-before-there-were-locks", "current", "current.lock"
    }  # fmt: skip
