"""The object store on a real disk and at a real S3-compatible server."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import s3fs

from tests.conftest import S3Server, free_port, wait_until
from trace_ray.contracts import S3Credentials
from trace_ray.errors import FatalError, StoreUnavailable
from trace_ray.storage import FileStore, ObjectStore, open_store

DIGEST = "ab" * 32
KEY = f"cryo/1/d/0_200/v/blocks_0_199.{DIGEST}.parquet"
MIB = 1024**2
REFUSED = (400, 403)  # rclone answers a missing or old signature with 400, a wrong one with 403


@dataclass(frozen=True)
class Place:
    """A store, and a way to its objects that does not pass through it."""

    store: ObjectStore
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "file":
        root = tmp_path / "objects"
        opened = open_store(root.as_uri(), data_dir=tmp_path)
        yield Place(opened, lambda key: (root / key).read_bytes(), lambda key, data: (root / key).write_bytes(data))
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        opened, behind = s3(server, tmp_path), client(server)
        base = f"{server.bucket}/some/prefix"
        yield Place(
            opened,
            lambda key: behind.cat_file(f"{base}/{key}"),
            lambda key, data: behind.pipe_file(f"{base}/{key}", data),
        )
    opened.close()


def client(server: S3Server) -> Any:
    return s3fs.S3FileSystem(
        key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint, skip_instance_cache=True
    )


def s3(server: S3Server, data_dir: Path, *, prefix: str = "some/prefix", secret: str | None = None) -> ObjectStore:
    credentials = S3Credentials(server.access_key, secret or server.secret_key)
    url = f"s3://{server.bucket}/{prefix}"
    return open_store(url, data_dir=data_dir, s3_endpoint=server.endpoint, s3=credentials)


def written(directory: Path, content: bytes) -> Path:
    path = directory / "source"
    path.write_bytes(content)
    return path


# --- both ---------------------------------------------------------------------------------------------------------


def test_object_comes_back_as_it_was(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    place.store.get(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"rows"
    assert place.read(KEY) == b"rows"
    assert not list(tmp_path.glob(".back*"))


def test_object_of_many_parts_comes_back_as_it_was(place: Place, tmp_path: Path) -> None:
    content = os.urandom(40 * MIB)  # above two parts of 16 MiB
    place.store.put(written(tmp_path, content), KEY)
    place.store.get(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_empty_object_is_an_object(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b""), KEY)
    assert [(entry.key, entry.bytes) for entry in place.store.list("")] == [(KEY, 0)]


def test_object_with_a_digest_in_its_name_is_written_once(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    place.write(KEY, b"mark")  # the same size: a second write would replace it
    place.store.put(written(tmp_path, b"rows"), KEY)
    assert place.read(KEY) == b"mark"


def test_object_of_another_size_is_replaced_whatever_its_name(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    place.write(KEY, b"half")
    place.store.put(written(tmp_path, b"whole"), KEY)
    assert place.read(KEY) == b"whole"


def test_object_without_a_digest_in_its_name_is_replaced(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"one"), "results/a.parquet")
    place.store.put(written(tmp_path, b"two"), "results/a.parquet")
    assert place.read("results/a.parquet") == b"two"


def test_list_yields_what_begins_with_the_prefix(place: Place, tmp_path: Path) -> None:
    for key in ("cryo/1/a", "cryo/1/b/c", "cryo/10/d", "results/e"):
        place.store.put(written(tmp_path, b"x" * len(key)), key)

    def listed(prefix: str) -> list[str]:
        return sorted(entry.key for entry in place.store.list(prefix))

    assert listed("") == ["cryo/1/a", "cryo/1/b/c", "cryo/10/d", "results/e"]
    assert listed("cryo/1") == ["cryo/1/a", "cryo/1/b/c", "cryo/10/d"]
    assert listed("cryo/1/") == ["cryo/1/a", "cryo/1/b/c"]
    assert listed("cryo/1/b/") == ["cryo/1/b/c"]
    assert listed("nothing") == []
    assert listed("nothing/below/") == []


def test_listing_tells_size_and_age(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    entry = next(place.store.list("cryo/"))
    assert entry.bytes == 4
    assert entry.modified_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - entry.modified_at) < timedelta(minutes=1)


def test_delete_removes_and_may_be_repeated(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    place.store.delete(KEY)
    place.store.delete(KEY)
    assert list(place.store.list("")) == []


def test_missing_object_is_told_and_leaves_no_file(place: Place, tmp_path: Path) -> None:
    place.store.put(written(tmp_path, b"rows"), KEY)
    with pytest.raises(FatalError, match=r"^the object store has no cryo/2: restore it, or sync its range again$"):
        place.store.get("cryo/2", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if "back" in path.name) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "a\\b", "a\0b", "a b", "a?x=1", "x" * 1025],
)
def test_key_that_could_escape_the_root_is_refused(place: Place, tmp_path: Path, key: str) -> None:
    source = written(tmp_path, b"rows")
    before = sorted(tmp_path.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: place.store.put(source, key),
        lambda: place.store.get(key, tmp_path / "back"),
        lambda: place.store.delete(key),
        lambda: place.store.location(key),
        lambda: place.store.presign(key, 60),
    ]
    for call in calls:
        with pytest.raises(FatalError, match="an object's key is refused"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_many_threads_share_one_store(place: Place, tmp_path: Path) -> None:
    sources = [tmp_path / f"source{number}" for number in range(16)]
    for number, source in enumerate(sources):
        source.write_bytes(bytes([number]) * 100_000)

    def round_trip(number: int) -> bool:
        back = tmp_path / f"back{number}"
        place.store.put(sources[number], f"cryo/{number}")
        place.store.get(f"cryo/{number}", back)
        return back.read_bytes() == sources[number].read_bytes()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(16)))
    assert len(list(place.store.list("cryo/"))) == 16


def test_many_writers_of_one_object_agree(place: Place, tmp_path: Path) -> None:
    source = written(tmp_path, os.urandom(MIB))
    with ThreadPoolExecutor(8) as pool:
        puts = [pool.submit(place.store.put, source, KEY) for _ in range(8)]
    assert [put.result() for put in puts] == [None] * 8
    assert place.read(KEY) == source.read_bytes()


# --- a disk -------------------------------------------------------------------------------------------------------


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    opened = open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
    opened.put(written(tmp_path, b"rows"), KEY)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "objects").rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "objects").rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})
    assert opened.location(KEY) == opened.presign(KEY, 60) == str(tmp_path / "objects" / KEY)


def test_directory_with_odd_characters_is_a_root(tmp_path: Path) -> None:
    root = tmp_path / "my objects #1%20"
    opened = open_store(root.as_uri(), data_dir=tmp_path)
    opened.put(written(tmp_path, b"rows"), KEY)
    assert (root / KEY).read_bytes() == b"rows"


def test_writer_that_is_killed_leaves_nothing_to_see(tmp_path: Path) -> None:
    """The child stops between writing the content and giving it its name."""
    source = written(tmp_path, os.urandom(MIB))
    root = tmp_path / "objects"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom trace_ray.storage import open_store\n"
        "root, source, key = sys.argv[1:]\n"
        "store = open_store(Path(root).as_uri(), data_dir=Path(root))\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "store.put(Path(source), key)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(root), str(source), KEY], check=False, timeout=60)
    assert ended.returncode == -9
    opened = open_store(root.as_uri(), data_dir=tmp_path)
    assert list(opened.list("")) == []
    part = next((root / ".incoming").iterdir())
    day_ago = time.time() - 25 * 3600
    os.utime(part, (day_ago, day_ago))
    open_store(root.as_uri(), data_dir=tmp_path)
    assert not part.exists()


def test_link_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    opened = open_store(root.as_uri(), data_dir=tmp_path)
    (tmp_path / "outside").mkdir()
    (root / "cryo").symlink_to(tmp_path / "outside")
    with pytest.raises(FatalError, match="a link leads out of the object store"):
        opened.put(written(tmp_path, b"rows"), "cryo/a")


def test_directory_elsewhere_must_exist(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    with pytest.raises(FatalError, match="the directory of TRACE_OBJECT_STORE does not exist: create or mount it"):
        open_store(mount.as_uri(), data_dir=tmp_path / "data")
    assert not mount.exists()
    mount.mkdir()
    assert isinstance(open_store(mount.as_uri(), data_dir=tmp_path / "data"), FileStore)


# --- a bucket -----------------------------------------------------------------------------------------------------


def test_presigned_url_reads_one_object_without_credentials(s3_server: S3Server, tmp_path: Path) -> None:
    opened = s3(s3_server, tmp_path)
    opened.put(written(tmp_path, b"rows"), KEY)
    url = opened.presign(KEY, 60)
    assert httpx.get(url).content == b"rows"
    assert httpx.get(url.partition("?")[0]).status_code in REFUSED
    assert httpx.get(url.replace("blocks_0_199", "blocks_0_200")).status_code == 403
    assert httpx.put(url, content=b"other").status_code == 403
    assert s3_server.secret_key not in url
    opened.close()


def test_presigned_url_expires(s3_server: S3Server, tmp_path: Path) -> None:
    opened = s3(s3_server, tmp_path)
    opened.put(written(tmp_path, b"rows"), KEY)
    url = opened.presign(KEY, 4)
    assert httpx.get(url).content == b"rows"
    wait_until(lambda: httpx.get(url).status_code in REFUSED, what="the end of a presigned URL", timeout_s=20)
    opened.close()


def test_location_in_a_bucket_is_an_s3_url(s3_server: S3Server, tmp_path: Path) -> None:
    assert s3(s3_server, tmp_path, prefix="p").location(KEY) == f"s3://{s3_server.bucket}/p/{KEY}"
    assert s3(s3_server, tmp_path, prefix="").location(KEY) == f"s3://{s3_server.bucket}/{KEY}"


def test_long_listing_is_read_to_its_end(s3_server: S3Server, tmp_path: Path) -> None:
    base = f"{s3_server.bucket}/some/prefix/cryo"
    client(s3_server).pipe({f"{base}/{number}": b"" for number in range(1_100)})  # a page has 1,000
    assert len({entry.key for entry in s3(s3_server, tmp_path).list("cryo/")}) == 1_100


def every_call(opened: ObjectStore, directory: Path) -> list[Callable[[], object]]:
    source = written(directory, b"rows")
    return [
        lambda: opened.put(source, KEY),
        lambda: opened.put(source, "plain"),
        lambda: opened.get(KEY, directory / "back"),
        lambda: list(opened.list("cryo/")),
        lambda: opened.delete(KEY),
    ]


def test_wrong_credentials_are_fatal_and_not_shown(s3_server: S3Server, tmp_path: Path) -> None:
    opened = s3(s3_server, tmp_path, secret="not-the-secret")
    for call in every_call(opened, tmp_path):
        with pytest.raises(FatalError, match="does not know these credentials: mend AWS_ACCESS_KEY_ID") as caught:
            call()
        assert s3_server.access_key not in str(caught.value)
    opened.close()


def test_missing_credentials_are_fatal(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    opened = open_store(f"s3://{s3_server.bucket}", data_dir=tmp_path, s3_endpoint=s3_server.endpoint)
    with pytest.raises(FatalError, match="there are no S3 credentials: set AWS_ACCESS_KEY_ID"):
        opened.put(written(tmp_path, b"rows"), KEY)


def test_unknown_profile_is_fatal(s3_server: S3Server, tmp_path: Path) -> None:
    nobody = S3Credentials(profile="nobody")
    opened = open_store(f"s3://{s3_server.bucket}", data_dir=tmp_path, s3_endpoint=s3_server.endpoint, s3=nobody)
    with pytest.raises(FatalError, match="there are no S3 credentials"):
        opened.put(written(tmp_path, b"rows"), KEY)


def test_missing_bucket_is_fatal(s3_server: S3Server, tmp_path: Path) -> None:
    elsewhere = S3Server(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, "no-such-bucket")
    opened = s3(elsewhere, tmp_path)
    for call in every_call(opened, tmp_path)[:4]:
        with pytest.raises(FatalError, match="the bucket of TRACE_OBJECT_STORE does not exist: create it"):
            call()
    opened.close()


def test_server_that_stops_and_returns_is_found_again(tmp_path: Path) -> None:
    """A stopped server is no reason to give up a range: the ledger tries again, with the same store."""
    (tmp_path / "root" / "bucket").mkdir(parents=True)
    server = S3Server(f"http://127.0.0.1:{free_port()}", "access-key", "secret-key", "bucket")
    opened = s3(server, tmp_path)
    process = rclone(server, tmp_path / "root")
    try:
        opened.put(written(tmp_path, b"rows"), KEY)
        process.terminate()
        process.wait(10)
        with pytest.raises(StoreUnavailable, match="the object store does not answer") as caught:
            opened.put(written(tmp_path, b"rows"), KEY)
        assert "127.0.0.1" not in str(caught.value)
        process = rclone(server, tmp_path / "root")
        opened.get(KEY, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"rows"
    finally:
        opened.close()
        process.terminate()
        process.wait(10)


def rclone(server: S3Server, root: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", str(root)]
    keys = ["--auth-key", f"{server.access_key},{server.secret_key}", "--addr", server.endpoint.removeprefix("http://")]
    process = subprocess.Popen([*command, *keys], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return httpx.get(server.endpoint).status_code < 500
        except httpx.TransportError:
            return False

    wait_until(answers, what="the S3 server")
    return process
