"""The ledger of bundles: what is trusted, what is pushed once and for all, and what a lease may use."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from state import bundles
from state.db import Connection
from tests.bundles import ALL, FILES, Made, key, make
from trace_ray.bundle import manifest, signing
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import keyid_of, public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.pushed import PushedBundle
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import BundleFault, BundleRejected, NotFound, RefusedInput

OTHER = OrgId(UUID(int=7))
PUBLIC = public_bytes(key())
KEYID = keyid_of(PUBLIC)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def trusting(conn: Connection) -> Connection:
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, ALL)
    return conn


def push(conn: Connection, made: Made, org_id: OrgId = DEFAULT_ORG) -> PushedBundle:
    return bundles.push(conn, org_id, made.digest, made.envelope)


def variant(text: str, version: str = "1.0") -> Made:
    return make({**FILES, "data.txt": Packed(text.encode(), False)}, version=version)


def fault(run: Callable[[], object]) -> BundleFault:
    with pytest.raises(BundleRejected) as caught:
        run()
    return caught.value.code


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_keyring_has_the_keys_of_its_organisation_alone(conn: Connection) -> None:
    soon = datetime(2100, 1, 1, tzinfo=UTC)
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, [Language.NODE, Language.PYTHON], soon)
    bundles.trust(conn, OTHER, public_bytes(key(2)), ALL)
    (found,) = bundles.keyring(conn, DEFAULT_ORG).keys
    assert (found.keyid, found.public, found.not_after, found.revoked) == (KEYID, PUBLIC, soon, False)
    assert found.languages == {Language.NODE, Language.PYTHON}
    assert abs(bundles.keyring(conn, DEFAULT_ORG).as_of - datetime.now(UTC)) < timedelta(hours=1)
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, [Language.NODE])
    (changed,) = bundles.keyring(conn, DEFAULT_ORG).keys
    assert (changed.languages, changed.not_after) == ({Language.NODE}, None)


def test_a_revoked_key_stays_revoked_and_visible(trusting: Connection) -> None:
    assert bundles.revoke(trusting, DEFAULT_ORG, KEYID) == f"key {KEYID}"
    (first,) = bundles.keys(trusting, DEFAULT_ORG)
    bundles.revoke(trusting, DEFAULT_ORG, KEYID)
    (again,) = bundles.keys(trusting, DEFAULT_ORG)
    assert again == first
    assert first.key.revoked
    with pytest.raises(RefusedInput, match="for good"):
        bundles.trust(trusting, DEFAULT_ORG, PUBLIC, ALL)
    for unknown in ("ed25519:0000000000000000", "0" * 64, "typo\0"):
        with pytest.raises(NotFound, match="bundle list"):
            bundles.revoke(trusting, DEFAULT_ORG, unknown)
    with pytest.raises(NotFound):
        bundles.revoke(trusting, OTHER, KEYID)


def test_an_organisation_has_a_bounded_number_of_keys(conn: Connection) -> None:
    for number in range(bundles.MAX_KEYS):
        bundles.trust(conn, DEFAULT_ORG, number.to_bytes(32, "big"), ALL)
    with pytest.raises(RefusedInput, match="64 keys"):
        bundles.trust(conn, DEFAULT_ORG, PUBLIC, ALL)
    bundles.trust(conn, DEFAULT_ORG, (0).to_bytes(32, "big"), [Language.WASM])
    bundles.trust(conn, OTHER, PUBLIC, ALL)


# --- push ---------------------------------------------------------------------------------------------------------


def test_a_pushed_bundle_is_what_its_statement_says(trusting: Connection) -> None:
    made = make()
    pushed = push(trusting, made)
    assert (pushed.digest, pushed.name, pushed.version, pushed.language, pushed.entrypoint, pushed.size) == (
        made.digest, "alarm", "1.0", Language.PYTHON, "handler.handler", len(made.zip),
    )  # fmt: skip
    assert pushed.key == f"bundles/{DEFAULT_ORG}/{made.digest}.zip"
    assert pushed.envelope == made.envelope
    assert push(trusting, made) == pushed
    assert bundles.bundles(trusting, DEFAULT_ORG) == [pushed]
    assert bundles.bundles(trusting, OTHER) == []


def test_a_name_and_version_means_one_zip_for_ever(trusting: Connection) -> None:
    pushed = push(trusting, variant("one"))
    with pytest.raises(RefusedInput, match=r"alarm@1\.0 was pushed with another content"):
        push(trusting, variant("two"))
    push(trusting, variant("two", version="1.1"))
    with pytest.raises(RefusedInput, match=r"the same zip was pushed as alarm@1\.1"):
        push(trusting, variant("two"))
    assert bundles.pin(trusting, DEFAULT_ORG, "alarm@1.0") == pushed


def test_a_zip_has_one_statement_but_may_be_built_and_signed_again(trusting: Connection) -> None:
    first = push(trusting, make())
    later = make(created="2027-01-01T00:00:00Z")
    again = push(trusting, later)
    assert (again.digest, again.pushed_at, again.envelope) == (first.digest, first.pushed_at, later.envelope)
    for other in (make(query=False), make(name="other"), make(version="2")):
        with pytest.raises(RefusedInput, match="with another statement"):
            push(trusting, other)
    assert bundles.pin(trusting, DEFAULT_ORG, first.digest).envelope == later.envelope


def test_what_no_trusted_key_signed_is_not_pushed(conn: Connection) -> None:
    made = make()
    assert fault(lambda: push(conn, made)) is BundleFault.SIG_UNTRUSTED_KEY
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, [Language.NODE])
    assert fault(lambda: push(conn, made)) is BundleFault.SIG_LANGUAGE
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, ALL, PAST)
    assert fault(lambda: push(conn, made)) is BundleFault.SIG_EXPIRED
    bundles.revoke(conn, DEFAULT_ORG, KEYID)
    assert fault(lambda: push(conn, made)) is BundleFault.SIG_REVOKED
    assert fault(lambda: push(conn, made, OTHER)) is BundleFault.SIG_UNTRUSTED_KEY
    assert fault(lambda: bundles.push(conn, DEFAULT_ORG, "0" * 64, made.envelope)) is BundleFault.SIG_REVOKED
    assert bundles.bundles(conn, DEFAULT_ORG) == []


def test_an_envelope_of_another_zip_is_not_pushed(trusting: Connection) -> None:
    made = make()
    assert fault(lambda: bundles.push(trusting, DEFAULT_ORG, "0" * 64, made.envelope)) is BundleFault.SUBJECT_MISMATCH
    assert fault(lambda: bundles.push(trusting, DEFAULT_ORG, made.digest, b"{}")) is BundleFault.ENVELOPE


def test_a_race_for_a_version_has_one_winner(connection: Callable[[], Connection]) -> None:
    conn, other = connection(), connection()
    bundles.trust(conn, DEFAULT_ORG, PUBLIC, ALL)
    lost: list[Exception] = []

    def follow() -> None:
        try:
            with other.transaction():
                push(other, variant("two"))
        except RefusedInput as error:
            lost.append(error)

    with conn.transaction():
        push(conn, variant("one"))
        thread = threading.Thread(target=follow)
        thread.start()
        thread.join(0.5)  # it waits for us, or it has not come so far: either way it must lose
    thread.join(10)
    assert len(lost) == 1
    assert [one.digest for one in bundles.bundles(conn, DEFAULT_ORG)] == [variant("one").digest]


# --- pin and use --------------------------------------------------------------------------------------------------


def test_a_pin_is_found_by_version_by_name_and_by_digest(trusting: Connection) -> None:
    old = push(trusting, variant("old", version="9"))
    new = push(trusting, variant("new", version="10"))
    assert bundles.pin(trusting, DEFAULT_ORG, "alarm@9") == old
    assert bundles.pin(trusting, DEFAULT_ORG, "alarm") == new
    assert bundles.pin(trusting, DEFAULT_ORG, old.digest) == old
    for unknown in ("alarm@11", "alar", "0" * 64, "@", "", "alarm@\0", "\ud800"):
        with pytest.raises(NotFound):
            bundles.pin(trusting, DEFAULT_ORG, unknown)
    with pytest.raises(NotFound):
        bundles.pin(trusting, OTHER, "alarm")


def test_a_revoked_bundle_is_neither_pinned_nor_used_nor_pushed_again(trusting: Connection) -> None:
    old, new = push(trusting, variant("old")), push(trusting, variant("new", version="2"))
    assert bundles.revoke(trusting, DEFAULT_ORG, new.digest) == "bundle alarm@2"
    assert bundles.pin(trusting, DEFAULT_ORG, "alarm") == old
    assert fault(lambda: bundles.pin(trusting, DEFAULT_ORG, "alarm@2")) is BundleFault.REVOKED
    assert fault(lambda: bundles.pin(trusting, DEFAULT_ORG, new.digest)) is BundleFault.REVOKED
    assert fault(lambda: bundles.usable(trusting, DEFAULT_ORG, new.digest)) is BundleFault.REVOKED
    assert fault(lambda: push(trusting, variant("new", version="2"))) is BundleFault.REVOKED
    assert bundles.usable(trusting, DEFAULT_ORG, old.digest).bundle == old


def test_what_is_usable_is_decided_at_the_moment_of_the_lease(trusting: Connection) -> None:
    made = make()
    pushed = push(trusting, made)
    found = bundles.usable(trusting, DEFAULT_ORG, made.digest)
    assert (found.bundle, [one.keyid for one in found.keyring.keys]) == (pushed, [KEYID])
    bundles.trust(trusting, DEFAULT_ORG, PUBLIC, ALL, PAST)
    assert fault(lambda: bundles.usable(trusting, DEFAULT_ORG, made.digest)) is BundleFault.SIG_EXPIRED
    bundles.trust(trusting, DEFAULT_ORG, PUBLIC, ALL)
    bundles.usable(trusting, DEFAULT_ORG, made.digest)
    bundles.revoke(trusting, DEFAULT_ORG, KEYID)
    assert fault(lambda: bundles.usable(trusting, DEFAULT_ORG, made.digest)) is BundleFault.SIG_REVOKED


def test_a_bundle_outlives_its_key_when_another_one_signs_it_too(trusting: Connection) -> None:
    made = make()
    push(trusting, made)
    both = signing.sign(made.payload, key(2), signing.parse_envelope(made.envelope))
    bundles.trust(trusting, DEFAULT_ORG, public_bytes(key(2)), ALL)
    bundles.push(trusting, DEFAULT_ORG, made.digest, signing.render_envelope(both))
    bundles.revoke(trusting, DEFAULT_ORG, KEYID)
    found = bundles.usable(trusting, DEFAULT_ORG, made.digest)
    assert {one.keyid for one in found.keyring.keys if not one.revoked} == {keyid_of(public_bytes(key(2)))}
    said = manifest.parse_statement(signing.parse_envelope(found.bundle.envelope).payload)
    assert said.digest == made.digest
