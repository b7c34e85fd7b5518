"""The order of verification, and that no bytes get anything out of it but the signed files or a rejection."""

import hashlib
import pickle
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bundles import FILES, NOW, Made, Raw, key, make, ring, trusted, zip_of
from trace_ray.bundle import archive, signing, verify
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import Keyring
from trace_ray.bundle.manifest import MAX_ZIP, Language
from trace_ray.errors import BundleFault, BundleRejected

MADE = make()
CONTENTS = {path: file.content for path, file in FILES.items()}


def check(made: Made = MADE, keyring: Keyring | None = None, **changes: object) -> dict[str, bytes]:
    values = {"data": made.zip, "envelope": made.envelope, "pin": made.digest, "keyring": keyring or ring(), **changes}
    verified = verify.verify(**values)  # pyright: ignore[reportArgumentType]
    verify.check_contents(verified)
    return {file.path: b"".join(parts) for file, parts in verify.contents(verified)}


def fault(made: Made = MADE, keyring: Keyring | None = None, **changes: object) -> BundleFault:
    with pytest.raises(BundleRejected) as caught:
        check(made, keyring, **changes)
    return caught.value.code


def test_an_honest_bundle_passes_and_gives_its_files() -> None:
    assert check() == CONTENTS
    verified = verify.verify(MADE.zip, MADE.envelope, pin=MADE.digest, keyring=ring())
    assert (verified.digest, verified.manifest, verified.signers) == (MADE.digest, MADE.manifest, (trusted(key()),))


def test_each_step_refuses_before_the_next_is_taken() -> None:
    """Every case breaks all later steps as well."""
    garbage = b"no zip"
    assert fault(data=bytes(MAX_ZIP + 1), envelope=b"x", pin="0") is BundleFault.SIZE
    assert fault(data=garbage, envelope=b"x", pin="0") is BundleFault.SHA_MISMATCH
    pin = hashlib.sha256(garbage).hexdigest()
    assert fault(data=garbage, pin=pin, envelope=b"x") is BundleFault.ENVELOPE
    odd = signing.render_envelope(signing.sign(b"no statement", key(2)))
    assert fault(data=garbage, pin=pin, envelope=odd) is BundleFault.SIG_UNTRUSTED_KEY
    assert fault(data=garbage, pin=pin, envelope=odd, keyring=ring(trusted(key(2)))) is BundleFault.MANIFEST_FIELDS
    assert fault(data=garbage, pin=pin) is BundleFault.SUBJECT_MISMATCH
    assert fault(make(data=garbage, name="UPPER")) is BundleFault.MANIFEST_FIELDS
    assert fault(make(data=garbage, size=7)) is BundleFault.SUBJECT_MISMATCH
    assert fault(make(data=garbage)) is BundleFault.ZIP_POLYGLOT
    assert fault(make(data=archive.pack({"other": Packed(b"", False)}))) is BundleFault.ZIP_MANIFEST_MISMATCH


def test_a_statement_is_about_one_zip_not_about_one_that_unpacks_alike() -> None:
    redated = MADE.zip[:10] + b"\x01" + MADE.zip[11:]  # the first entry's time, which nobody reads
    pin = hashlib.sha256(redated).hexdigest()
    assert check(make(data=redated)) == CONTENTS
    assert fault(data=redated, pin=pin) is BundleFault.SUBJECT_MISMATCH


def test_a_key_signs_for_its_languages_alone() -> None:
    node = ring(trusted(key(), languages=frozenset({Language.NODE})))
    assert fault(keyring=node) is BundleFault.SIG_LANGUAGE
    assert fault(keyring=ring(trusted(key(), languages=frozenset()))) is BundleFault.SIG_LANGUAGE
    assert check(keyring=ring(trusted(key(), languages=frozenset({Language.PYTHON}))))


def test_revoked_and_expired_keys_are_refused() -> None:
    assert fault(keyring=ring(trusted(key(), revoked=True))) is BundleFault.SIG_REVOKED
    assert fault(keyring=ring(trusted(key(), not_after=NOW))) is BundleFault.SIG_EXPIRED
    assert fault(keyring=Keyring((), NOW)) is BundleFault.SIG_UNTRUSTED_KEY


