"""From a token to what may be read, through the ledgers that the query service uses."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from actors.questions import FRESH_S, Ledgers
from state import capabilities, readers
from state.db import Connection, Database, connect
from tests.grants import private_pem
from tests.integration.state.ledger import Ledger, failure, job, publication
from trace_ray import tokens
from trace_ray.access import Caller
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.errors import TokenFault, TokenRefused
from trace_ray.key_files import EndpointKeys, FileKeys, Keys
from trace_ray.storage import open_store
from trace_ray.token_keys import KeyRing, jwks, pem_key

PROVIDER = KeyRing((pem_key(private_pem()),), "https://idp.example")


@pytest.fixture
def conn(state_url: str) -> Iterator[Connection]:
    with connect(state_url, application_name="test") as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """People come from an identity provider, tasks from our own keys."""
    return Keys(EndpointKeys(partial(jwks, PROVIDER), issuer=PROVIDER.issuer), FileKeys(tmp_path))


@pytest.fixture
def ledgers(state_url: str, keys: Keys, tmp_path: Path) -> Iterator[Ledgers]:
    (tmp_path / "objects").mkdir()
    database = Database(state_url, application_name="test-ledgers")
    store = open_store((tmp_path / "objects").as_uri(), data_dir=tmp_path)
    yield Ledgers(database, database, keys, store)
    database.close()


def test_a_user_of_the_provider_reads_what_the_ledger_says(conn: Connection, ledgers: Ledgers) -> None:
    ledger = Ledger.lead(conn)
    ledger.sync(job("blocks", "logs"))
    readers.set_read_roles(conn, DEFAULT_ORG, "devnet_logs", ["analyst"])
    token = tokens.sign_user(PROVIDER, subject="idp|1", now=datetime.now(UTC), lifetime_s=60)
    with pytest.raises(TokenRefused) as caught:
        ledgers.user(token)
    assert caught.value.reason is TokenFault.UNKNOWN_USER
    readers.add_user(conn, DEFAULT_ORG, "alice", subject="idp|1")
    caller = ledgers.user(token).caller
    assert caller == Caller(DEFAULT_ORG, "alice", frozenset())
    assert [one.name for one in ledgers.grant(caller, None).datasets] == ["devnet_blocks"]
    readers.add_user(conn, DEFAULT_ORG, "alice", ["analyst"])
    time.sleep(FRESH_S)
    caller = ledgers.user(token).caller
    assert [one.name for one in ledgers.grant(caller, None).datasets] == ["devnet_blocks", "devnet_logs"]
    readers.enable_user(conn, DEFAULT_ORG, "alice", enabled=False)
    time.sleep(FRESH_S)
    with pytest.raises(TokenRefused):
        ledgers.user(token)


def test_no_provider_can_make_a_token_for_a_task(conn: Connection, ledgers: Ledgers, keys: Keys) -> None:
    ledger = Ledger.lead(conn)
    ledger.sync(job("blocks", to_block=300))
    ledger.complete(publication(ledger.lease()))
    lease, now = ledger.lease(), datetime.now(UTC)
    grant = capabilities.grant_for_task(conn, lease.task.task_id, lease.attempt, ["devnet_blocks"])

    def capability(ring: KeyRing) -> str:
        return tokens.sign_capability(
            ring, grant=grant, task_id=lease.task.task_id, attempt=lease.attempt, now=now, lifetime_s=60
        )

    own = capability(keys.tasks.ring())
    assert ledgers.task(own).grant == grant
    for forged in (capability(PROVIDER), capability(KeyRing(PROVIDER.keys))):
        with pytest.raises(TokenRefused) as caught:
            ledgers.task(forged)
        assert caught.value.reason is TokenFault.UNKNOWN_KEY
    ledger.fail(failure(lease))
    with pytest.raises(TokenRefused) as caught:
        ledgers.task(own)
    assert caught.value.reason is TokenFault.ENDED
    assert ledgers.jwks() == {"keys": []}, "a secret is never published"
