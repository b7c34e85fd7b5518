"""The object store: `file://` on a disk, `s3://` at any S3-compatible endpoint. Knows keys, not what they mean.

Keys are relative to the root that the URL names. An object appears whole or not at all. What may succeed later raises
`StoreUnavailable`; what a person has to mend raises `FatalError`. Both are safe to share between threads.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from trace_ray.contracts import S3Credentials
from trace_ray.errors import FatalError, ObjectMissing, StoreUnavailable, TraceError

KEY: Final = re.compile(r"[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*")
DIGEST_NAMED: Final = re.compile(r"\.[0-9a-f]{32,128}\.[a-z]+$")  # a name that holds its content's digest
MAX_KEY: Final = 1024  # bytes; S3's limit
INCOMING: Final = ".incoming"  # half-written files, on the root's own file system so that a rename is atomic
INCOMING_KEPT_S: Final = 24 * 3600.0  # a put that takes longer than a day is dead
PART_BYTES: Final = 16 * 1024**2
PARTS_AT_ONCE: Final = 4  # 64 MiB of memory per upload
MAX_PRESIGN_S: Final = 7 * 24 * 3600  # limit of S3's signature version 4
S3_CONFIG: Final[Mapping[str, object]] = {
    "signature_version": "s3v4",
    "connect_timeout": 5,
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 3},  # the ledger tries again later
    "max_pool_connections": 32,
}
BAD_CREDENTIALS: Final = "the object store does not know these credentials: mend AWS_ACCESS_KEY_ID and its secret"
EXPIRED: Final = "the S3 session has expired: set fresh AWS credentials and run `trace-ray up`"
NO_RIGHT: Final = (
    "the object store refuses these credentials: allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
)
OTHER_REGION: Final = "the bucket is in another region: set AWS_REGION"
SKEWED: Final = "RequestTimeTooSkewed"  # of one machine: the ranges are not to blame, and others may upload them
MISSING: Final = ("NoSuchKey", "404")
REFUSALS: Final[Mapping[str, str]] = {  # by S3's error code
    "NoSuchBucket": "the bucket of TRACE_OBJECT_STORE does not exist: create it, or mend the setting",
    "InvalidAccessKeyId": BAD_CREDENTIALS,
    "SignatureDoesNotMatch": BAD_CREDENTIALS,
    "InvalidToken": BAD_CREDENTIALS,
    "ExpiredToken": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
    "AccessDenied": NO_RIGHT,
    "AllAccessDisabled": NO_RIGHT,
    "403": NO_RIGHT,
    "PermanentRedirect": OTHER_REGION,
    "AuthorizationHeaderMalformed": OTHER_REGION,
    "IllegalLocationConstraintException": OTHER_REGION,
    "301": OTHER_REGION,
}
COMPATIBLE: Final[Mapping[str, object]] = {  # endpoints other than AWS: what all of them understand
    "s3": {"addressing_style": "path"},
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing."""

    key: str
    bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    """Our border with a disk or a bucket."""

    def put(self, path: Path, key: str) -> None:
        """Store a file. An object of the same size under a name that holds a digest is left as it is."""
        ...

    def get(self, key: str, path: Path) -> None:
        """Copy an object to `path`, whole or not at all.

        Raises:
            ObjectMissing
        """
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`, in no order."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def location(self, key: str) -> str:
        """Return what DuckDB reads: an absolute path, or an s3:// URL."""
        ...

    def presign(self, key: str, expires_s: float) -> str:
        """Return a URL that reads this object without credentials for so long; of a file, its path."""
        ...

    def close(self) -> None:
        """Let go of connections. The store is not used afterwards."""
        ...


def open_store(
    url: str, *, data_dir: Path, s3_endpoint: str | None = None, s3: S3Credentials | None = None
) -> ObjectStore:
    """Open the store that a URL names: `file:///PATH` or `s3://BUCKET/PREFIX`. Does not talk to a bucket yet.

    A directory inside `data_dir` is created. One elsewhere must exist: it may be a mount that is not there yet, and
    what is written in its place would be lost to sight.

    Raises:
        FatalError: the directory does not exist.
        StoreUnavailable: the disk refuses.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint=s3_endpoint, credentials=s3)
    root = Path(unquote(parts.path))
    if not root.is_dir() and not root.is_relative_to(data_dir):
        raise FatalError("the directory of TRACE_OBJECT_STORE does not exist: create or mount it")
    return FileStore(root)


