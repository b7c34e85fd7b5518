"""Bundles on a worker: real object stores, several processes, a disk that lies, a process that dies."""

import errno
import fcntl
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from unittest.mock import patch

import pytest

from actors.sandbox import store as module
from actors.sandbox.store import BundleStore, StoredBundle
from tests.bundles import FILES, NOW, Made, key, make, ring, trusted
from tests.conftest import S3Server, wait_until
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import Keyring
from trace_ray.bundle.manifest import MAX_ZIP, Language
from trace_ray.bundle.pushed import PushedBundle, object_key
from trace_ray.contracts import DEFAULT_ORG, S3Credentials
from trace_ray.errors import BundleFault, BundleRejected, DiskFull, ObjectMissing, StoreUnavailable
from trace_ray.storage import FileStore, ObjectStore, S3Store

FILLING = 200_000  # bytes of a bundle that cannot be packed


def files_of(number: int) -> dict[str, Packed]:
    return {**FILES, "data.bin": Packed(random.Random(number).randbytes(FILLING), False)}


def variant(number: int) -> Made:
    return make(files_of(number))


def pushed(made: Made) -> PushedBundle:
    said = made.manifest
    return PushedBundle(
        DEFAULT_ORG, made.digest, said.name, said.version, said.language, said.entrypoint, len(made.zip),
        made.envelope, object_key(DEFAULT_ORG, made.digest), NOW,
    )  # fmt: skip


def put(objects: ObjectStore, made: Made, directory: Path, content: bytes | None = None) -> PushedBundle:
    path = directory / "upload"
    path.write_bytes(made.zip if content is None else content)
    objects.put(path, pushed(made).key)
    return pushed(made)


