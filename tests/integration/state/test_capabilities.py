"""Capability tokens against the ledger: only the attempt that runs may ask, and only for what it was granted."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from state import capabilities, datasets, tasks
from tests.grants import private_pem
from tests.integration.state.ledger import Ledger, failure, job, publication, stream
from trace_ray import packed_grant, tokens
from trace_ray.access import Capability, foreign_objects
from trace_ray.contracts import DEFAULT_ORG, Grant, Lease, OrgId, TaskId
from trace_ray.errors import FencedError, NotFound, TokenFault, TokenRefused
from trace_ray.token_keys import KeyRing, pem_key

RING = KeyRing((pem_key(private_pem()),))
PACKED_CHARS = tokens.PACKED_CHARS


def issue(ledger: Ledger, lease: Lease, *names: str) -> Capability:
    """What the query service knows of a token that was just given to an attempt."""
    now = datetime.now(UTC)
    grant = capabilities.grant_for_task(ledger.conn, lease.task.task_id, lease.attempt, names or ("devnet_blocks",))
    token = tokens.sign_capability(
        RING, grant=grant, task_id=lease.task.task_id, attempt=lease.attempt, now=now, lifetime_s=900
    )
    return tokens.verify_capability(RING, token, now=now)


def refusal(ledger: Ledger, capability: Capability) -> TokenFault:
    with pytest.raises(TokenRefused) as caught:
        capabilities.granted(ledger.conn, capability)
    return caught.value.reason


@pytest.fixture(params=["inline", "by digest"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a token can carry a grant; the second is that of grants too long for a token."""
    monkeypatch.setattr(tokens, "PACKED_CHARS", PACKED_CHARS if request.param == "inline" else 0)


@pytest.mark.usefixtures("_size")
def test_the_attempt_that_runs_reads_what_it_was_granted(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=300))
    first, running = ledger.lease(), ledger.lease()
    ledger.complete(publication(first))
    capability = issue(ledger, running)
    grant = capabilities.granted(ledger.conn, capability)
    assert grant == datasets.pin(ledger.conn, DEFAULT_ORG, ["devnet_blocks"], None)
    assert [file.min_block for file in grant.datasets[0].files] == [0]
    assert foreign_objects(grant, capability.read) == []
    assert (capability.org_id, capability.attempt) == (DEFAULT_ORG, 1)


@pytest.mark.usefixtures("_size")
def test_what_is_published_or_replaced_later_is_not_in_the_grant(ledger: Ledger) -> None:
    ledger.sync(job("blocks", to_block=300))
    first, second, running = (ledger.lease() for _ in range(3))
    ledger.complete(publication(first))
    capability = issue(ledger, running)
    before = capabilities.granted(ledger.conn, capability)
    ledger.complete(publication(second))
    ledger.conn.execute(
        b"UPDATE state.tasks SET state = 'queued', finished_at = NULL, generation = generation + 1, run_at = 'epoch'"
        b" WHERE task_id = %s::uuid",
        (first.task.task_id,),
    )
    ledger.complete(publication(ledger.lease(), content="new"))
    assert capabilities.granted(ledger.conn, capability) == before
    assert capabilities.grant_for_task(ledger.conn, running.task.task_id, 1, ["devnet_blocks"]) != before


@pytest.mark.usefixtures("_size")
def test_no_attempt_asks_after_its_end(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=5)))
    done, failed, dead, cancelled, lost = (group.leases[0] for group in ledger.claim(slots=5))
    held = {lease.task.task_id: issue(ledger, lease) for lease in (done, failed, dead, cancelled, lost)}
    for capability in held.values():
        assert capabilities.granted(ledger.conn, capability)
    ledger.complete(publication(done))
    ledger.fail(failure(failed))
    ledger.fail(failure(dead, retryable=False))
    tasks.cancel(ledger.conn, [cancelled.task.task_id])
    ledger.conn.execute(
        b"UPDATE state.tasks SET lease_expires_at = now() - interval '1 s' WHERE task_id = %s::uuid",
        (lost.task.task_id,),
    )
    assert {refusal(ledger, capability) for capability in held.values()} == {TokenFault.ENDED}
    for lease in (done, failed, dead, cancelled, lost):
        with pytest.raises(FencedError):
            capabilities.grant_for_task(ledger.conn, lease.task.task_id, lease.attempt, ["devnet_blocks"])


def test_the_token_of_one_attempt_is_not_the_next_ones(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=1)))
    first = ledger.lease()
    old = issue(ledger, first)
    ledger.fail(failure(first))
    second = ledger.lease()
    assert (second.task.task_id, second.attempt) == (first.task.task_id, 2)
    assert refusal(ledger, old) is TokenFault.ENDED
    assert capabilities.granted(ledger.conn, issue(ledger, second))


def test_a_task_of_another_organisation_or_of_nobody_is_refused(ledger: Ledger) -> None:
    ledger.sync(job("blocks"))
    capability = issue(ledger, ledger.lease())
    other = OrgId(UUID(int=7))
    assert refusal(ledger, replace(capability, org_id=other)) is TokenFault.ENDED
    assert refusal(ledger, replace(capability, task_id=TaskId(UUID(int=9)))) is TokenFault.ENDED
    assert refusal(ledger, replace(capability, attempt=2)) is TokenFault.ENDED


def test_a_grant_that_the_registry_no_longer_has_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "PACKED_CHARS", 0)
    ledger.sync(job("blocks", "logs", to_block=300))
    group, running = ledger.claim(slots=2)
    ledger.complete(*map(publication, group.leases))
    capability = issue(ledger, running.leases[0], "devnet_blocks", "devnet_logs")
    assert capability.grant is None
    assert len(capabilities.granted(ledger.conn, capability).datasets) == 2
    ledger.conn.execute(b"UPDATE state.dataset_files SET bytes = bytes + 1")  # as an operator's purge might
    assert refusal(ledger, capability) is TokenFault.GRANT_CHANGED
    ledger.conn.execute(b"UPDATE state.datasets SET name = 'renamed' WHERE name = 'devnet_logs'")
    assert refusal(ledger, capability) is TokenFault.GRANT_CHANGED


def test_a_registry_that_names_a_foreign_object_is_seen_by_the_prefixes(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs", to_block=300))
    group, running = ledger.claim(slots=2)
    ledger.complete(*map(publication, group.leases))
    capability = issue(ledger, running.leases[0])
    ledger.conn.execute(b"UPDATE state.dataset_files SET key = 'cryo/1/secret/' || key")
    changed = capabilities.grant_for_task(ledger.conn, running.leases[0].task.task_id, 1, ["devnet_blocks"])
    assert len(foreign_objects(changed, capability.read)) == 1
    assert packed_grant.digest(changed) != capability.grant_digest


def test_a_task_asks_for_known_datasets_only(ledger: Ledger) -> None:
    ledger.sync(job("blocks"))
    lease = ledger.lease()
    with pytest.raises(NotFound, match="there is no dataset devnet_typo"):
        capabilities.grant_for_task(ledger.conn, lease.task.task_id, 1, ["devnet_typo"])
    empty = capabilities.grant_for_task(ledger.conn, lease.task.task_id, 1, [])
    assert empty == Grant(DEFAULT_ORG, ())
