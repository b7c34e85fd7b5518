"""The one way to believe a bundle, in a fixed order that unpacks nothing before everything else holds. Pure.

Size, SHA-256 against the pin, signature, subject, manifest, structure of the zip; then each file against its own hash
while it is unpacked. Whatever else goes wrong on the way is a rejection as well.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trace_ray.bundle import archive, manifest, signing
from trace_ray.bundle.archive import Archive, Entry
from trace_ray.bundle.keys import Keyring, TrustedKey
from trace_ray.bundle.manifest import MAX_ZIP, BundleFile, Manifest
from trace_ray.errors import BundleFault, BundleRejected


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle that kept every rule that can be checked without unpacking it. `signers`: at least one."""

    digest: str
    manifest: Manifest
    signers: tuple[TrustedKey, ...]
    archive: Archive


def verify(data: bytes, envelope: bytes, *, pin: str, keyring: Keyring) -> Verified:
    """Check a zip and its envelope.

    Args:
        pin: SHA-256 in hex that the ledger names; never one that came with the bundle.

    Raises:
        BundleRejected: and nothing else, whatever the bytes are.
    """
    with _rejecting():
        check_size(len(data))
        digest = hashlib.sha256(data).hexdigest()
        if digest != pin:
            raise BundleRejected(BundleFault.SHA_MISMATCH, f"its SHA-256 is not the pinned {pin[:64]!a}: push it again")
        found, signers = believe(envelope, digest, keyring)
        if found.size != len(data):
            raise BundleRejected(BundleFault.SUBJECT_MISMATCH, "its statement is about a zip of another size: sign it")
        zipped = archive.read(data)
        _check_listed(found, zipped)
        return Verified(digest, found, signers, zipped)


def believe(envelope: bytes, digest: str, keyring: Keyring) -> tuple[Manifest, tuple[TrustedKey, ...]]:
    """Check all that can be checked without the zip, of which `digest` is the SHA-256: who signed what.

    Raises:
        BundleRejected: and nothing else, whatever the bytes are.
    """
    with _rejecting():
        parsed = signing.parse_envelope(envelope)
        signers = signing.signers(parsed, keyring)
        statement = manifest.parse_statement(parsed.payload)
        if statement.digest != digest:
            raise BundleRejected(BundleFault.SUBJECT_MISMATCH, "its statement is about another zip: sign this one")
        found = manifest.parse_predicate(statement.predicate)
        allowed = tuple(key for key in signers if found.language in key.languages)
        if not allowed:
            raise BundleRejected(
                BundleFault.SIG_LANGUAGE, f"its key is not trusted for {found.language}: sign it with one that is"
            )
        return found, allowed


def contents(bundle: Verified) -> Iterator[tuple[BundleFile, Iterator[bytes]]]:
    """Yield each file with its content in parts; a content that is read to its end is the signed one.

    Raises:
        BundleRejected: and nothing else, from the contents.
    """
    entries = {entry.path: entry for entry in bundle.archive.entries}
    for file in bundle.manifest.files:
        yield file, _content(bundle.archive, entries[file.path], file)


def check_contents(bundle: Verified) -> None:
    """Unpack everything to nowhere. Raises BundleRejected."""
    for _, parts in contents(bundle):
        for _ in parts:
            pass


def check_size(size: int) -> None:
    """Raises BundleRejected: `size`, for a zip of more than 50 MiB."""
    if size > MAX_ZIP:
        raise BundleRejected(BundleFault.SIZE, f"the zip is larger than {MAX_ZIP:,} bytes: put less into it")


def _content(zipped: Archive, entry: Entry, file: BundleFile) -> Iterator[bytes]:
    hashed = hashlib.sha256()
    with _rejecting():
        for part in archive.unpack(zipped, entry):
            hashed.update(part)
            yield part
        if hashed.hexdigest() != file.digest:
            raise BundleRejected(
                BundleFault.FILE_SHA_MISMATCH, f"{file.path!a} is not the file of its statement: build it again"
            )


def _check_listed(found: Manifest, zipped: Archive) -> None:
    listed = {(file.path, file.size) for file in found.files}
    packed = {(entry.path, entry.size) for entry in zipped.entries}
    if odd := sorted(path for path, _ in listed ^ packed):
        raise BundleRejected(
            BundleFault.ZIP_MANIFEST_MISMATCH, f"{odd[0]!a} is not both in the zip and in its statement: build it again"
        )


@contextmanager
def _rejecting() -> Generator[None]:
    """Let no error out but a rejection: what was not foreseen must not pass, and must not end who checks."""
    try:
        yield
    except BundleRejected:
        raise
    except Exception as error:  # fail closed, also over a mistake of ours
        raise BundleRejected(
            BundleFault.UNREADABLE, f"it cannot be read ({type(error).__name__}): build it again"
        ) from error