def contents(stored: StoredBundle) -> dict[str, str]:
    return {
        path.relative_to(stored.directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in stored.directory.rglob("*")
        if path.is_file()
    }


def expected(made: Made) -> dict[str, str]:
    return {file.path: file.digest for file in made.manifest.files}


def fault(run: Callable[[], object]) -> BundleFault:
    with pytest.raises(BundleRejected) as caught:
        run()
    return caught.value.code


def visible(root: Path) -> list[str]:
    """Return what is stored; whatever is on its way must have gone."""
    assert list((root / "staging").iterdir()) == []
    return sorted(entry.name for entry in root.glob("??/*"))


@pytest.fixture
def objects(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "objects")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundles(root: Path, objects: FileStore) -> BundleStore:
    return BundleStore(root, objects)


def use(bundles: BundleStore, bundle: PushedBundle, keyring: Keyring | None = None) -> dict[str, str]:
    with bundles.use(bundle, keyring or ring()) as stored:
        return contents(stored)


# --- one process --------------------------------------------------------------------------------------------------


def test_a_bundle_is_fetched_once_and_used_often(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    assert use(bundles, bundle) == expected(made)
    objects.delete(bundle.key)
    assert use(bundles, bundle) == expected(made)
    assert use(BundleStore(root, objects), bundle) == expected(made)
    assert visible(root) == [made.digest]
    entry = root / made.digest[:2] / made.digest
    modes = {path.lstat().st_mode & 0o777 for path in (entry, *entry.rglob("*")) if path.name != "bytes"}
    assert modes == {0o444, 0o555}
    assert root.stat().st_mode & 0o777 == 0o755


def test_a_bundle_comes_from_a_bucket_too(s3_server: S3Server, root: Path, tmp_path: Path) -> None:
    objects = S3Store(
        s3_server.bucket, "prefix", endpoint=s3_server.endpoint,
        credentials=S3Credentials(access_key=s3_server.access_key, secret_key=s3_server.secret_key),
    )  # fmt: skip
    made = variant(1)
    bundles = BundleStore(root, objects)
    with pytest.raises(ObjectMissing):
        use(bundles, pushed(made))
    assert visible(root) == []
    assert use(bundles, put(objects, made, tmp_path)) == expected(made)
    objects.close()


def test_what_the_object_store_holds_instead_is_rejected(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    with pytest.raises(ObjectMissing):
        use(bundles, pushed(made))
    for content in (variant(2).zip, b"", made.zip + b"x", made.zip[:-1]):
        bundle = put(objects, made, tmp_path, content)
        assert fault(lambda bundle=bundle: use(bundles, bundle)) is BundleFault.SHA_MISMATCH
    put(objects, made, tmp_path, bytes(MAX_ZIP + 1))
    with patch.object(objects, "get", side_effect=AssertionError("it is not even fetched")):
        assert fault(lambda: use(bundles, bundle)) is BundleFault.SIZE
    assert visible(root) == []
    assert use(bundles, put(objects, made, tmp_path)) == expected(made)


def test_the_pin_is_a_digest_and_never_a_path(bundles: BundleStore) -> None:
    for digest in ("../../etc", "", "A" * 64):
        bundle = replace(pushed(variant(1)), digest=digest)
        assert fault(lambda bundle=bundle: use(bundles, bundle)) is BundleFault.SHA_MISMATCH


def test_keys_are_looked_at_again_though_the_bundle_is_stored(
    bundles: BundleStore, objects: FileStore, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    assert use(bundles, bundle) == expected(made)
    for keyring, code in (
        (ring(trusted(key(), revoked=True)), BundleFault.SIG_REVOKED),
        (ring(trusted(key(), not_after=NOW)), BundleFault.SIG_EXPIRED),
        (ring(trusted(key(2))), BundleFault.SIG_UNTRUSTED_KEY),
        (ring(trusted(key(), languages=frozenset({Language.NODE}))), BundleFault.SIG_LANGUAGE),
    ):
        assert fault(lambda keyring=keyring: use(bundles, bundle, keyring)) is code
    other = replace(bundle, envelope=variant(2).envelope)
    assert fault(lambda: use(bundles, other)) is BundleFault.SUBJECT_MISMATCH
    assert use(bundles, bundle) == expected(made)


def test_a_bundle_with_another_file_than_signed_leaves_nothing(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    swapped = make(files_of(1), data=variant(2).zip)  # the same names and sizes
    assert fault(lambda: use(bundles, put(objects, swapped, tmp_path))) is BundleFault.FILE_SHA_MISMATCH
    assert visible(root) == []


# --- the disk -----------------------------------------------------------------------------------------------------


def rewrite(path: Path, content: bytes) -> None:
    """Change a file as somebody with the right to would, without a trace in its mode."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def test_what_was_changed_on_the_disk_is_not_used(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    use(bundles, bundle)
    entry = root / made.digest[:2] / made.digest
    handler = entry / "files/handler.py"
    evil = b"X" + FILES["handler.py"].content[1:]
    damages: list[Callable[[], object]] = [
        lambda: rewrite(handler, evil),
        lambda: rewrite(entry / "bundle.zip", variant(2).zip),
        lambda: rewrite(entry / "bundle.zip", bytes(MAX_ZIP + 1)),
        lambda: handler.chmod(0o644),
        lambda: (entry.chmod(0o755), shutil.move(entry / "bundle.zip", tmp_path / "gone")),
        lambda: (entry.joinpath("files").chmod(0o755), handler.unlink(), handler.symlink_to("/etc/passwd")),
        lambda: (entry.joinpath("files").chmod(0o755), entry.joinpath("files/sitecustomize.py").touch()),
    ]
    for damage in damages:
        damage()
        assert use(bundles, bundle) == expected(made)
        assert visible(root) == [made.digest]


def test_a_large_bundle_is_hashed_once_and_its_sizes_are_looked_at(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    handler = root / made.digest[:2] / made.digest / "files/handler.py"
    with patch.object(module, "REHASHED", 1000):
        use(bundles, bundle)
        rewrite(handler, b"X" + FILES["handler.py"].content[1:])
        assert use(bundles, bundle) != expected(made)  # what the limit means
        rewrite(handler, b"shorter")
        assert use(bundles, bundle) == expected(made)


def test_a_full_disk_and_one_that_fails_are_told_and_leave_nothing(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    for number, told in ((errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StoreUnavailable)):

        def half(verified: object, directory: Path, *, sync: bool, number: int = number) -> None:
            directory.mkdir()
            (directory / "handler.py").write_bytes(b"half")
            raise OSError(number, os.strerror(number))

        with patch.object(module, "extract", half), pytest.raises(told):
            use(bundles, bundle)
        assert visible(root) == []
    assert use(bundles, bundle) == expected(made)


# --- room ---------------------------------------------------------------------------------------------------------


def test_the_bundle_used_longest_ago_is_dropped_and_never_one_in_use(
    objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = [variant(number) for number in range(4)]
    held = [put(objects, one, tmp_path) for one in made]
    digests = [one.digest for one in made]
    bundles = BundleStore(root, objects, capacity=int(2.5 * (len(made[0].zip) + made[0].manifest.total)))
    for number in (0, 1, 0, 2):
        use(bundles, held[number])
    assert visible(root) == sorted([digests[0], digests[2]])
    with bundles.use(held[0], ring()) as first, bundles.use(held[2], ring()) as second:
        for number in (1, 3):
            assert use(bundles, held[number]) == expected(made[number])
            assert contents(first) == expected(made[0])
            assert contents(second) == expected(made[2])
    use(bundles, held[1])
    assert len(visible(root)) == 2
    assert digests[1] in visible(root)
    assert sorted(lock.name for lock in (root / "locks").iterdir()) == visible(root)
    (root / digests[1][:2] / digests[1]).chmod(0o755)
    (root / digests[1][:2] / digests[1] / "bytes").unlink()  # as a power cut may do
    use(bundles, held[0])
    use(bundles, held[2])
    assert visible(root) == sorted([digests[0], digests[2]])


def test_a_bundle_larger_than_the_store_can_be_used(objects: FileStore, root: Path, tmp_path: Path) -> None:
    made = variant(1)
    bundles = BundleStore(root, objects, capacity=1)
    assert use(bundles, put(objects, made, tmp_path)) == expected(made)
    assert use(bundles, pushed(made)) == expected(made)


# --- several processes --------------------------------------------------------------------------------------------


def _use_at_random(root: Path, store: Path, seed: int, start: Barrier) -> None:
    made = [variant(number) for number in range(3)]
    bundles = BundleStore(root, FileStore(store), capacity=int(1.5 * (len(made[0].zip) + made[0].manifest.total)))
    chance = random.Random(seed)
    start.wait()
    for _ in range(10):
        chosen = chance.sample(made, chance.choice((1, 2)))
        with ExitStack() as held:
            found = [held.enter_context(bundles.use(pushed(one), ring())) for one in chosen]
            for one, stored in zip(chosen, found, strict=True):
                assert contents(stored) == expected(one)


def test_processes_share_a_store_that_is_too_small_for_all(objects: FileStore, root: Path, tmp_path: Path) -> None:
    for number in range(3):
        put(objects, variant(number), tmp_path)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [
        context.Process(target=_use_at_random, args=(root, tmp_path / "objects", seed, start)) for seed in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3
    assert set(visible(root)) <= {variant(number).digest for number in range(3)}


def openings(path: Path) -> int:
    """Return how often this process has a file open."""
    links = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    return sum(os.path.realpath(link) == str(path) for link in links)


def test_whoever_waited_for_a_lock_that_was_dropped_waits_for_the_new_one(
    objects: FileStore, root: Path, tmp_path: Path
) -> None:
    """Else one process would use a bundle that another one is making or dropping."""
    bundle = put(objects, variant(1), tmp_path)
    bundles = BundleStore(root, objects, lock_s=2.0)
    use(bundles, bundle)
    path = root / "locks" / bundle.digest
    ended: list[Exception | None] = []

    def wait() -> None:
        try:
            use(bundles, bundle)
            ended.append(None)
        except StoreUnavailable as error:
            ended.append(error)

    with path.open("r+") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_until(lambda: openings(path) == 2, what="the waiter at the old lock")
        path.unlink()
        new = path.open("w")
        fcntl.flock(new, fcntl.LOCK_EX)
    waiter.join(30)
    new.close()
    assert isinstance(ended[0], StoreUnavailable)


class _Stalling(FileStore):
    def get(self, key: str, path: Path) -> None:
        path.write_bytes(b"half")
        signal.pause()


def _stall(root: Path, store: Path) -> None:
    use(BundleStore(root, _Stalling(store)), pushed(variant(1)))


def test_a_process_killed_while_it_fetches_holds_up_nobody(
    bundles: BundleStore, objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = variant(1)
    bundle = put(objects, made, tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=_stall, args=(root, tmp_path / "objects"))
    process.start()
    wait_until(lambda: any((root / "staging").glob("*/bundle.zip")), what="half a bundle")
    with pytest.raises(StoreUnavailable, match="another process"):
        use(BundleStore(root, objects, lock_s=0.1), bundle)
    process.kill()
    process.join()
    assert use(bundles, bundle) == expected(made)
    (left,) = (root / "staging").iterdir()
    BundleStore(root, objects)
    assert left.exists(), "it is young: its process may live"
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    BundleStore(root, objects)
    assert visible(root) == [made.digest]


def _use_for_ever(root: Path, store: Path, made: list[Made], begun: Event) -> None:
    bundles = BundleStore(root, FileStore(store), capacity=1)
    for one in itertools.cycle(made):
        use(bundles, pushed(one))
        begun.set()


def test_a_process_killed_at_any_moment_leaves_nothing_that_is_used(
    objects: FileStore, root: Path, tmp_path: Path
) -> None:
    made = [variant(number) for number in range(3)]
    for one in made:
        put(objects, one, tmp_path)
    context = multiprocessing.get_context("spawn")
    chance = random.Random(1)
    for _ in range(4):
        begun = context.Event()
        process = context.Process(target=_use_for_ever, args=(root, tmp_path / "objects", made, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(chance.uniform(0, 0.2))  # somewhere between a fetch and a drop
        process.kill()
        process.join()
        for one in made:
            assert use(BundleStore(root, objects), pushed(one)) == expected(one)


def _as_nobody(root: Path, store: Path, made: Made, other: Made) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    bundles = BundleStore(root, FileStore(store), capacity=1)
    for one in (made, other, made):
        assert use(bundles, pushed(one)) == expected(one)


def test_a_plain_user_can_store_and_drop(workspace: Path) -> None:
    """Root may rename and remove directories that nobody can write; a plain user may not."""
    place = workspace / "plain-user"
    place.mkdir()
    made, other = variant(1), variant(2)
    for one in (made, other):
        put(FileStore(place / "objects"), one, place)
    if os.geteuid() == 0:
        for path in (place, *place.rglob("*")):
            os.chown(path, 65534, 65534)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_as_nobody, args=(place / "store", place / "objects", made, other))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert visible(place / "store") == [made.digest]
