"""A stranger with a token and an HTTP client gets rows from the stack that `up` started, whatever the stack does
meanwhile; `down` ends the service."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from actors import runtime
from tests import truth
from tests.acceptance.asking import asking
from tests.acceptance.conftest import Cli, copied_code
from tests.conftest import Replay, free_port, new_bucket, wait_until
from trace_ray.client import Client

pytestmark = pytest.mark.slow

QUICK = "select count(*) from web_blocks"
HEAVY = "select sum(a.range * b.range) from range(40000) a, range(10000) b"  # about a second of one core
LONG = "select sum(a.range * b.range) from range(40000) a, range(25000) b"  # a second or more, far from its deadline
START_S = 120.0  # a replica takes some seconds, more on a machine with other work


@dataclass(frozen=True)
class Web:
    """A stack that serves `web_blocks` and `web_logs` over HTTP, out of a bucket."""

    stack: Cli
    url: str
    token: str = field(repr=False)
    replay: Replay = field(repr=False)

    def build(self) -> str:
        return httpx.get(f"{self.url}/healthz", timeout=60).json()["build"]

    def replicas(self) -> int:
        """Return how many processes of the service there are: starting ones have another title."""
        title = f"ray::ServeReplica:{runtime.namespace(self.stack.data_dir)}:QueryService"
        found = psutil.process_iter(["cmdline"])
        return sum((process.info["cmdline"] or [""])[0].startswith(title) for process in found)


@pytest.fixture(scope="module")
def web(stack: Cli, workspace: Path, recording: Path, s3_process: tuple[str, str, str]) -> Iterator[Web]:
    stack.code = copied_code(workspace / "code")
    replay, bucket = Replay([recording]), new_bucket(*s3_process)
    stack.environment |= {
        "TRACE_ENGINE": "native",
        "TRACE_HTTP_PORT": str(free_port()),
        "TRACE_RPC_POOL_STANDARD_URLS": replay.url,
        "TRACE_OBJECT_STORE": f"s3://{bucket.bucket}/lake",
        "TRACE_S3_ENDPOINT": bucket.endpoint,
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
    }
    stack.run("sync", "-f", str(stack.job("web", end=40)))
    token = stack.run("token", "--user", "alice").stdout.strip()
    yield Web(stack, f"http://127.0.0.1:{stack.environment['TRACE_HTTP_PORT']}", token, replay)
    replay.stop()


def test_a_stack_on_s3_answers_over_http(web: Web) -> None:
    wanted = [["0x" + row["block_hash"].hex()] for row in truth.rows(web.replay.url, 0, 40)["blocks"]]

    answer = httpx.post(
        f"{web.url}/v1/query",
        json={"sql": "select block_hash from web_blocks order by block_number"},
        headers={"Authorization": f"Bearer {web.token}"},
        timeout=60,
    )

    assert answer.json()["rows"] == wanted
    with Client(web.url, token=web.token) as client:
        table = client.query("select * from web_logs").table
        assert table.num_rows == len(truth.rows(web.replay.url, 0, 40)["logs"])
        large = client.query("select a.range as n from range(200) a, range(100) b", limit=10_000)
        assert large.truncated
        client.download(large.query_id, web.stack.data_dir / "all.parquet")
    (row,) = json.loads(web.stack.run("audit", "--limit", "1", "--json").stdout)["queries"]
    assert (row["outcome"], row["user"], row["rows"]) == ("OK", "alice", 20_000)
    refused = httpx.post(f"{web.url}/v1/query", json={"sql": "select 1"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    web.stack.run("up")
    assert httpx.get(f"{web.url}/readyz").json()["status"] == "ready"


def test_no_question_is_dropped_or_waits_while_another_build_takes_over(web: Web) -> None:
    """One client asks long questions without a pause: the old replica is in the middle of one when it goes."""
    before = web.build()
    with asking(web.url, web.token, QUICK, clients=2) as crowd, asking(web.url, web.token, LONG, clients=1) as long:
        with (web.stack.code / "query" / "app.py").open("a") as file:
            file.write("# another build\n")
        upgrading = web.stack.start("up")
        wait_until(lambda: web.replicas() > 1, what="the replica of the new build", timeout_s=START_S)
        answered = len(crowd.ends)
        wait_until(lambda: web.build() != before, what="the new build", timeout_s=START_S)
        assert len(crowd.ends) > answered + 3, "nobody waits for the new replica to start"
        _, said = upgrading.communicate(timeout=START_S)
        asked = len(crowd.ends)
        wait_until(lambda: len(crowd.ends) > asked + 20, what="answers of the new build")

    assert upgrading.returncode == 0, said
    assert set(crowd.ends) <= {200, 429}, Counter(crowd.ends)
    assert {answer.json()["rows"][0][0] for answer in crowd.answers if answer.is_success} == {40}
    assert set(long.ends) <= {200, 504}, Counter(long.ends)  # its own deadline, on a machine with other work
    assert 200 in long.ends


def test_load_adds_a_replica_and_a_full_queue_says_when_to_come_back(web: Web) -> None:
    wait_until(lambda: web.replicas() == 1, what="the end of the replicas before", timeout_s=START_S)
    with asking(web.url, web.token, HEAVY, clients=24) as crowd:
        wait_until(lambda: web.replicas() > 1 and 429 in crowd.ends, what="a second replica", timeout_s=START_S)

    assert set(crowd.ends) == {200, 429}, Counter(crowd.ends)
    for answer in crowd.answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "QUEUE_FULL"
            assert int(answer.headers["Retry-After"]) >= 1


def test_build_that_does_not_start_leaves_the_one_before_answering(web: Web) -> None:
    before, app = web.build(), web.stack.code / "query" / "app.py"
    good = app.read_text()
    app.write_text(good + "raise RuntimeError('a build that does not start')\n")
    with asking(web.url, web.token, QUICK, clients=2) as crowd:
        said = web.stack.run("up").stderr
    app.write_text(good)

    assert "the build before goes on answering" in said
    assert set(crowd.ends) == {200}, Counter(crowd.ends)
    assert web.build() == before


def test_down_ends_the_service(web: Web) -> None:
    assert "INFO" not in web.stack.run("down").stderr

    def silent() -> bool:
        try:
            httpx.get(f"{web.url}/healthz", timeout=2)
        except httpx.TransportError:
            return True
        return False

    wait_until(silent, what="the end of the query service")


def test_taken_port_is_told_and_the_stack_works(web: Web) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        web.stack.environment["TRACE_HTTP_PORT"] = str(taken.getsockname()[1])
        said = web.stack.run("up").stderr

        assert "TRACE_HTTP_PORT" in said
        assert web.stack.query(QUICK) == [[40]]
