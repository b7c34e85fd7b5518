"""Signatures of bundles: DSSE envelopes (pre-authentication encoding, Ed25519). Pure.

What is signed is the payload as received, byte for byte; nothing of it is read before a signature holds.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trace_ray.bundle import strict
from trace_ray.bundle.keys import Keyring, TrustedKey, keyid_of, public_bytes
from trace_ray.errors import BundleFault, BundleRejected, RefusedInput

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_SIGNATURES: Final = 8
MAX_PAYLOAD: Final = 4 * 1024**2
MAX_ENVELOPE: Final = 6 * 1024**2  # the payload in base64, and signatures
BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
SHORT_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{1,1024}={0,2}")
KEYID: Final = re.compile(r"[ -~]{0,128}")


@dataclass(frozen=True, slots=True)
class Signature:
    """`keyid` says which key to look for; empty when the signer did not say."""

    keyid: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload: bytes) -> bytes:
    """Return what is signed (DSSE v1): the payload with its type, each with its length."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def parse_envelope(raw: bytes) -> Envelope:
    """Return the envelope.

    Raises:
        BundleRejected: `size` above 4 MiB of payload, otherwise `envelope`.
    """
    if len(raw) > MAX_ENVELOPE:
        raise BundleRejected(BundleFault.SIZE, f"its statement is larger than {MAX_PAYLOAD:,} bytes: list fewer files")
    code = BundleFault.ENVELOPE
    found = strict.members(strict.load(raw, code), "the envelope", ("payloadType", "payload", "signatures"), code)
    if found["payloadType"] != PAYLOAD_TYPE:
        raise BundleRejected(code, f"payloadType must be {PAYLOAD_TYPE}")
    payload = _decoded(strict.text(found["payload"], "payload", BASE64, "in base64", code))
    if len(payload) > MAX_PAYLOAD:
        raise BundleRejected(BundleFault.SIZE, f"its statement is larger than {MAX_PAYLOAD:,} bytes: list fewer files")
    listed = strict.items(found["signatures"], "signatures", 1, MAX_SIGNATURES, code)
    return Envelope(payload, tuple(_signature(one) for one in listed))


def render_envelope(envelope: Envelope) -> bytes:
    """Return the envelope as JSON, always in the same bytes."""
    signatures = [{"keyid": one.keyid, "sig": base64.b64encode(one.value).decode()} for one in envelope.signatures]
    payload = base64.b64encode(envelope.payload).decode()
    document = {"payloadType": PAYLOAD_TYPE, "payload": payload, "signatures": signatures}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def sign(payload: bytes, key: Ed25519PrivateKey, before: Envelope | None = None) -> Envelope:
    """Return the payload with a signature of this key, beside those of `before` when that has the same payload.

    Raises:
        RefusedInput: there are 8 signatures of other keys already, or the payload is too large.
    """
    if len(payload) > MAX_PAYLOAD:
        raise RefusedInput(f"the statement is larger than {MAX_PAYLOAD:,} bytes: put fewer files into the bundle")
    keyid = keyid_of(public_bytes(key))
    others = before.signatures if before is not None and before.payload == payload else ()
    kept = tuple(one for one in others if one.keyid != keyid)
    if len(kept) >= MAX_SIGNATURES:
        raise RefusedInput(f"the bundle has {MAX_SIGNATURES} signatures already: build it again and sign once")
    return Envelope(payload, (*kept, Signature(keyid, key.sign(pae(payload)))))


def signers(envelope: Envelope, keyring: Keyring) -> tuple[TrustedKey, ...]:
    """Return the trusted keys that signed; at least one.

    One good signature is enough, whatever the others are worth: while keys are rotated, a bundle carries signatures of
    keys that some already trust and others do not any more, and a bad signature can take nothing from a good one.
    Without a good one the rejection names what came closest.

    Raises:
        BundleRejected: `sig_invalid`, `sig_revoked`, `sig_expired` or `sig_untrusted_key`.
    """
    message = pae(envelope.payload)
    good: dict[str, TrustedKey] = {}
    faults: set[BundleFault] = set()
    for signature in envelope.signatures:
        for key in keyring.keys:
            if signature.keyid not in ("", key.keyid):
                continue
            if key.revoked:
                faults.add(BundleFault.SIG_REVOKED)
            elif keyring.expired(key):
                faults.add(BundleFault.SIG_EXPIRED)
            elif key.signed(message, signature.value):
                good[key.keyid] = key
            else:
                faults.add(BundleFault.SIG_INVALID)
    if not good:
        raise _rejection(faults)
    return tuple(good.values())


def judged(envelope: Envelope, keyring: Keyring) -> tuple[tuple[str, str], ...]:
    """Return keyid and worth of each signature, for people: `trusted`, `expired`, `revoked`, `invalid`, `unknown`."""
    message = pae(envelope.payload)
    return tuple(_judged(signature, message, keyring) for signature in envelope.signatures)


def _judged(signature: Signature, message: bytes, keyring: Keyring) -> tuple[str, str]:
    meant = [key for key in keyring.keys if signature.keyid in ("", key.keyid)]
    for key in meant:
        if key.signed(message, signature.value):
            return key.keyid, "revoked" if key.revoked else "expired" if keyring.expired(key) else "trusted"
    return signature.keyid, "invalid" if meant and signature.keyid else "unknown"


def _rejection(faults: set[BundleFault]) -> BundleRejected:
    if BundleFault.SIG_INVALID in faults:
        return BundleRejected(BundleFault.SIG_INVALID, "its signature does not fit its statement: sign it again")
    if BundleFault.SIG_REVOKED in faults:
        return BundleRejected(BundleFault.SIG_REVOKED, "its key is revoked: sign it with another trusted key")
    if BundleFault.SIG_EXPIRED in faults:
        return BundleRejected(BundleFault.SIG_EXPIRED, "its key has expired: sign it with another trusted key")
    return BundleRejected(
        BundleFault.SIG_UNTRUSTED_KEY, "no trusted key signed it: sign it with one, or `trace-ray bundle trust` its key"
    )


def _signature(value: object) -> Signature:
    code = BundleFault.ENVELOPE
    found = strict.members(value, "a signature", ("sig",), code, optional=("keyid",))
    keyid = strict.text(found.get("keyid", ""), "keyid", KEYID, "at most 128 visible ASCII characters", code)
    return Signature(keyid, _decoded(strict.text(found["sig"], "sig", SHORT_BASE64, "in base64", code)))


def _decoded(text: str) -> bytes:
    """Return the bytes of a base64 text; of several texts for the same bytes only one is accepted."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        decoded = b""
    if base64.b64encode(decoded).decode() != text:
        raise BundleRejected(BundleFault.ENVELOPE, "its envelope has no proper base64: sign it again")
    return decoded
