"""A stack on a bucket: the same command line, and a shell that knows nothing of the bucket reads from it."""

import pytest

from tests import truth
from tests.acceptance.conftest import Cli
from tests.conftest import Replay, S3Server

pytestmark = pytest.mark.slow


def test_a_stack_on_s3_syncs_and_answers(stack: Cli, replay: Replay, s3_server: S3Server) -> None:
    stack.environment |= {
        "TRACE_ENGINE": "native",
        "TRACE_RPC_POOL_STANDARD_URLS": replay.url,
        "TRACE_OBJECT_STORE": f"s3://{s3_server.bucket}/lake",
        "TRACE_S3_ENDPOINT": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    stack.run("sync", "-f", str(stack.job("bucket", end=64)))
    stack.environment = {"TRACE_WORKERS": "2", "TRACE_HTTP_PORT": "0"}
    wanted = truth.rows(replay.url, 0, 64)["transactions"]
    found = stack.query(
        "SELECT transaction_hash, value_string FROM bucket_transactions ORDER BY block_number, transaction_index"
    )
    assert found == [["0x" + row["transaction_hash"].hex(), row["value_string"]] for row in wanted]
    assert s3_server.secret_key not in stack.run("doctor").stdout
