"""Statements, envelopes and keys: what is signed, by whom, and that nothing but the exact form is accepted."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.bundles import NOW, describe, key, make, ring, trusted
from trace_ray.bundle import keys, manifest, signing, strict
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import Keyring, keyid_of, public_bytes
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.signing import Envelope, Signature
from trace_ray.errors import BundleFault, BundleRejected, RefusedInput

MADE = make()
STATEMENT: dict[str, Any] = json.loads(MADE.payload)


def rejected(run: Callable[[], object]) -> BundleFault:
    with pytest.raises(BundleRejected) as caught:
        run()
    assert f"({caught.value.code})" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.code


def parse(payload: bytes) -> manifest.Manifest:
    return manifest.parse_predicate(manifest.parse_statement(payload).predicate)


# --- the statement ------------------------------------------------------------------------------------------------


def test_a_statement_comes_back_as_it_was_written() -> None:
    assert parse(MADE.payload) == MADE.manifest
    assert manifest.parse_statement(MADE.payload).digest == MADE.digest
    assert manifest.render(MADE.manifest, artefact="alarm.zip", digest=MADE.digest) == MADE.payload
    assert STATEMENT["subject"][0]["digest"]["sha256"] == MADE.digest
    assert MADE.manifest.total == sum(file["size"] for file in STATEMENT["predicate"]["files"])


def changed(*path: str | int, value: object = None, drop: bool = False) -> bytes:
    document = json.loads(MADE.payload)
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(document).encode()


WRONG: list[object] = [None, True, 0, -1, 1.0, 1e400, "", "x\n", "\ud800", [], {}, [None], {"a": 1}, "é", 10**30]
PLACES: list[tuple[str | int, ...]] = [
    ("_type",), ("subject",), ("subject", 0), ("subject", 0, "name"), ("subject", 0, "digest"),
    ("subject", 0, "digest", "sha256"), ("predicateType",), ("predicate",),
    *(("predicate", name) for name in manifest.PREDICATE),
    ("predicate", "requests", "query"), ("predicate", "requests", "events"), ("predicate", "files", 0),
    *(("predicate", "files", 0, name) for name in ("path", "sha256", "size", "exec")),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_field_is_needed_and_none_takes_another_type(place: tuple[str | int, ...]) -> None:
    assert rejected(lambda: parse(changed(*place, drop=True))) is BundleFault.MANIFEST_FIELDS
    original: Any = json.loads(MADE.payload)
    for step in place:
        original = original[step]
    for value in WRONG:
        if value is original or (place[-1] in ("exec", "query", "events") and value is True):
            continue
        if place[-1] == "size" and place != ("predicate", "size") and value == 0 and value is not True:
            continue
        fault = rejected(lambda value=value: parse(changed(*place, value=value)))
        assert fault in (BundleFault.MANIFEST_FIELDS, BundleFault.ZIP_PATH), value


@pytest.mark.parametrize("place", [(), ("subject", 0), ("subject", 0, "digest"), ("predicate",),
                                   ("predicate", "requests"), ("predicate", "files", 0)])  # fmt: skip
def test_a_key_too_many_is_refused_wherever_it_stands(place: tuple[str | int, ...]) -> None:
    assert rejected(lambda: parse(changed(*place, "more", value=1))) is BundleFault.MANIFEST_FIELDS


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"[]", b"null", b'{"_type": 1, "_type": 1}',
        MADE.payload.replace(b'"exec":false', b'"exec":false,"exec":true', 1),
        MADE.payload.decode().encode("utf-16"), b"\xef\xbb\xbf" + MADE.payload, b"\xff", b"[" * 1_000_000,
        b'{"a":' * 100_000, MADE.payload + b"{}", MADE.payload.replace(b'"size":', b'"size":NaN,"sise":', 1),
        b"9" * 10_000, MADE.payload[:-1],
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_strict_json_is_refused(payload: bytes) -> None:
    assert rejected(lambda: parse(payload)) is BundleFault.MANIFEST_FIELDS


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("predicate", "files", 0, "path"), "../evil.py", BundleFault.ZIP_PATH),
        (("predicate", "files", 0, "path"), "pkg/data.bin", BundleFault.ZIP_DUP),
        (("predicate", "files", 0, "path"), "PKG/DATA.BIN", BundleFault.ZIP_CASE_COLLISION),
        (("predicate", "files", 0, "size"), 129 << 20, BundleFault.ZIP_BOMB),
        (("predicate", "files", 0, "path"), "main.py", BundleFault.MANIFEST_FIELDS),
        (("predicate", "entrypoint"), "other.handler", BundleFault.MANIFEST_FIELDS),
        (("predicate", "entrypoint"), "handler", BundleFault.MANIFEST_FIELDS),
        (("predicate", "entrypoint"), "../handler.handler", BundleFault.MANIFEST_FIELDS),
        (("predicate", "language"), "bootstrap", BundleFault.MANIFEST_FIELDS),
        (("predicate", "language"), "perl", BundleFault.MANIFEST_FIELDS),
        (("predicate", "schema"), 2, BundleFault.MANIFEST_FIELDS),
        (("predicate", "schema"), True, BundleFault.MANIFEST_FIELDS),
        (("predicate", "arch"), "linux/arm64", BundleFault.MANIFEST_FIELDS),
        (("predicate", "name"), "Alarm", BundleFault.MANIFEST_FIELDS),
        (("predicate", "name"), "alarm\n", BundleFault.MANIFEST_FIELDS),
        (("predicate", "version"), "1@2", BundleFault.MANIFEST_FIELDS),
        (("predicate", "created"), "yesterday", BundleFault.MANIFEST_FIELDS),
        (("predicate", "size"), (50 << 20) + 1, BundleFault.MANIFEST_FIELDS),
        (("subject", 0, "digest", "sha256"), "A" * 64, BundleFault.MANIFEST_FIELDS),
    ],
)
def test_values_that_break_a_rule_are_refused_with_its_code(
    place: tuple[str | int, ...], value: object, code: BundleFault
) -> None:
    assert rejected(lambda: parse(changed(*place, value=value))) is code


def test_two_subjects_and_4097_files_are_refused() -> None:
    subject, files = STATEMENT["subject"], STATEMENT["predicate"]["files"]
    assert rejected(lambda: parse(changed("subject", value=subject * 2))) is BundleFault.MANIFEST_FIELDS
    many = [{**files[0], "path": f"f{n}"} for n in range(4097)]
    assert rejected(lambda: parse(changed("predicate", "files", value=many))) is BundleFault.MANIFEST_FIELDS
    large = [{**files[0], "path": f"{n}/handler.py", "size": 100 << 20} for n in range(2)]
    assert rejected(lambda: parse(changed("predicate", "files", value=large))) is BundleFault.ZIP_BOMB


@pytest.mark.parametrize(
    ("language", "entrypoint", "path"),
    [
        (Language.PYTHON, "handler.handler", "handler.py"),
        (Language.PYTHON, "app.alerts.run", "app/alerts.py"),
        (Language.PYTHON, "app.run", "app/__init__.py"),
        (Language.NODE, "index.handler", "index.mjs"),
        (Language.NODE, "src/index.handler", "src/index.js"),
        (Language.BOOTSTRAP, "bootstrap", "bootstrap"),
        (Language.WASM, "main.wasm", "main.wasm"),
    ],
)
def test_the_entrypoint_names_a_file_of_the_bundle(language: Language, entrypoint: str, path: str) -> None:
    def said(path: str, executable: bool) -> bytes:
        files = {path: Packed(b"x", executable)}
        made = describe(files, language=language, entrypoint=entrypoint)
        return manifest.render(made, artefact="a.zip", digest="0" * 64)

    found = parse(said(path, executable=True))
    entry = manifest.entry_file(language, entrypoint, found.files)
    assert entry is not None
    assert entry.path == path
    assert rejected(lambda: parse(said("other", executable=True))) is BundleFault.MANIFEST_FIELDS
    if language is Language.BOOTSTRAP:
        assert rejected(lambda: parse(said(path, executable=False))) is BundleFault.MANIFEST_FIELDS


# --- the envelope -------------------------------------------------------------------------------------------------


def envelope(*signatures: Signature, payload: bytes = MADE.payload) -> bytes:
    return signing.render_envelope(Envelope(payload, signatures))


def signed_by(*seeds: int) -> tuple[Signature, ...]:
    return tuple(signing.sign(MADE.payload, key(seed)).signatures[0] for seed in seeds)


def test_what_is_signed_is_the_pae_of_dsse() -> None:
    assert signing.pae(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


def test_a_signature_of_a_trusted_key_counts() -> None:
    parsed = signing.parse_envelope(MADE.envelope)
    assert signing.render_envelope(parsed) == MADE.envelope
    assert signing.signers(parsed, ring()) == (trusted(key()),)


def test_one_good_signature_counts_whatever_stands_beside_it() -> None:
    good, unknown, revoked, expired, bad = signed_by(1, 2, 3, 4, 5)
    bad = Signature(bad.keyid, bytes(64))
    short = Signature(bad.keyid, b"short")
    keyring = ring(
        trusted(key(1)), trusted(key(3), revoked=True), trusted(key(4), not_after=NOW), trusted(key(5)),
    )  # fmt: skip
    for order in ((bad, short, unknown, revoked, expired, good), (good, expired, revoked, unknown, bad)):
        assert signing.signers(Envelope(MADE.payload, order), keyring) == (trusted(key(1)),)
    again = (Signature(good.keyid, bytes(64)), good)
    assert signing.signers(Envelope(MADE.payload, again), keyring) == (trusted(key(1)),)


def test_without_a_good_signature_the_rejection_names_what_came_closest() -> None:
    untrusted, revoked, expired, bad = signed_by(2, 3, 4, 5)
    bad = Signature(bad.keyid, bytes(64))
    keyring = ring(trusted(key(3), revoked=True), trusted(key(4), not_after=NOW), trusted(key(5)))

    def fault(*found: Signature) -> BundleFault:
        return rejected(lambda: signing.signers(Envelope(MADE.payload, found), keyring))

    assert fault(untrusted) is BundleFault.SIG_UNTRUSTED_KEY
    assert fault(untrusted, expired) is BundleFault.SIG_EXPIRED
    assert fault(expired, revoked) is BundleFault.SIG_REVOKED
    assert fault(revoked, bad, untrusted) is BundleFault.SIG_INVALID
    later = Keyring(keyring.keys, NOW - timedelta(seconds=1))
    assert signing.signers(Envelope(MADE.payload, (expired,)), later)


def test_people_are_told_what_each_signature_is_worth() -> None:
    good, unknown, revoked, expired, bad = signed_by(1, 2, 3, 4, 5)
    bad = Signature(bad.keyid, bytes(64))
    keyring = ring(
        trusted(key(1)), trusted(key(3), revoked=True), trusted(key(4), not_after=NOW), trusted(key(5)),
    )  # fmt: skip
    silent = (Signature("", good.value), Signature("", unknown.value))
    found = signing.judged(Envelope(MADE.payload, (good, unknown, revoked, expired, bad, *silent)), keyring)
    assert [worth for _, worth in found] == [
        "trusted",
        "unknown",
        "revoked",
        "expired",
        "invalid",
        "trusted",
        "unknown",
    ]
    assert [keyid for keyid, _ in found[5:]] == [good.keyid, ""]


def test_a_keyid_is_a_hint_and_never_a_proof() -> None:
    (other,) = signed_by(2)
    (mine,) = signed_by(1)
    lying = Envelope(MADE.payload, (Signature(mine.keyid, other.value),))
    assert rejected(lambda: signing.signers(lying, ring())) is BundleFault.SIG_INVALID
    silent = Envelope(MADE.payload, (Signature("", mine.value),))
    assert signing.signers(silent, ring(trusted(key(2)), trusted(key(1)))) == (trusted(key(1)),)
    without = json.dumps({**json.loads(MADE.envelope), "signatures": [{"sig": base64.b64encode(mine.value).decode()}]})
    assert signing.parse_envelope(without.encode()) == silent
    broken = ring(trusted(key(1), public=b"short"))
    assert rejected(lambda: signing.signers(Envelope(MADE.payload, (mine,)), broken)) is BundleFault.SIG_INVALID


def test_another_payload_under_the_same_signature_is_refused() -> None:
    edited = Envelope(MADE.payload.replace(b'"exec":true', b'"exec":false'), signed_by(1))
    assert rejected(lambda: signing.signers(edited, ring())) is BundleFault.SIG_INVALID


def test_signing_again_adds_keys_and_replaces_the_own_signature() -> None:
    first = signing.sign(MADE.payload, key(1))
    both = signing.sign(MADE.payload, key(2), first)
    assert [one.keyid for one in both.signatures] == [keyid_of(public_bytes(key(seed))) for seed in (1, 2)]
    assert signing.sign(MADE.payload, key(1), both).signatures == both.signatures[::-1]
    assert len(signing.sign(b"another", key(2), first).signatures) == 1
    full = first
    for seed in range(2, 9):
        full = signing.sign(MADE.payload, key(seed), full)
    assert len(full.signatures) == 8
    with pytest.raises(RefusedInput, match="8 signatures already"):
        signing.sign(MADE.payload, key(9), full)
    with pytest.raises(RefusedInput, match="4,194,304 bytes"):
        signing.sign(bytes(signing.MAX_PAYLOAD + 1), key(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"payloadType": "text/plain"}, {"payload": "%"}, {"payload": "YQ"}, {"payload": "YR=="}, {"payload": "Y==="},
        {"payload": 1}, {"payload": None}, {"signatures": []}, {"signatures": None}, {"signatures": {}},
        {"signatures": [1]}, {"signatures": [{}]}, {"signatures": [{"keyid": "a"}]}, {"more": 1},
        {"signatures": [{"keyid": 1, "sig": "YQ=="}]}, {"signatures": [{"keyid": "a", "sig": 1}]},
        {"signatures": [{"keyid": "a", "sig": ""}]}, {"signatures": [{"keyid": "a", "sig": "YR=="}]},
        {"signatures": [{"keyid": "a", "sig": "YQ==", "alg": "none"}]},
        {"signatures": [{"keyid": "\n", "sig": "YQ=="}]},
        {"signatures": [{"keyid": "a", "sig": "YQ=="}] * 9}, {"signatures": [{"keyid": "a", "sig": "Y" * 2000}]},
    ],
    ids=range(22),
)  # fmt: skip
def test_an_envelope_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    raw = json.dumps({**json.loads(MADE.envelope), **changes}).encode()
    assert rejected(lambda: signing.parse_envelope(raw)) is BundleFault.ENVELOPE


def test_an_envelope_that_is_too_large_is_refused() -> None:
    assert rejected(lambda: signing.parse_envelope(bytes(signing.MAX_ENVELOPE + 1))) is BundleFault.SIZE
    large = envelope(*signed_by(1), payload=bytes(signing.MAX_PAYLOAD + 1))
    assert rejected(lambda: signing.parse_envelope(large)) is BundleFault.SIZE
    assert rejected(lambda: signing.parse_envelope(b"[" * 100_000)) is BundleFault.ENVELOPE
    assert rejected(lambda: signing.parse_envelope(b'{"a":1,"a":1}')) is BundleFault.ENVELOPE


def test_numbers_are_whole_and_flags_are_flags() -> None:
    code = BundleFault.MANIFEST_FIELDS
    assert strict.whole(3, "it", 3, 3, code) == 3
    for value in (True, 3.0, "3", None, 4, 2):
        assert rejected(lambda value=value: strict.whole(value, "it", 3, 3, code)) is code
    for raw in (b"NaN", b"[Infinity]", b"-Infinity"):
        assert rejected(lambda raw=raw: strict.load(raw, code)) is code
    assert strict.flag(False, "it", code) is False
    assert rejected(lambda: strict.flag(1, "it", code)) is code


# --- key files ----------------------------------------------------------------------------------------------------


def test_a_pair_is_made_once_and_its_private_half_is_private(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    keyid = keys.generate(path)
    assert path.stat().st_mode & 0o777 == 0o600
    public = keys.read_public(tmp_path / "my.key.pub")
    assert keyid_of(public) == keyid
    assert public_bytes(keys.read_private(path)) == public
    assert keyid.startswith("ed25519:")
    assert len(keyid) == len("ed25519:") + 16
    before = path.read_bytes()
    with pytest.raises(RefusedInput, match="never overwritten"):
        keys.generate(path)
    assert path.read_bytes() == before
    with pytest.raises(RefusedInput, match="choose a directory"):
        keys.generate(tmp_path / "none" / "my.key")


def test_key_files_that_others_can_read_or_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    keys.generate(path)
    path.chmod(0o640)
    with pytest.raises(RefusedInput, match="chmod 600"):
        keys.read_private(path)
    with pytest.raises(RefusedInput, match="cannot be read"):
        keys.read_private(tmp_path / "none")
    private = ec.generate_private_key(ec.SECP256R1())
    other, locked = tmp_path / "ec.key", tmp_path / "locked.key"
    other.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    locked.write_bytes(key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    for wrong in (other, locked, tmp_path / "my.key.pub"):
        wrong.chmod(0o600)
        with pytest.raises(RefusedInput, match="no Ed25519 private key"):
            keys.read_private(wrong)
        if wrong.suffix == ".key":
            with pytest.raises(RefusedInput, match="no Ed25519 public key"):
                keys.read_public(wrong)
