"""The chain of the benchmarks: real blocks of the devnet, recorded once and kept between runs.

A recording belongs to one build of the node and one kind of traffic; its file name carries both, so a change of either
makes a new one.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import REPOSITORY, Chain, record
from trace_ray.lite import anvil
from trace_ray.lite.devnet import Devnet

CACHE = Path(os.environ.get("TRACE_TEST_CACHE", REPOSITORY / ".venv" / "cache"))
TRAFFIC = ("traffic.py", "devnet.py", "account.py", "devnet_contracts.json")  # what decides the chain's content
TRANSACTIONS = 20  # of a block


def recording(blocks: int) -> Path:
    """Return the recording of a chain whose head is block `blocks`; it is made when it is not in the cache."""
    binary = anvil.find(CACHE) or anvil.install(CACHE, print)
    path = CACHE / f"bench-{blocks}x{TRANSACTIONS}-{_build(binary)}-{_traffic()}.json.gz"
    if not path.exists():
        print(f"making a chain of {blocks} blocks with {TRANSACTIONS} transactions each", flush=True)
        _make(binary, blocks, path)
    return path


def _make(binary: Path, blocks: int, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="trace-ray-bench-chain-") as name:
        directory = Path(name)
        with Devnet(binary, port=None, log=directory / "log", state_dir=directory / "state") as net:
            head = net.fill(blocks=blocks, transactions=TRANSACTIONS)
            made = record(Chain(net.url, head), directory / "chain.json.gz")
        making = path.with_suffix(".making")  # another file system, perhaps: only the rename is one step
        shutil.copyfile(made, making)
        making.rename(path)


def _build(binary: Path) -> str:
    told = subprocess.run([str(binary), "--version"], capture_output=True, check=True, text=True, timeout=30).stdout
    found = re.search(r"\d+\.\d+\.\d+", told)
    return f"anvil{found[0] if found else 'unknown'}"


def _traffic() -> str:
    digest = hashlib.sha256()
    for name in TRAFFIC:
        digest.update((REPOSITORY / "trace_ray" / "lite" / name).read_bytes())
    return digest.hexdigest()[:8]
