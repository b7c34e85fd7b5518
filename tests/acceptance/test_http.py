"""A stranger with a token and an HTTP client gets rows from the stack that `up` started; `down` ends the service."""

import json

import httpx
import pytest

from tests import truth
from tests.acceptance.conftest import Cli
from tests.conftest import Replay, S3Server, free_port, wait_until
from trace_ray.client import Client

pytestmark = pytest.mark.slow


def test_a_stack_on_s3_answers_over_http(stack: Cli, replay: Replay, s3_server: S3Server) -> None:
    port = free_port()
    stack.environment |= {
        "TRACE_ENGINE": "native",
        "TRACE_HTTP_PORT": str(port),
        "TRACE_RPC_POOL_STANDARD_URLS": replay.url,
        "TRACE_OBJECT_STORE": f"s3://{s3_server.bucket}/lake",
        "TRACE_S3_ENDPOINT": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    stack.run("sync", "-f", str(stack.job("web", end=40)))
    url = f"http://127.0.0.1:{port}"
    token = stack.run("token", "--user", "alice").stdout.strip()
    wanted = [["0x" + row["block_hash"].hex()] for row in truth.rows(replay.url, 0, 40)["blocks"]]

    answer = httpx.post(
        f"{url}/v1/query",
        json={"sql": "select block_hash from web_blocks order by block_number"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )

    assert answer.json()["rows"] == wanted
    with Client(url, token=token) as client:
        table = client.query("select * from web_logs").table
        assert table.num_rows == len(truth.rows(replay.url, 0, 40)["logs"])
        large = client.query("select a.range as n from range(200) a, range(100) b", limit=10_000)
        assert large.truncated
        client.download(large.query_id, stack.data_dir / "all.parquet")
    (row,) = json.loads(stack.run("audit", "--limit", "1", "--json").stdout)["queries"]
    assert (row["outcome"], row["user"], row["rows"]) == ("OK", "alice", 20_000)
    refused = httpx.post(f"{url}/v1/query", json={"sql": "select 1"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    stack.run("up")
    assert httpx.get(f"{url}/readyz").json()["status"] == "ready"


def test_down_ends_the_service(stack: Cli) -> None:
    port = int(stack.environment["TRACE_HTTP_PORT"])
    stack.run("down")

    def silent() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
        except httpx.TransportError:
            return True
        return False

    wait_until(silent, what="the end of the query service")


def test_taken_port_is_told_and_the_stack_works(stack: Cli, s3_server: S3Server) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack.environment["TRACE_HTTP_PORT"] = str(taken.getsockname()[1])
        said = stack.run("up").stderr

        assert "TRACE_HTTP_PORT" in said
        assert stack.query("select count(*) from web_blocks") == [[40]]
