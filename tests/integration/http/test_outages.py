"""What the service stands on fails, for real: each failure has its status, and what came back is used at once."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3fs

from state.db import connect
from tests import pg
from tests.chaos.stack_proxy import FaultyS3
from tests.conftest import S3Server, free_port, new_bucket, wait_until
from tests.integration.http.test_refusals import refused
from tests.integration.query.desk import SLOW, is_dead, workers
from tests.served import Served, publish, served, settings_for
from trace_ray.config import Settings
from trace_ray.contracts import S3Credentials
from trace_ray.lite.postgres import LocalPostgres

PEOPLE_S = 3.0  # more than a question of this module needs on a busy machine
ALL = "select count(*) from devnet_{}"
LARGE = "select range as n, md5(range::varchar) as text from range(12000)"
ENDED = (
    b"SELECT count(pg_terminate_backend(pid, 5000)) AS n FROM pg_stat_activity WHERE application_name = ANY(%s::text[])"
)
OF_SERVICE = ["trace-query", "trace-audit"]


# --- the object store ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(s3_process: tuple[str, str, str]) -> Iterator[FaultyS3]:
    made = FaultyS3(s3_process[0], seed=1)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def bucket(s3_process: tuple[str, str, str]) -> S3Server:
    return new_bucket(*s3_process)


@pytest.fixture(scope="module")
def service(
    postgres: LocalPostgres, proxy: FaultyS3, bucket: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The service on a bucket that lies behind a proxy."""
    url = pg.fresh_database(postgres)
    settings = settings_for(tmp_path_factory.mktemp("outages"), url)
    with connect(url, application_name="trace-test") as conn:
        ledger = publish(settings, conn)
        moved = in_bucket(settings, bucket, proxy.endpoint)
        with served(moved, ledger, query_s=PEOPLE_S) as found:
            yield found


def in_bucket(settings: Settings, bucket: S3Server, endpoint: str) -> Settings:
    """Move what was published into a bucket."""
    files = s3(bucket)
    files.put(f"{settings.data_dir}/objects/cryo", f"{bucket.bucket}/", recursive=True)
    shutil.rmtree(settings.data_dir / "objects")
    credentials = S3Credentials(bucket.access_key, bucket.secret_key)
    return replace(settings, object_store=f"s3://{bucket.bucket}", s3_endpoint=endpoint, s3=credentials)


def s3(bucket: S3Server) -> Any:
    return s3fs.S3FileSystem(
        key=bucket.access_key, secret=bucket.secret_key, endpoint_url=bucket.endpoint, skip_instance_cache=True
    )


def test_store_that_refuses_is_a_502_and_is_asked_again(service: Served, proxy: FaultyS3) -> None:
    with proxy.failing("503", 1.0):
        answer = service.ask(ALL.format("blocks"))
        detail = refused(answer, 502, "OBJECT_STORE_ERROR")

    assert int(answer.headers["Retry-After"]) >= 1
    assert service.audited(str(detail["query_id"])).outcome == "OBJECT_STORE_ERROR"
    assert service.ask(ALL.format("blocks")).json()["rows"] == [[60]]


def test_answer_that_cannot_be_stored_is_a_502_and_leaves_nothing(service: Served, proxy: FaultyS3) -> None:
    with proxy.failing("503", 1.0):
        refused(service.ask(LARGE, limit=10_000), 502, "OBJECT_STORE_ERROR")

    assert not list((service.settings.data_dir / "scratch").rglob("*.parquet"))
    assert service.ask(LARGE, limit=10_000).json()["truncated"] is True


def test_store_that_hangs_is_out_of_time(service: Served, proxy: FaultyS3) -> None:
    with proxy.failing("hang", 1.0):
        refused(service.ask(ALL.format("transactions")), 504, "QUERY_TIMEOUT")

    assert service.ask(ALL.format("transactions")).json()["rows"] == [[180]]


def test_object_that_is_gone_is_a_502_of_its_dataset_alone(service: Served, bucket: S3Server) -> None:
    key = s3(bucket).glob(f"{bucket.bucket}/cryo/**/logs_0_*.parquet")[0]
    s3(bucket).rm(key)

    refused(service.ask(ALL.format("logs")), 502, "OBJECT_STORE_ERROR")
    assert service.ask(ALL.format("blocks")).json()["rows"] == [[60]]


