"""The id of a build follows the code and nothing else."""

import subprocess
import sys
from pathlib import Path

from trace_ray import build
from trace_ray.build import build_id

REPOSITORY = Path(build.__file__).parents[1]


def test_the_id_names_the_version_and_a_digest_of_the_code() -> None:
    number, _, digest = build_id().partition("+")
    assert number
    assert len(digest) == build.DIGITS


def test_only_code_is_digested_and_compiled_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "__pycache__").mkdir()
    for name in ("a.py", "sql/b.sql", "c.json", "__pycache__/a.cpython-311.pyc", "__pycache__/d.py", "notes.md"):
        (tmp_path / name).write_text(name)
    found = {name for name, _ in build._code(tmp_path, "state")}
    assert found == {"state/a.py", "state/sql/b.sql", "state/c.json"}


def test_another_process_of_the_same_code_has_the_same_id() -> None:
    code = "from trace_ray.build import build_id; print(build_id())"
    other = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == build_id()
