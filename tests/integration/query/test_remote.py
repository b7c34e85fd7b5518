"""Objects behind signed URLs: the child reads them without any credential and cannot write them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import botocore.session
import pytest
from botocore.config import Config

from query import run
from query.question import Question
from query.refusals import QueryFailed
from tests.integration.query.conftest import Store
from trace_ray.errors import RefusedInput, StoreUnavailable


class Server(Protocol):
    """What the shared fixture offers."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


@pytest.fixture
def sign(s3_server: Server, store: Store) -> Callable[[str], str]:
    """Upload the chain and return what signs a key."""
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=s3_server.endpoint, aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )  # fmt: skip
    for path in store.root.rglob("*.parquet"):
        client.put_object(Bucket=s3_server.bucket, Key=str(path.relative_to(store.root)), Body=path.read_bytes())

    def signed(key: str) -> str:
        return str(client.generate_presigned_url("get_object", {"Bucket": s3_server.bucket, "Key": key}, ExpiresIn=300))

    return signed


def test_signed_objects_are_scanned_in_place(store: Store, sign: Callable[[str], str], tmp_path: Path) -> None:
    asked: list[str] = []

    def locate(key: str) -> str:
        asked.append(key)
        return sign(key)

    sql = (
        "select count(*) as n, min(block_number) as first from devnet_transactions where block_number between 25 and 34"
    )
    answer = run.once(Question(sql), store.grant, locate=locate, scratch=tmp_path / "scratch")
    assert answer.table.to_pylist() == [{"n": 30, "first": 25}]
    assert (answer.files_read, answer.files_total) == (2, 6)
    assert len(asked) == 3  # the two files, and one for the port of the store


def test_joins_read_several_signed_objects(store: Store, sign: Callable[[str], str], tmp_path: Path) -> None:
    sql = "select count(*) as n from devnet_blocks b join devnet_logs l using (block_hash)"
    answer = run.once(Question(sql), store.grant, locate=sign, scratch=tmp_path / "scratch")
    assert answer.table.to_pylist() == [{"n": 120}]


def test_no_error_shows_a_signed_url(store: Store, sign: Callable[[str], str], tmp_path: Path) -> None:
    def broken(key: str) -> str:
        return sign(key).replace("Signature=", "Signature=0")

    for sql, locate in [("from devnet_blocks", broken), ("select filename from devnet_blocks", sign),
                        ("select nosuch from devnet_blocks", sign)]:  # fmt: skip
        with pytest.raises((RefusedInput, StoreUnavailable)) as caught:
            run.once(Question(sql), store.grant, locate=locate, scratch=tmp_path / "scratch")
        assert "http" not in str(caught.value)
        assert "Signature" not in str(caught.value)


def test_wrong_signature_is_an_error_of_the_store(store: Store, sign: Callable[[str], str], tmp_path: Path) -> None:
    def broken(key: str) -> str:
        return sign(key).replace("Signature=", "Signature=0")

    with pytest.raises(StoreUnavailable):
        run.once(Question("from devnet_blocks"), store.grant, locate=broken, scratch=tmp_path / "scratch")


def test_filename_does_not_resolve_over_signed_objects(
    store: Store, sign: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(QueryFailed):
        run.once(Question("select filename from devnet_blocks"), store.grant, locate=sign, scratch=tmp_path / "s")
    with contextlib.suppress(FileNotFoundError):
        assert list((tmp_path / "s").iterdir()) == []
