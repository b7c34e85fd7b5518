"""Keys of tokens and rings of them. Pure: bytes and documents in, keys out.

A ring accepts every key that it holds by its `kid`; the first one signs. Each key has one algorithm, which no token can
choose: HS256 with a secret of its own (the local stack), ES256 with a key pair on P-256 (production).
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from trace_ray.errors import RefusedInput

ISSUER: Final = "trace_ray"
MIN_SECRET: Final = 32  # bytes: as long as the hash, RFC 7518 section 3.2
COORDINATE: Final = 32  # bytes of a coordinate on P-256
KID: Final = re.compile(r"[\x21-\x7e]{1,128}")
PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


class Algorithm(StrEnum):
    """How a key signs."""

    HS256 = "HS256"
    ES256 = "ES256"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `signing` is None for one that can only verify. Make it with `secret_key`, `pem_key` or `jwk_key`."""

    kid: str
    algorithm: Algorithm
    verifying: bytes | EllipticCurvePublicKey = field(repr=False)
    signing: bytes | EllipticCurvePrivateKey | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that are accepted, by `kid`; the first one signs. `issuer` is whom tokens must come from."""

    keys: tuple[Key, ...]
    issuer: str = ISSUER

    def __post_init__(self) -> None:
        if not self.keys:
            raise RefusedInput("there is no key for tokens: give at least one")
        if len({key.kid for key in self.keys}) < len(self.keys):
            raise RefusedInput("two keys for tokens are the same or have the same kid: leave one of them out")

    @property
    def current(self) -> Key:
        return self.keys[0]

    def find(self, kid: str) -> Key | None:
        return next((key for key in self.keys if key.kid == kid), None)


def secret_key(kid: str, secret: bytes) -> Key:
    """Return an HS256 key. Raises RefusedInput."""
    if len(secret) < MIN_SECRET:
        raise RefusedInput(f"a secret for tokens is too short: it needs {MIN_SECRET} random bytes")
    return Key(_kid(kid), Algorithm.HS256, secret, secret)


def pem_key(pem: bytes, kid: str | None = None) -> Key:
    """Return an ES256 key of a private or public key on P-256; its `kid` is its thumbprint (RFC 7638) unless named.

    Raises:
        RefusedInput: without a part of the key.
    """
    refused = RefusedInput("a key for tokens cannot be read: give an unencrypted PEM key on the curve P-256")
    try:
        key = load_pem_public_key(pem) if b"PUBLIC KEY" in pem else load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise refused from None
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return _pair(kid, key.public_key(), key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return _pair(kid, key, None)
    raise refused


def pem_keys(pem: bytes) -> tuple[Key, ...]:
    """Return the keys of a file of PEM blocks in order. Blocks that only name a curve are passed over.

    Raises:
        RefusedInput
    """
    blocks = [block for block in PEM_BLOCK.finditer(pem) if block[1] != b"EC PARAMETERS"]
    return tuple(pem_key(block[0]) for block in blocks)


def jwks(ring: KeyRing) -> dict[str, list[dict[str, str]]]:
    """Return the public keys of a ring as a JWK set (RFC 7517). Secrets are never in it."""
    return {"keys": [_jwk(key) for key in ring.keys if isinstance(key.verifying, EllipticCurvePublicKey)]}


def ring_from_jwks(document: object, issuer: str = ISSUER) -> KeyRing:
    """Return the ES256 keys of a JWK set, whoever wrote it; keys of other kinds are passed over.

    Raises:
        RefusedInput: it is not a JWK set, or none of its keys is of use.
    """
    found: object = cast(Mapping[str, object], document).get("keys") if isinstance(document, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise RefusedInput("the keys for tokens are not a JWK set: name the endpoint that serves one")
    keys = [_from_jwk(cast(Mapping[str, object], one)) for one in cast(Sequence[object], found) if _fits(one)]
    if not keys:
        raise RefusedInput("the JWK set has no key for ES256: add one with kty EC, crv P-256 and a kid")
    return KeyRing(tuple(keys), issuer)


def thumbprint(key: EllipticCurvePublicKey) -> str:
    """Return the SHA-256 thumbprint of a public key (RFC 7638): the same everywhere."""
    x, y = _coordinates(key)
    members = json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
    return _base64(hashlib.sha256(members.encode()).digest())


def _pair(kid: str | None, public: EllipticCurvePublicKey, private: EllipticCurvePrivateKey | None) -> Key:
    return Key(thumbprint(public) if kid is None else _kid(kid), Algorithm.ES256, public, private)


def _kid(kid: str) -> str:
    if not KID.fullmatch(kid):
        raise RefusedInput("the kid of a key for tokens is wrong: write 1 to 128 visible ASCII characters")
    return kid


def _jwk(key: Key) -> dict[str, str]:
    x, y = _coordinates(cast(EllipticCurvePublicKey, key.verifying))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": key.kid, "use": "sig", "alg": Algorithm.ES256.value}


def _fits(one: object) -> bool:
    """Say whether an entry of a JWK set is a key for ES256 signatures; sets of identity providers hold others too."""
    if not isinstance(one, Mapping):
        return False
    jwk = cast(Mapping[str, object], one)
    kind = (jwk.get("kty"), jwk.get("crv"), jwk.get("use", "sig"), jwk.get("alg", "ES256"))
    return kind == ("EC", "P-256", "sig", "ES256") and isinstance(jwk.get("kid"), str)


def _from_jwk(jwk: Mapping[str, object]) -> Key:
    try:
        x, y = (int.from_bytes(_coordinate(jwk[name])) for name in ("x", "y"))
        public = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    except (KeyError, ValueError):
        raise RefusedInput("a key of the JWK set is not a point on P-256: publish the set anew") from None
    return _pair(str(jwk["kid"]), public, None)


def _coordinate(text: object) -> bytes:
    value = base64.urlsafe_b64decode(f"{text}=")
    if len(value) != COORDINATE:
        raise ValueError("not a coordinate on P-256")
    return value


def _coordinates(key: EllipticCurvePublicKey) -> tuple[str, str]:
    numbers = key.public_numbers()
    return _base64(numbers.x.to_bytes(COORDINATE)), _base64(numbers.y.to_bytes(COORDINATE))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
