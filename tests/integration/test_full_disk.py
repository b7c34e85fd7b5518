"""A full disk is known by its error: by the time somebody looks at the disk it may have room again."""

import os
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.ingest import is_full

FULL = Path("/dev/full")  # a device that is always full
FULL_NUMBER = (1, 7)  # of that device on Linux, whose containers may lack the file


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A name for the device: Arrow removes the file that it fails to write, which root may do in /dev too."""
    device = tmp_path / "full"
    if FULL.exists():
        device.symlink_to(FULL)
        return device
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(*FULL_NUMBER))
    except (OSError, AttributeError) as error:
        pytest.skip(f"no device that is always full can be made here: {error}")
    return device


def test_a_full_disk_is_known_whoever_writes(full: Path) -> None:
    with pytest.raises(OSError) as by_python:
        full.write_bytes(b"x")
    with pytest.raises(OSError) as by_arrow:
        pq.write_table(pa.table({"number": list(range(100_000))}), full)
    assert is_full(by_python.value)
    assert is_full(by_arrow.value)


def test_another_failure_of_a_disk_is_not_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "missing" / "file").write_bytes(b"x")
    assert not is_full(caught.value)
