"""Users, roles and datasets: who may read what, and that nobody learns of what is not theirs."""

from uuid import UUID

import pytest

from state import datasets, readers
from state.db import Connection
from tests.integration.state.ledger import Ledger, job
from trace_ray.access import Reader, user_subject
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import NotFound, RefusedInput, TokenFault, TokenRefused

OTHER = OrgId(UUID(int=7))


def reader_of(conn: Connection, name: str, org_id: OrgId = DEFAULT_ORG) -> Reader:
    return readers.reader(conn, user_subject(org_id, name))


def readable(ledger: Ledger, *roles: str, org_id: OrgId = DEFAULT_ORG) -> list[str]:
    grant = datasets.pin(ledger.conn, org_id, None, None, roles)
    listed = [one.dataset for one in datasets.listing(ledger.conn, org_id, roles)]
    names = [one.name for one in grant.datasets]
    assert names == listed
    return names


# --- users --------------------------------------------------------------------------------------------------------


def test_the_row_of_a_user_names_its_organisation_and_roles(conn: Connection) -> None:
    readers.add_user(conn, DEFAULT_ORG, "alice", ["analyst", "admin", "admin"])
    readers.add_user(conn, OTHER, "alice")
    assert reader_of(conn, "alice") == Reader(DEFAULT_ORG, "alice", frozenset({"analyst", "admin"}))
    assert reader_of(conn, "alice", OTHER) == Reader(OTHER, "alice", frozenset())


def test_roles_are_kept_unless_others_are_given(conn: Connection) -> None:
    first = readers.add_user(conn, DEFAULT_ORG, "alice", ["analyst"])
    again = readers.add_user(conn, DEFAULT_ORG, "alice")
    assert again == first
    assert readers.add_user(conn, DEFAULT_ORG, "alice", ["admin"]).roles == {"admin"}
    assert readers.add_user(conn, DEFAULT_ORG, "alice", []).roles == frozenset()
    assert len(readers.users(conn, DEFAULT_ORG)) == 1


def test_an_unknown_and_a_disabled_user_are_refused_alike(conn: Connection) -> None:
    readers.add_user(conn, DEFAULT_ORG, "alice")
    readers.enable_user(conn, DEFAULT_ORG, "alice", enabled=False)
    refusals: list[str] = []
    for name in ("alice", "nobody"):
        with pytest.raises(TokenRefused) as caught:
            reader_of(conn, name)
        assert caught.value.reason is TokenFault.UNKNOWN_USER
        refusals.append(str(caught.value))
    assert len(set(refusals)) == 1
    assert not readers.add_user(conn, DEFAULT_ORG, "alice", ["admin"]).enabled, "new roles do not enable anybody"
    readers.enable_user(conn, DEFAULT_ORG, "alice", enabled=True)
    assert reader_of(conn, "alice").roles == {"admin"}


def test_a_subject_of_an_identity_provider_belongs_to_one_user(conn: Connection) -> None:
    readers.add_user(conn, DEFAULT_ORG, "alice", subject="idp|1234")
    assert readers.reader(conn, "idp|1234").user == "alice"
    with pytest.raises(TokenRefused):
        reader_of(conn, "alice")
    assert readers.add_user(conn, DEFAULT_ORG, "alice", ["admin"]).subject == "idp|1234"
    for org_id in (DEFAULT_ORG, OTHER):
        with pytest.raises(RefusedInput, match="another user has this subject"):
            readers.add_user(conn, org_id, "mallory", subject="idp|1234")
    assert [user.name for user in readers.users(conn, DEFAULT_ORG)] == ["alice"]


@pytest.mark.parametrize("subject", ["", "x" * 257, "a\nb", "a\0", "user:1", "task:1"])
def test_subjects_that_no_token_carries_or_that_are_ours_are_refused(conn: Connection, subject: str) -> None:
    with pytest.raises(RefusedInput, match="write another"):
        readers.add_user(conn, DEFAULT_ORG, "alice", subject=subject)


def test_wrong_names_and_unknown_users_are_refused(conn: Connection) -> None:
    with pytest.raises(RefusedInput, match="choose another"):
        readers.add_user(conn, DEFAULT_ORG, "al ice")
    with pytest.raises(RefusedInput, match="is no role"):
        readers.add_user(conn, DEFAULT_ORG, "alice", ["Admin"])
    readers.add_user(conn, DEFAULT_ORG, "alice")
    for name, org_id in (("bob", DEFAULT_ORG), ("alice", OTHER)):
        with pytest.raises(NotFound, match="there is no user"):
            readers.enable_user(conn, org_id, name, enabled=False)
    assert readers.users(conn, OTHER) == []


# --- datasets -----------------------------------------------------------------------------------------------------


def test_a_dataset_is_open_until_roles_are_asked_for(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    assert readable(ledger) == ["devnet_blocks", "devnet_logs"]
    readers.set_read_roles(ledger.conn, DEFAULT_ORG, "devnet_logs", ["analyst", "admin"])
    assert readable(ledger) == readable(ledger, "other") == ["devnet_blocks"]
    assert readable(ledger, "analyst") == readable(ledger, "other", "admin") == ["devnet_blocks", "devnet_logs"]
    assert len(datasets.pin(ledger.conn, DEFAULT_ORG, None, None).datasets) == 2, "an operator reads all"
    assert readers.read_roles(ledger.conn, DEFAULT_ORG) == {
        "devnet_blocks": frozenset(),
        "devnet_logs": frozenset({"admin", "analyst"}),
    }
    readers.set_read_roles(ledger.conn, DEFAULT_ORG, "devnet_logs", [])
    assert readable(ledger) == ["devnet_blocks", "devnet_logs"]


def test_roles_stay_when_the_job_is_applied_again(ledger: Ledger) -> None:
    one = job("blocks", "logs")
    ledger.sync(one)
    readers.set_read_roles(ledger.conn, DEFAULT_ORG, "devnet_logs", ["admin"])
    ledger.sync(job("blocks", "logs", to_block=2000))
    assert readable(ledger) == ["devnet_blocks"]


def test_a_dataset_that_may_not_be_read_reads_like_one_that_is_not_there(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    readers.set_read_roles(ledger.conn, DEFAULT_ORG, "devnet_logs", ["admin"])

    def told(name: str, *roles: str) -> list[str]:
        found: list[str] = []
        for ask in (
            lambda: datasets.pin(ledger.conn, DEFAULT_ORG, [name], None, roles),
            lambda: datasets.coverage(ledger.conn, DEFAULT_ORG, name, roles=roles),
        ):
            with pytest.raises(NotFound) as caught:
                ask()
            found.append(str(caught.value).replace(name, "NAME"))
        return found

    assert told("devnet_logs", "analyst") == told("devnet_nothing", "analyst")
    assert told("devnet_logs") == ["there is no dataset NAME: choose one of devnet_blocks"] * 2
    assert datasets.coverage(ledger.conn, DEFAULT_ORG, "devnet_logs", roles=["admin"]).dataset == "devnet_logs"


def test_nothing_of_another_organisation_can_be_read_or_changed(ledger: Ledger) -> None:
    ledger.sync(job("blocks"))
    assert readable(ledger, "admin", org_id=OTHER) == []
    assert readers.read_roles(ledger.conn, OTHER) == {}
    with pytest.raises(NotFound, match="there is no dataset devnet_blocks"):
        readers.set_read_roles(ledger.conn, OTHER, "devnet_blocks", ["admin"])
    with pytest.raises(NotFound):
        datasets.pin(ledger.conn, OTHER, ["devnet_blocks"], None, ["admin"])
    assert readable(ledger) == ["devnet_blocks"]
