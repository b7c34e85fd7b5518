"""Signs and verifies tokens (SPEC section 7). Pure: keys and clock are passed in.

A user token says who asks and nothing else. A capability token says what one attempt of a task may read, pinned to
exact objects. Every refusal is `TokenRefused` with a reason that holds no part of the token.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

import jwt

from trace_ray import packed_grant
from trace_ray.access import MAX_SUBJECT, Capability, UserIdentity, read_prefixes
from trace_ray.contracts import Grant, OrgId, TaskId
from trace_ray.errors import RefusedInput, TokenFault, TokenRefused
from trace_ray.token_keys import Algorithm, KeyRing

USER_AUDIENCE: Final = "trace.user"
TASK_AUDIENCE: Final = "trace.task"
LEEWAY_S: Final = 5.0  # clocks of machines that ask a time server differ by less
MAX_CHARS: Final = 8_190  # of a token: what common proxies take as one header line (8 KiB) with the header's end
PACKED_CHARS: Final = 5_200  # of a packed grant inside a token; with the rest it stays below MAX_CHARS

SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
MAX_INSTANT: Final = 1e11  # seconds; the year 5138, which a datetime can still hold
SIGNATURES: Final = jwt.PyJWS(algorithms=list(Algorithm))
NOT_OURS: Final = ("crit", "b64")  # header parameters that change how a token is read


def sign_user(ring: KeyRing, *, subject: str, now: datetime, lifetime_s: float) -> str:
    """Return a token that says: the bearer is `subject`.

    Raises:
        RefusedInput: the ring can only verify.
    """
    return _sign(ring, {"aud": USER_AUDIENCE, "sub": subject, **_times(now, lifetime_s)})


def verify_user(ring: KeyRing, token: str, *, now: datetime) -> UserIdentity:
    """Return whom a user token names.

    Raises:
        TokenRefused
    """
    return UserIdentity(str(_verify(ring, token, audience=USER_AUDIENCE, now=now)["sub"]))


def sign_capability(
    ring: KeyRing,
    *,
    grant: Grant,
    task_id: TaskId,
    attempt: int,
    now: datetime,
    lifetime_s: float,
    write: Sequence[str] = (),
) -> str:
    """Return a token that lets one attempt of a task read what is granted, and write under the prefixes.

    Raises:
        RefusedInput: the ring can only verify, or too many datasets are named.
    """
    packed = packed_grant.pack(grant)
    claims = {
        "aud": TASK_AUDIENCE,
        "sub": f"task:{task_id}",
        "org_id": str(grant.org_id),
        "task_id": str(task_id),
        "attempt": attempt,
        "datasets": {
            "names": [dataset.name for dataset in grant.datasets],
            "as_of": max((dataset.snapshot for dataset in grant.datasets), default=0),
            "digest": packed_grant.digest(grant),
            **({"grant": packed} if len(packed) <= PACKED_CHARS else {}),
        },
        "s3": {"read": list(read_prefixes(grant)), "write": list(write)},
        **_times(now, lifetime_s),
    }
    token = _sign(ring, claims)
    if len(token) > MAX_CHARS:
        raise RefusedInput("a task may not read so many datasets at once: name fewer")
    return token


def verify_capability(ring: KeyRing, token: str, *, now: datetime) -> Capability:
    """Return what a capability token says. Whether its attempt still runs, only the ledger knows.

    Raises:
        TokenRefused
    """
    claims = _verify(ring, token, audience=TASK_AUDIENCE, now=now)
    try:
        return _capability(claims)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenRefused(TokenFault.CLAIM) from None


def kid_of(token: str) -> str:
    """Return the name of the key that a token claims to be signed with. Nothing is verified.

    Raises:
        TokenRefused: it is not a token.
    """
    kid = _header(token).get("kid")
    if not isinstance(kid, str):
        raise TokenRefused(TokenFault.CLAIM)
    return kid


# --- parts --------------------------------------------------------------------------------------------------------


def _times(now: datetime, lifetime_s: float) -> dict[str, int]:
    if not 1 <= lifetime_s < math.inf:
        raise RefusedInput("a token must live for a second or more: ask for a longer life")
    issued = int(now.timestamp())
    return {"iat": issued, "nbf": issued, "exp": issued + int(lifetime_s)}


def _sign(ring: KeyRing, claims: Mapping[str, object]) -> str:
    key = ring.current
    if key.signing is None:
        raise RefusedInput("the keys here can only check tokens: get tokens where the private keys are")
    return jwt.encode({"iss": ring.issuer, **claims}, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})


def _verify(ring: KeyRing, token: str, *, audience: str, now: datetime) -> Mapping[str, object]:
    """Return the claims of a token that is valid for this audience at this moment."""
    kid = kid_of(token)
    key = ring.find(kid)
    if key is None:
        raise TokenRefused(TokenFault.UNKNOWN_KEY)
    try:  # the key's own algorithm is the only one that is tried, whatever the header says
        content = SIGNATURES.decode(token, key.verifying, algorithms=[key.algorithm])
    except jwt.PyJWTError:
        raise TokenRefused(TokenFault.SIGNATURE) from None
    claims = _object(content)
    _check(claims, issuer=ring.issuer, audience=audience, now=now.timestamp())
    return claims


def _header(token: str) -> Mapping[str, object]:
    """Return the header of a text that is spelled as a token must be; each token has one spelling only."""
    if len(token) > MAX_CHARS or not SHAPE.fullmatch(token):
        raise TokenRefused(TokenFault.MALFORMED)
    header, _, _ = (_segment(part) for part in token.split("."))
    found = _object(header)
    if any(name in found for name in NOT_OURS):
        raise TokenRefused(TokenFault.MALFORMED)
    return found


def _segment(part: str) -> bytes:
    """Decode base64url whose last character has no loose bits."""
    try:
        value = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise TokenRefused(TokenFault.MALFORMED) from None
    if base64.urlsafe_b64encode(value).rstrip(b"=").decode() != part:
        raise TokenRefused(TokenFault.MALFORMED)
    return value


def _object(content: bytes) -> Mapping[str, object]:
    """Return a JSON object that names nothing twice."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        found: object = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise TokenRefused(TokenFault.MALFORMED) from None
    if not isinstance(found, dict):
        raise TokenRefused(TokenFault.MALFORMED)
    return cast(Mapping[str, object], found)


