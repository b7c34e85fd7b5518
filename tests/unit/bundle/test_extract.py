"""Verified files on a disk: modes, links that are not followed, and what is noticed when they are looked at again."""

import os
import stat
from pathlib import Path

import pytest

from tests.bundles import FILES, make, ring
from trace_ray.bundle import archive, extract, verify
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.extract import is_intact
from trace_ray.errors import BundleFault, BundleRejected

MADE = make()
VERIFIED = verify.verify(MADE.zip, MADE.envelope, pin=MADE.digest, keyring=ring())


@pytest.fixture(params=[False, True], ids=["", "synced"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    extract.extract(VERIFIED, tmp_path / "files", sync=bool(request.param))
    return tmp_path / "files"


def test_files_and_directories_cannot_be_written(directory: Path) -> None:
    for path, file in FILES.items():
        state = (directory / path).lstat()
        assert (directory / path).read_bytes() == file.content
        assert stat.S_IMODE(state.st_mode) == (0o555 if file.executable else 0o444)
    assert [stat.S_IMODE(found.stat().st_mode) for found in (directory, directory / "pkg")] == [0o555, 0o555]
    assert is_intact(directory, MADE.manifest, hashed=True)


def test_the_directory_must_be_new(directory: Path) -> None:
    with pytest.raises(FileExistsError):
        extract.extract(VERIFIED, directory)


def test_a_link_or_file_in_the_way_is_not_followed(directory: Path, tmp_path: Path) -> None:
    """Somebody who can write into the staging directory while it is filled gains nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    top = os.open(outside, extract.FOLDER)
    (tmp_path / "elsewhere").mkdir()
    (outside / "pkg").symlink_to(tmp_path / "elsewhere")
    (outside / "handler.py").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        extract._enter(top, ("pkg",))
    with pytest.raises(FileExistsError):
        extract._write(top, MADE.manifest.files[0], iter([b"x"]), sync=False)
    os.close(top)
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_not_the_signed_one_ends_the_extraction(tmp_path: Path) -> None:
    other = make(data=archive.pack({**FILES, "pkg/data.bin": Packed(bytes(256), True)}))
    verified = verify.verify(other.zip, other.envelope, pin=other.digest, keyring=ring())
    with pytest.raises(BundleRejected) as caught:
        extract.extract(verified, tmp_path / "files")
    assert caught.value.code is BundleFault.FILE_SHA_MISMATCH


def writable(path: Path) -> Path:
    path.parent.chmod(0o755)
    return path


def test_what_was_changed_meanwhile_is_noticed(directory: Path) -> None:
    manifest = MADE.manifest
    handler, folder = directory / "handler.py", directory / "pkg"
    handler.chmod(0o644)
    assert not is_intact(directory, manifest, hashed=False)
    handler.write_bytes(b"X" + FILES["handler.py"].content[1:])
    handler.chmod(0o444)
    assert is_intact(directory, manifest, hashed=False)
    assert not is_intact(directory, manifest, hashed=True)
    handler.chmod(0o644)
    handler.write_bytes(FILES["handler.py"].content)
    handler.chmod(0o444)
    assert is_intact(directory, manifest, hashed=True)
    folder.chmod(0o755)
    assert not is_intact(directory, manifest, hashed=True)
    (folder / "more.py").touch()
    folder.chmod(0o555)
    assert not is_intact(directory, manifest, hashed=True)
    writable(folder / "more.py").unlink()
    writable(folder / "link").symlink_to("/etc")
    folder.chmod(0o555)
    assert not is_intact(directory, manifest, hashed=True)
    writable(folder / "link").unlink()
    writable(folder / "data.bin").unlink()
    folder.chmod(0o555)
    assert not is_intact(directory, manifest, hashed=True)
    (folder.parent).chmod(0o755)
    assert not is_intact(directory / "none", manifest, hashed=True)
