"""A good rule file and how tests change it."""

from pathlib import Path

import pytest

from trace_ray import rulefile
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.errors import RefusedInput

DIGEST = "3f" * 32
GOOD = f"""\
kind: alert_rule
name: large_transfers
bundle: {DIGEST}
datasets: [devnet_blocks, devnet_transactions]
parameters:
  threshold: 5
channels: [ops]
severity: critical
mode: shadow
enabled: false
limits:
  timeout_seconds: 60
  memory_mib: 128
max_delivery_age_seconds: 900
throttle:
  count: 3
  per_seconds: 60
"""


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "rule.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(path: Path) -> list[str]:
    """Return what is wrong with a file, each sentence without the directory."""
    with pytest.raises(RefusedInput) as caught:
        rulefile.read(path, DEFAULT_ORG)
    return [problem.removeprefix(f"{path.parent}/") for problem in caught.value.problems]