def _check_key(key: str) -> str:
    if not KEY.fullmatch(key) or {".", ".."} & set(key.split("/")) or key.startswith(INCOMING) or len(key) > MAX_KEY:
        raise FatalError("an object's key is refused: it must be a relative path of plain names")
    return key


# --- a disk -------------------------------------------------------------------------------------------------------


class FileStore:
    """Objects as files of one directory, readable by their owner alone."""

    def __init__(self, root: Path) -> None:
        with _disk_errors():
            root.parent.mkdir(parents=True, exist_ok=True)
            _make_directories(root)
            self._root = root.resolve()
            self._incoming = self._root / INCOMING
            _make_directories(self._incoming)
            self._drop_old_parts()

    def put(self, path: Path, key: str) -> None:
        target = self._path(key)
        size = path.stat().st_size
        part = self._incoming / str(uuid4())
        with _disk_errors():
            if DIGEST_NAMED.search(key) and target.is_file() and target.stat().st_size == size:
                return
            try:
                _copy(path, part)
                _make_directories(target.parent)
                part.replace(target)
                _sync_directory(target.parent)
            finally:
                part.unlink(missing_ok=True)

    def get(self, key: str, path: Path) -> None:
        source = self._path(key)
        with _disk_errors():
            if not source.is_file():
                raise _missing(key)
            _arrive_whole(path, lambda part: _copy(source, part))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        start = self._path(prefix.rstrip("/")) if prefix else self._root
        top = start if prefix.endswith("/") or not prefix else start.parent
        with _disk_errors():
            for folder, folders, names in os.walk(top):
                if Path(folder) == self._root and INCOMING in folders:
                    folders.remove(INCOMING)
                for name in names:
                    file = Path(folder, name)
                    key = file.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and (found := _stored(key, file)):
                        yield found

    def delete(self, key: str) -> None:
        with _disk_errors():
            self._path(key).unlink(missing_ok=True)

    def location(self, key: str) -> str:
        return str(self._path(key))

    def presign(self, key: str, expires_s: float) -> str:
        return self.location(key)

    def close(self) -> None:
        """Nothing is held."""

    def _path(self, key: str) -> Path:
        """Return the file of a key; a link inside the root must not lead out of it."""
        path = self._root / _check_key(key)
        if not path.parent.resolve().is_relative_to(self._root):
            raise FatalError("an object's key is refused: a link leads out of the object store")
        return path

    def _drop_old_parts(self) -> None:
        for part in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # its own put has just finished
                if part.stat().st_mtime < time.time() - INCOMING_KEPT_S:
                    part.unlink()


