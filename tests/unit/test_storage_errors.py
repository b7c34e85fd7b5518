"""How the object store sorts errors: what may succeed later, and what a person has to mend."""

import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from trace_ray import storage
from trace_ray.errors import FatalError, ObjectMissing, StoreUnavailable, TraceError

SECRET = "9f8e7d6c5b4a3928"
HOST = f"http://{SECRET}.example"


def answered(code: str) -> OSError:
    """An error as s3fs raises it: its cause is what the server answered."""
    answer = {"Error": {"Code": code, "Message": f"{SECRET} at {HOST}"}}
    error = OSError(f"{SECRET} at {HOST}")
    error.__cause__ = ClientError(answer, "PutObject")
    return error


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, StoreUnavailable, "free some space"),
        (errno.EDQUOT, StoreUnavailable, "free some space"),
        (errno.EIO, StoreUnavailable, "look at the disk"),
        (errno.EROFS, FatalError, "right to read and write"),
        (errno.EACCES, FatalError, "right to read and write"),
    ],
)
def test_error_of_a_disk_is_sorted_and_names_no_path(number: int, kind: type[TraceError], advice: str) -> None:
    error = storage._of_disk(OSError(number, "text", f"/srv/{SECRET}"))
    assert type(error) is kind
    assert advice in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        ("SlowDown", StoreUnavailable, "asked again later"),
        ("ServiceUnavailable", StoreUnavailable, "asked again later"),
        ("InternalError", StoreUnavailable, "asked again later"),
        ("SomethingNew", StoreUnavailable, "asked again later"),
        ("NoSuchBucket", FatalError, "create it, or mend the setting"),
        ("AccessDenied", FatalError, "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"),
        ("403", FatalError, "allow s3:GetObject"),
        ("InvalidAccessKeyId", FatalError, "mend AWS_ACCESS_KEY_ID and its secret"),
        ("SignatureDoesNotMatch", FatalError, "mend AWS_ACCESS_KEY_ID and its secret"),
        ("ExpiredToken", FatalError, "set fresh AWS credentials and run `trace-ray up`"),
        ("PermanentRedirect", FatalError, "set AWS_REGION"),
        ("RequestTimeTooSkewed", StoreUnavailable, "set the clock"),
        ("NoSuchKey", ObjectMissing, "has no cryo/1: restore it"),
    ],
)
def test_answer_of_a_bucket_is_sorted_and_not_quoted(code: str, kind: type[TraceError], advice: str) -> None:
    error = storage._of_s3(answered(code), "cryo/1")
    assert type(error) is kind
    assert advice in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url=HOST),
        ReadTimeoutError(endpoint_url=HOST),
        TimeoutError(HOST),
        ConnectionError(HOST),
    ],
)
def test_silence_of_a_bucket_may_end(error: Exception) -> None:
    sorted_error = storage._of_s3(error, "cryo/1")
    assert type(sorted_error) is StoreUnavailable
    assert SECRET not in str(sorted_error)


def test_full_disk_while_reading_a_bucket_is_no_fault_of_the_bucket() -> None:
    assert "disk" in str(storage._of_s3(OSError(errno.ENOSPC, "text"), "cryo/1"))