# --- time ---------------------------------------------------------------------------------------------------------


def test_question_without_an_end_is_out_of_time_and_the_next_one_served(service: Served) -> None:
    detail = refused(service.ask(SLOW), 504, "QUERY_TIMEOUT")

    row = service.audited(str(detail["query_id"]))
    assert (row.outcome, row.killed) == ("QUERY_TIMEOUT", True)
    assert service.ask("select 1").json()["rows"] == [[1]]


# --- what a question needs of this machine ------------------------------------------------------------------------


def test_machine_that_starts_no_process_is_a_503(service: Served) -> None:
    """The directory that processes spill into is taken away, the processes that there are end, and it comes back."""
    (scratch,) = (service.settings.data_dir / "scratch").glob("query-*")
    away = scratch.rename(scratch.with_name("away"))
    doomed = workers()
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(is_dead, doomed)), what="the end of the processes")
    answer = service.ask("select 1")
    away.rename(scratch)

    refused(answer, 503, "WORKER_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1
    assert service.ask("select 1").json()["rows"] == [[1]]


# --- the ledgers --------------------------------------------------------------------------------------------------


def test_backends_that_ended_in_between_cost_no_question(service: Served) -> None:
    *new, token = (service.token(f"new-{number}") for number in range(4))  # nobody's roles are known yet
    for other in new:
        assert service.ask("select 1", other).status_code == 200
        row = service.conn.execute(ENDED, (OF_SERVICE,)).fetchone()
        assert row is not None
        assert row["n"] >= 2
    assert service.ask("select 1", token).status_code == 200
    assert service.get("/v1/datasets", token).status_code == 200


def test_keys_that_cannot_be_had_are_a_503(service: Served, tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}/jwks.json"
    settings = replace(service.settings, data_dir=tmp_path, jwks_url=away, token_issuer="https://idp.example")
    with served(settings, service.ledger) as found:
        answer = found.ask("select 1", service.token())

    refused(answer, 503, "KEYS_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1


def test_answer_that_cannot_be_audited_is_withheld(service: Served, postgres: LocalPostgres) -> None:
    data = pg.fresh_database(postgres)
    settings = replace(service.settings, data_database_url=data)
    name = data.partition("@/")[2].partition("?")[0].encode()
    with served(settings, service.ledger) as found, connect(postgres.url("postgres"), application_name="dba") as dba:
        token = service.token()
        assert found.ask("select 1", token).status_code == 200
        dba.execute(b"ALTER DATABASE " + name + b" ALLOW_CONNECTIONS false")
        dba.execute(ENDED, (["trace-audit"],))
        refused(found.ask("select 1", token), 500, "AUDIT_FAILED")
        assert found.client.get(f"{found.url}/readyz").json()["missing"].keys() == {"data"}
        dba.execute(b"ALTER DATABASE " + name + b" ALLOW_CONNECTIONS true")
        assert found.ask("select 1", token).status_code == 200


def test_postgres_that_is_down_is_a_503_until_it_is_back(workspace: Path, tmp_path: Path) -> None:
    server = pg.server(workspace / "outages-postgres")
    url = pg.fresh_database(server)
    settings = settings_for(tmp_path, url)
    try:
        with connect(url, application_name="trace-test") as conn, served(settings, publish(settings, conn)) as found:
            token, known = found.token("new"), found.token("known")
            assert found.ask(ALL.format("blocks"), known).status_code == 200
            server.stop()
            answer = found.ask(ALL.format("blocks"), token)
            refused(answer, 503, "LEDGER_UNAVAILABLE")
            assert int(answer.headers["Retry-After"]) >= 1
            refused(found.get("/v1/datasets", token), 503, "LEDGER_UNAVAILABLE")
            ready = found.client.get(f"{found.url}/readyz")
            assert (ready.status_code, ready.json()["missing"].keys()) == (503, {"state", "data"})
            assert found.client.get(f"{found.url}/healthz").status_code == 200, "the process itself is well"
            server.start()
            assert found.ask(ALL.format("blocks"), token).json()["rows"] == [[60]]
    finally:
        server.stop()