def _make_directories(directory: Path) -> None:
    """Create what is missing, private, so that it survives a power cut."""
    missing = [directory, *directory.parents]
    missing = [one for one in missing if not one.is_dir()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(one.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
        shutil.copyfileobj(reader, writer, PART_BYTES)
        writer.flush()
        os.fsync(writer.fileno())


def _arrive_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then give it its name."""
    part = path.with_name(f".{path.name}.{uuid4()}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _stored(key: str, file: Path) -> StoredObject | None:
    """Return a file's entry of a listing, or None when it was deleted meanwhile."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return None
    return StoredObject(key, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))


@contextmanager
def _disk_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise _of_disk(error) from error


def _of_disk(error: OSError) -> TraceError:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StoreUnavailable("the disk of the object store is full: free some space")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return FatalError("the object store's directory refuses us: give its owner the right to read and write")
        case _:
            return StoreUnavailable(f"the disk of the object store fails ({type(error).__name__}): look at the disk")


def _missing(key: str) -> ObjectMissing:
    return ObjectMissing(f"the object store has no {key}: restore it, or sync its range again")


# --- a bucket -----------------------------------------------------------------------------------------------------


class S3Store:
    """Objects in a bucket. s3fs runs its calls on one thread of its own, so that any thread may wait for them."""

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None, credentials: S3Credentials | None) -> None:
        who = credentials or S3Credentials()
        region = who.region or ("us-east-1" if endpoint else None)  # other stores ignore it, signatures need one
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        import s3fs  # late: a quarter of a second that a store on a disk does not need

        with _s3_errors():
            self._client: Any = cast(Any, s3fs).S3FileSystem(  # untyped
                key=who.access_key,
                secret=who.secret_key,
                token=who.session_token,
                profile=who.profile,
                endpoint_url=endpoint,
                client_kwargs={"region_name": region} if region else {},
                config_kwargs={**S3_CONFIG, **(COMPATIBLE if endpoint else {})},
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        self._client.retries = 1  # botocore retries already

    def put(self, path: Path, key: str) -> None:
        size = path.stat().st_size
        with _s3_errors(key):
            if DIGEST_NAMED.search(key) and self._size(key) == size:
                return
            self._client.put_file(str(path), self._address(key), chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def get(self, key: str, path: Path) -> None:
        address = self._address(key)
        with _s3_errors(key):
            _arrive_whole(path, lambda part: self._client.get_file(address, str(part)))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        if prefix:
            _check_key(prefix.rstrip("/"))
        place = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        token: dict[str, str] = {}
        while True:
            with _s3_errors():
                page = cast(dict[str, Any], self._client.call_s3("list_objects_v2", **place, **token))
            for entry in page.get("Contents", []):
                key, modified_at = entry["Key"].removeprefix(self._prefix), entry["LastModified"].astimezone(UTC)
                yield StoredObject(key, entry["Size"], modified_at)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        with _s3_errors(key):
            self._client.call_s3("delete_object", **self._place(key))

    def location(self, key: str) -> str:
        return f"s3://{self._address(key)}"

    def presign(self, key: str, expires_s: float) -> str:
        with _s3_errors(key):
            return str(self._client.url(self._address(key), expires=min(int(expires_s), MAX_PRESIGN_S)))

    def close(self) -> None:
        self._client = None  # s3fs closes its connections with the last reference

    def _size(self, key: str) -> int | None:
        """Return the size of an object, or None where none can be seen: without ListBucket a missing one is refused."""
        try:
            return int(self._client.call_s3("head_object", **self._place(key))["ContentLength"])
        except (FileNotFoundError, PermissionError):
            return None

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + _check_key(key)}

    def _address(self, key: str) -> str:
        return f"{self._bucket}/{self._prefix}{_check_key(key)}"


@contextmanager
def _s3_errors(key: str = "") -> Generator[None]:
    try:
        yield
    except (OSError, BotoCoreError, ClientError) as error:
        raise _of_s3(error, key) from error


def _of_s3(error: Exception, key: str) -> TraceError:
    """Sort an error by its S3 code. No text of the server travels: it may quote keys and hosts."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)):
        return FatalError(
            "there are no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    cause = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(cause, ClientError):
        if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
            return _of_disk(error)  # the local side of a copy
        return StoreUnavailable(f"the object store does not answer ({type(error).__name__}): look at TRACE_S3_ENDPOINT")
    response = cast(Mapping[str, Mapping[str, object]], cast(Any, cause).response)
    code = str(response.get("Error", {}).get("Code", ""))
    if code in MISSING:
        return _missing(key)
    if code == SKEWED:
        return StoreUnavailable("the object store refuses this machine's clock: set the clock")
    if code in REFUSALS:
        return FatalError(REFUSALS[code])
    return StoreUnavailable(f"the object store failed ({code or 'no code'}): it is asked again later")