def test_zip_and_statement_list_the_same_files() -> None:
    smuggled = archive.pack({**FILES, "sitecustomize.py": Packed(b"evil", False)})
    assert fault(make(data=smuggled)) is BundleFault.ZIP_MANIFEST_MISMATCH
    missing = archive.pack({"handler.py": FILES["handler.py"]})
    assert fault(make(data=missing)) is BundleFault.ZIP_MANIFEST_MISMATCH
    longer = archive.pack({**FILES, "pkg/__init__.py": Packed(b"x", False)})
    assert fault(make(data=longer)) is BundleFault.ZIP_MANIFEST_MISMATCH
    changed = archive.pack({**FILES, "pkg/data.bin": Packed(bytes(256), True)})
    assert fault(make(data=changed)) is BundleFault.FILE_SHA_MISMATCH


def test_a_changed_byte_of_a_stored_file_is_found_though_its_crc_was_mended() -> None:
    entries = [Raw(path.encode(), file.content, method=0) for path, file in FILES.items()]
    assert check(make(data=zip_of(entries)))
    entries[0] = Raw(b"handler.py", b"X" + FILES["handler.py"].content[1:], method=0)
    assert fault(make(data=zip_of(entries))) is BundleFault.FILE_SHA_MISMATCH


def test_an_error_that_nobody_foresaw_is_a_rejection() -> None:
    for error in (RecursionError(), MemoryError(), KeyError("x"), AssertionError()):
        with patch.object(archive, "read", side_effect=error):
            assert fault() is BundleFault.UNREADABLE


def test_a_rejection_keeps_its_code_on_the_way_between_processes() -> None:
    first = BundleRejected(BundleFault.ZIP_BOMB, "too large")
    again = pickle.loads(pickle.dumps(first))
    assert (type(again), again.code, str(again)) == (BundleRejected, first.code, str(first))


# --- bytes by chance ----------------------------------------------------------------------------------------------

WHOLE = settings(max_examples=200)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, part in changes:
        at = place % (len(data) + 1)
        data = data[:at] + (part if kind != "cut" else b"") + data[at + (0 if kind == "insert" else len(part)) :]
    return data


def outcome(run: Callable[[], object]) -> object:
    """Return what comes out: a result, or the code of a rejection; every other error fails the test."""
    try:
        return run()
    except BundleRejected as error:
        return error.code


FORESEEN = set(BundleFault) - {BundleFault.UNREADABLE}


@WHOLE
@given(edits)
def test_a_mutated_zip_that_is_properly_signed_gives_the_stated_files_or_a_rejection(
    changes: list[tuple[str, int, bytes]],
) -> None:
    made = make(data=mutate(MADE.zip, changes))  # signed anew: everything but its structure is in order
    found = outcome(lambda: check(made))
    assert found in FORESEEN if isinstance(found, BundleFault) else found == CONTENTS


@WHOLE
@given(edits)
def test_a_mutated_envelope_says_the_same_or_is_rejected(changes: list[tuple[str, int, bytes]]) -> None:
    envelope = mutate(MADE.envelope, changes)
    found = outcome(lambda: verify.verify(MADE.zip, envelope, pin=MADE.digest, keyring=ring()).manifest)
    assert found in FORESEEN or found == MADE.manifest


@WHOLE
@given(edits)
def test_a_mutated_statement_that_is_properly_signed_lists_these_files_or_is_rejected(
    changes: list[tuple[str, int, bytes]],
) -> None:
    envelope = signing.render_envelope(signing.sign(mutate(MADE.payload, changes), key()))
    found = outcome(lambda: check(envelope=envelope))
    assert found in FORESEEN if isinstance(found, BundleFault) else found == CONTENTS


@WHOLE
@given(edits)
def test_a_mutated_zip_does_not_pass_its_pin(changes: list[tuple[str, int, bytes]]) -> None:
    data = mutate(MADE.zip, changes)
    assert outcome(lambda: check(data=data)) == (CONTENTS if data == MADE.zip else BundleFault.SHA_MISMATCH)


@WHOLE
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_rejected(data: bytes, envelope: bytes) -> None:
    pin = hashlib.sha256(data).hexdigest()
    assert outcome(lambda: check(data=data, pin=pin, envelope=envelope)) is BundleFault.ENVELOPE
    assert outcome(lambda: check(make(data=data))) is BundleFault.ZIP_POLYGLOT or not data
