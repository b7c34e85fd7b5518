"""A full disk is known by its error: by the time somebody looks at the disk it may have room again."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.ingest import is_full

FULL = Path("/dev/full")  # a device that is always full


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_known_whoever_writes() -> None:
    with pytest.raises(OSError) as by_python:
        FULL.write_bytes(b"x")
    with pytest.raises(OSError) as by_arrow:
        pq.write_table(pa.table({"number": list(range(100_000))}), FULL)
    assert is_full(by_python.value)
    assert is_full(by_arrow.value)


def test_another_failure_of_a_disk_is_not_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "missing" / "file").write_bytes(b"x")
    assert not is_full(caught.value)
