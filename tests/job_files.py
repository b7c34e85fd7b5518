"""A good job file and how tests change it."""

from pathlib import Path

import pytest

from trace_ray import config
from trace_ray.errors import RefusedInput

GOOD = """\
kind: chain_sync
name: devnet
chain_id: 31337
chain_name: devnet
mode:
  kind: fixed_target
  from_block: 0
  to_block: 2000
streams:
  blocks:
    cryo_dataset_name: blocks
    rpc_pool: standard
    chunk_size: 200
    max_inflight: 8
"""


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "job.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def changed(line: str, new: str, text: str = GOOD) -> str:
    """Return the file with one of its lines replaced."""
    lines = text.split("\n")
    assert lines.count(line) == 1
    lines[lines.index(line)] = new
    return "\n".join(lines)


def with_mode(mode: str) -> str:
    return GOOD[: GOOD.index("mode:")] + f"mode: {mode}\n" + GOOD[GOOD.index("streams:") :]


def problems(path: Path) -> list[str]:
    """Return what is wrong with a file, each sentence without the directory."""
    with pytest.raises(RefusedInput) as caught:
        config.read_job(path)
    return [problem.removeprefix(f"{path.parent}/") for problem in caught.value.problems]
