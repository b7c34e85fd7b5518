"""Keys of bundles: what a keyring holds, and the files in which authors keep their pairs. Ed25519 alone.

A key's entry names its algorithm; an envelope never does, so that nobody can choose a weaker one. A `keyid` is made
from the public key, and is a hint where to look, never a proof.
"""

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from trace_ray.bundle.manifest import Language
from trace_ray.errors import RefusedInput

PUBLIC_BYTES: Final = 32
KEYID_DIGITS: Final = 16
MAX_FILE: Final = 64 * 1024  # bytes of a key file: a key takes some hundred
PUBLIC_SUFFIX: Final = ".pub"
OTHERS: Final = 0o077


class Algorithm(StrEnum):
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One key of an organisation. `public` is raw (32 bytes); a key signs for its `languages` alone.

    From `not_after` on, and once `revoked`, its signatures do not count, whenever they were made.
    """

    keyid: str
    public: bytes
    languages: frozenset[Language]
    not_after: datetime | None = None
    revoked: bool = False
    algorithm: Algorithm = Algorithm.ED25519

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Say whether this key made the signature. What is no key or no signature has signed nothing."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that an organisation trusted at the instant `as_of`, revoked ones among them."""

    keys: tuple[TrustedKey, ...]
    as_of: datetime

    def expired(self, key: TrustedKey) -> bool:
        return key.not_after is not None and key.not_after <= self.as_of


def keyid_of(public: bytes) -> str:
    """Return the name of a raw public key: `ed25519:` and 16 hexadecimal digits of its SHA-256."""
    return f"{Algorithm.ED25519}:{hashlib.sha256(public).hexdigest()[:KEYID_DIGITS]}"


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """Return the raw public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


# --- files --------------------------------------------------------------------------------------------------------


def generate(path: Path) -> str:
    """Make a pair: the private key at `path`, which its owner alone can read, the public one beside it (`.pub`).

    Returns its keyid. Nothing is overwritten.

    Raises:
        RefusedInput
    """
    key = Ed25519PrivateKey.generate()
    beside = path.with_name(path.name + PUBLIC_SUFFIX)
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    _create(beside, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    return keyid_of(public_bytes(key))


def read_private(path: Path) -> Ed25519PrivateKey:
    """Return the key of a private key file (PEM, PKCS #8, without a password).

    Raises:
        RefusedInput: others can read it, or it is none.
    """
    content = _read(path)
    if path.stat().st_mode & OTHERS:
        raise RefusedInput(f"others can read {path}: run `chmod 600` on it, or make a new key")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise RefusedInput(f"{path} holds no Ed25519 private key: make one with `trace-ray bundle keygen`")
    return key


def read_public(path: Path) -> bytes:
    """Return the raw key of a public key file (PEM).

    Raises:
        RefusedInput
    """
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise RefusedInput(f"{path} holds no Ed25519 public key: name the .pub file of `trace-ray bundle keygen`")
    return public_bytes(key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        raise RefusedInput(f"{path} cannot be read: name a key file that is there") from None


def _create(path: Path, content: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise RefusedInput(f"{path} exists, and a key is never overwritten: choose another name") from None
    except OSError:
        raise RefusedInput(f"{path} cannot be written: choose a directory of yours") from None