def _check(claims: Mapping[str, object], *, issuer: str, audience: str, now: float) -> None:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise TokenRefused(TokenFault.CLAIM)
    if claims.get("iss") != issuer:
        raise TokenRefused(TokenFault.ISSUER)
    if claims.get("aud") not in (audience, [audience]):
        raise TokenRefused(TokenFault.AUDIENCE)
    if now >= _instant(claims.get("exp")) + LEEWAY_S:
        raise TokenRefused(TokenFault.EXPIRED)
    if any(_instant(claims[name]) > now + LEEWAY_S for name in ("nbf", "iat") if name in claims):
        raise TokenRefused(TokenFault.NOT_YET_VALID)


def _instant(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_INSTANT:
        raise TokenRefused(TokenFault.CLAIM)
    return float(value)


def _capability(claims: Mapping[str, Any]) -> Capability:
    """Read the claims of a capability token; ours, but checked, since a wrong grant would be worse than none."""
    datasets, places = claims["datasets"], claims["s3"]
    task_id, org_id = TaskId(UUID(claims["task_id"])), OrgId(UUID(claims["org_id"]))
    names, as_of = _texts(datasets["names"]), _count(datasets["as_of"])
    grant = packed_grant.unpack(datasets["grant"]) if "grant" in datasets else None
    if claims["sub"] != f"task:{task_id}" or not isinstance(datasets["digest"], str):
        raise ValueError("the subject is not the task")
    if grant is not None and (
        grant.org_id != org_id
        or packed_grant.digest(grant) != datasets["digest"]
        or tuple(dataset.name for dataset in grant.datasets) != names
    ):
        raise ValueError("the grant is not the one that is named")
    return Capability(
        org_id=org_id,
        task_id=task_id,
        attempt=_count(claims["attempt"]),
        names=names,
        as_of=as_of,
        grant_digest=datasets["digest"],
        grant=grant,
        read=_texts(places["read"]),
        write=_texts(places["write"]),
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
    )


def _texts(values: object) -> tuple[str, ...]:
    found = tuple(cast(list[object], values)) if isinstance(values, list) else (None,)
    if not all(isinstance(value, str) for value in found):
        raise ValueError("not a list of texts")
    return cast(tuple[str, ...], found)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a count")
    return value
