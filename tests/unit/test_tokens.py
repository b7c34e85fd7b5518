"""Tokens: what is signed comes back, and whatever else arrives is refused with a reason that holds no part of it."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grants import NOW, TASK, grant, granted, private_pem, public_pem
from trace_ray import packed_grant, tokens
from trace_ray.access import UserIdentity
from trace_ray.contracts import DEFAULT_ORG, Grant
from trace_ray.errors import RefusedInput, TokenFault, TokenRefused, Unauthenticated
from trace_ray.token_keys import Key, KeyRing, pem_key, secret_key

SECRET = b"0123456789abcdef0123456789abcdef"
HMAC_RING = KeyRing((secret_key("current", SECRET), secret_key("next", SECRET[::-1])))
PEM = private_pem()
EC_RING = KeyRing((pem_key(PEM),))
RINGS = pytest.mark.parametrize("ring", [HMAC_RING, EC_RING], ids=["HS256", "ES256"])
HOUR_S = 3600.0


def user(ring: KeyRing = HMAC_RING, *, subject: str = "user:1", now: datetime = NOW) -> str:
    return tokens.sign_user(ring, subject=subject, now=now, lifetime_s=HOUR_S)


def capability(ring: KeyRing = HMAC_RING, one: Grant | None = None) -> str:
    return tokens.sign_capability(
        ring, grant=one or grant(), task_id=TASK, attempt=2, now=NOW, lifetime_s=HOUR_S, write=["artifacts/x/"]
    )


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def signed(claims: Mapping[str, object], key: Key = HMAC_RING.current, **headers: object) -> str:
    """A token with these claims that we signed ourselves."""
    assert key.signing is not None
    return jwt.encode(dict(claims), key.signing, algorithm=key.algorithm, headers={"kid": key.kid, **headers})


def fault(token: str, ring: KeyRing = HMAC_RING, *, now: datetime = NOW, task: bool = False) -> TokenFault:
    verify: Callable[..., object] = tokens.verify_capability if task else tokens.verify_user
    with pytest.raises(TokenRefused) as caught:
        verify(ring, token, now=now)
    assert isinstance(caught.value, Unauthenticated)
    assert str(caught.value).startswith("the token is refused: ")
    assert not [part for part in token.split(".") if len(part) > 8 and part in str(caught.value)]
    assert caught.value.__cause__ is None
    return caught.value.reason


# --- what holds ---------------------------------------------------------------------------------------------------


@RINGS
def test_a_user_token_says_who_asks_and_nothing_else(ring: KeyRing) -> None:
    token = user(ring)
    assert tokens.verify_user(ring, token, now=NOW) == UserIdentity("user:1")
    assert set(claims_of(token)) == {"iss", "aud", "sub", "iat", "nbf", "exp"}
    assert claims_of(token)["aud"] == "trace.user"
    assert jwt.get_unverified_header(token)["kid"] == ring.current.kid


@RINGS
def test_a_capability_token_gives_back_the_whole_grant(ring: KeyRing) -> None:
    one = grant(granted("devnet_blocks"), granted("devnet_logs", snapshot=9))
    token = capability(ring, one)
    found = tokens.verify_capability(ring, token, now=NOW)
    assert found.grant == one
    assert (found.org_id, found.task_id, found.attempt) == (DEFAULT_ORG, TASK, 2)
    assert (found.names, found.as_of) == (("devnet_blocks", "devnet_logs"), 9)
    assert found.read == tuple(sorted(f"cryo/31337/{dataset.dataset_uuid}/" for dataset in one.datasets))
    assert found.write == ("artifacts/x/",)
    assert found.expires_at == NOW + timedelta(seconds=HOUR_S)
    claims = claims_of(token)
    assert (claims["aud"], claims["sub"]) == ("trace.task", f"task:{TASK}")
    assert {"org_id", "task_id", "attempt", "datasets", "s3", "exp", "iss"} <= set(claims)


def test_a_grant_rides_in_the_token_while_that_fits_into_a_header_line() -> None:
    small, large = grant(granted(files=60)), grant(granted(files=1000))
    assert tokens.verify_capability(HMAC_RING, capability(one=small), now=NOW).grant == small
    token = capability(one=large)
    found = tokens.verify_capability(HMAC_RING, token, now=NOW)
    assert found.grant is None
    assert found.grant_digest == packed_grant.digest(large)
    assert len(token) < 1024
    assert all(len(capability(one=grant(granted(files=n)))) <= tokens.MAX_CHARS for n in (50, 65, 70, 75, 80))


def test_an_empty_grant_reads_nothing() -> None:
    found = tokens.verify_capability(HMAC_RING, capability(one=Grant(DEFAULT_ORG, ())), now=NOW)
    assert (found.names, found.as_of, found.read) == ((), 0, ())


def test_more_datasets_than_fit_into_a_token_are_refused_when_it_is_signed() -> None:
    with pytest.raises(RefusedInput, match="name fewer"):
        capability(one=grant(*(granted(f"dataset_{number}", files=1) for number in range(600))))


def test_current_and_next_key_are_both_accepted_and_others_are_not() -> None:
    following = KeyRing((HMAC_RING.keys[1], secret_key("third", b"3" * 32), HMAC_RING.keys[0]))
    assert tokens.verify_user(following, user(), now=NOW)
    assert tokens.verify_user(HMAC_RING, user(following), now=NOW)
    assert fault(user(KeyRing((secret_key("strange", SECRET),)))) is TokenFault.UNKNOWN_KEY


def test_a_ring_of_public_keys_checks_and_cannot_sign() -> None:
    public = KeyRing((pem_key(public_pem(PEM)),))
    assert tokens.verify_user(public, user(EC_RING), now=NOW) == UserIdentity("user:1")
    with pytest.raises(RefusedInput, match="can only check"):
        user(public)


def test_an_audience_may_be_a_list_of_one() -> None:
    claims = claims_of(user())
    assert tokens.verify_user(HMAC_RING, signed(claims | {"aud": ["trace.user"]}), now=NOW)


@pytest.mark.parametrize("lifetime_s", [0.5, 0, -1, float("inf"), float("nan")])
def test_a_token_lives_for_a_finite_time(lifetime_s: float) -> None:
    with pytest.raises(RefusedInput, match="longer life"):
        tokens.sign_user(HMAC_RING, subject="x", now=NOW, lifetime_s=lifetime_s)


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_token_holds_from_its_issue_to_its_end_with_a_little_leeway() -> None:
    token, leeway = user(), timedelta(seconds=tokens.LEEWAY_S)
    end = NOW + timedelta(seconds=HOUR_S)
    for now in (NOW - leeway, NOW, end, end + leeway - timedelta(milliseconds=1)):
        assert tokens.verify_user(HMAC_RING, token, now=now)
    assert fault(token, now=end + leeway) is TokenFault.EXPIRED
    assert fault(token, now=NOW - leeway - timedelta(seconds=1)) is TokenFault.NOT_YET_VALID


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(name: str) -> None:
    claims = claims_of(user())
    late = {name: claims["iat"] + 60}
    assert fault(signed(claims | late)) is TokenFault.NOT_YET_VALID


# --- claims -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [("iss", TokenFault.ISSUER), ("aud", TokenFault.AUDIENCE), ("sub", TokenFault.CLAIM), ("exp", TokenFault.CLAIM)],
)
def test_a_missing_claim_refuses(name: str, reason: TokenFault) -> None:
    for token, task in ((user(), False), (capability(), True)):
        claims = claims_of(token)
        del claims[name]
        assert fault(signed(claims), task=task) is reason


@pytest.mark.parametrize("name", ["org_id", "task_id", "attempt", "datasets", "s3"])
def test_a_capability_token_without_one_of_its_claims_is_refused(name: str) -> None:
    claims = claims_of(capability())
    del claims[name]
    assert fault(signed(claims), task=True) is TokenFault.CLAIM


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sub": ""}, TokenFault.CLAIM),
        ({"sub": 7}, TokenFault.CLAIM),
        ({"sub": "x" * 257}, TokenFault.CLAIM),
        ({"sub": "a\x00b"}, TokenFault.CLAIM),
        ({"sub": "a\ud800"}, TokenFault.CLAIM),
        ({"iss": "https://elsewhere.example"}, TokenFault.ISSUER),
        ({"aud": "trace.task"}, TokenFault.AUDIENCE),
        ({"aud": ["trace.user", "trace.task"]}, TokenFault.AUDIENCE),
        ({"aud": {"trace.user": 1}}, TokenFault.AUDIENCE),
        ({"exp": "2099-01-01"}, TokenFault.CLAIM),
        ({"exp": True}, TokenFault.CLAIM),
        ({"exp": None}, TokenFault.CLAIM),
        ({"exp": float("inf")}, TokenFault.CLAIM),
        ({"exp": float("nan")}, TokenFault.CLAIM),
        ({"exp": 10**400}, TokenFault.CLAIM),
        ({"nbf": "now"}, TokenFault.CLAIM),
    ],
)
def test_a_wrong_claim_refuses(change: dict[str, object], reason: TokenFault) -> None:
    assert fault(signed(claims_of(user()) | change)) is reason


@pytest.mark.parametrize(
    "change",
    [
        {"sub": "task:another"},
        {"sub": "user:1"},
        {"task_id": "no uuid"},
        {"task_id": 5},
        {"org_id": "02206ae4-4d83-5aad-8196-0d3fc6a4d1da"},
        {"attempt": -1},
        {"attempt": True},
        {"attempt": "2"},
        {"s3": {"read": "cryo/", "write": ()}},
        {"s3": {"read": (1,), "write": ()}},
        {"s3": 1},
        {"datasets": "all"},
        {"datasets.digest": 1},
        {"datasets.digest": "0" * 64},
        {"datasets.names": ["devnet_logs"]},
        {"datasets.as_of": None},
        {"datasets.grant": "AAAA"},
        {"datasets.grant": packed_grant.pack(grant(granted("devnet_logs")))},
        {"datasets.grant": None},
    ],
    ids=str,
)
def test_a_capability_whose_claims_contradict_each_other_is_refused(change: dict[str, object]) -> None:
    claims = claims_of(capability())
    for name, value in change.items():
        outer, _, inner = name.rpartition(".")
        (claims[outer] if outer else claims)[inner] = value
    assert fault(signed(claims), task=True) is TokenFault.CLAIM


def test_tokens_of_people_and_tasks_cannot_be_swapped() -> None:
    assert fault(user(), task=True) is TokenFault.AUDIENCE
    assert fault(capability()) is TokenFault.AUDIENCE


def test_tokens_of_another_installation_are_refused() -> None:
    assert fault(user(replace(HMAC_RING, issuer="https://idp.example"))) is TokenFault.ISSUER
    assert fault(user(), replace(HMAC_RING, issuer="https://idp.example")) is TokenFault.ISSUER


# --- signatures ---------------------------------------------------------------------------------------------------


@RINGS
def test_every_changed_character_of_a_token_is_noticed(ring: KeyRing) -> None:
    token = user(ring)
    for place, character in enumerate(token):
        for other in ("A", "B", "_", "."):
            if other != character:
                fault(token[:place] + other + token[place + 1 :], ring)


def test_a_token_has_one_spelling() -> None:
    """The last character of a segment may hold bits that decode to nothing."""
    parts = user().split(".")
    for number, part in enumerate(parts):
        for last in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {part[-1]}:
            fault(".".join([*parts[:number], part[:-1] + last, *parts[number + 1 :]]))
    loose = parts[2][:-1] + chr(ord(parts[2][-1]) + 1)  # 43 characters for 32 bytes: two bits are loose
    with pytest.raises(TokenRefused):
        tokens.kid_of(".".join([*parts[:2], loose]))


@RINGS
def test_every_cut_and_every_addition_is_noticed(ring: KeyRing) -> None:
    token = user(ring)
    for end in range(len(token)):
        fault(token[:end], ring)
    for changed in (token + "A", token + "=", token + "==", token + ".", " " + token, token + "\n", token + ".AA"):
        assert fault(changed, ring) in (TokenFault.MALFORMED, TokenFault.SIGNATURE)


def test_the_payload_of_one_token_does_not_go_with_the_signature_of_another() -> None:
    one, other = user().split("."), user(subject="user:2").split(".")
    assert fault(".".join([one[0], other[1], one[2]])) is TokenFault.SIGNATURE


def _by_hand(header: Mapping[str, object], claims: Mapping[str, object], secret: bytes | None) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    text = b".".join(parts)
    digest = b"x" if secret is None else hmac.new(secret, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


def test_no_token_chooses_its_algorithm() -> None:
    claims = claims_of(user())
    kid = EC_RING.current.kid
    public = public_pem(PEM)
    for algorithm, secret in (("HS256", public), ("HS256", public.strip()), ("none", None), ("ES256", public)):
        header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
        assert fault(_by_hand(header, claims, secret), EC_RING) is TokenFault.SIGNATURE
    for algorithm in ("none", "None", "HS512", "hs256", "ES256", "", None, 5):
        header = {"alg": algorithm, "kid": "current"}
        assert fault(_by_hand(header, claims, SECRET)) is TokenFault.SIGNATURE
    assert tokens.verify_user(HMAC_RING, _by_hand({"alg": "HS256", "kid": "current"}, claims, SECRET), now=NOW)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "HS256"}, TokenFault.CLAIM),
        ({"alg": "HS256", "kid": 1}, TokenFault.CLAIM),
        ({"alg": "HS256", "kid": "../current"}, TokenFault.UNKNOWN_KEY),
        ({"alg": "HS256", "kid": "current", "crit": ["exp"]}, TokenFault.MALFORMED),
        ({"alg": "HS256", "kid": "current", "b64": False, "crit": ["b64"]}, TokenFault.MALFORMED),
        ({"alg": "HS256", "kid": "current", "b64": True}, TokenFault.MALFORMED),
    ],
)
def test_headers_that_change_how_a_token_is_read_are_refused(header: Mapping[str, object], reason: TokenFault) -> None:
    assert fault(_by_hand(header, claims_of(user()), SECRET)) is reason


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"7", b"\xff", b"[" * 3000, b'{"sub":"a","sub":"b"}', b"{"])
def test_signed_content_that_is_no_json_object_is_refused(content: bytes) -> None:
    token = jwt.PyJWS().encode(content, SECRET, algorithm="HS256", headers={"kid": "current"})
    assert fault(token) is TokenFault.MALFORMED


def test_a_text_that_is_too_long_is_not_even_read() -> None:
    long = signed(claims_of(user()) | {"more": "x" * tokens.MAX_CHARS})
    assert fault(long) is TokenFault.MALFORMED
    assert tokens.verify_user(HMAC_RING, signed(claims_of(user()) | {"more": "x" * 5000}), now=NOW)
    assert fault("a" * 4000 + "." + "b" * 4000 + "." + "c" * 4000) is TokenFault.MALFORMED


@settings(max_examples=300)
@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{0,60}){0,3}", fullmatch=True)))
def test_whatever_arrives_is_refused_and_nothing_else_happens(text: str) -> None:
    for task in (False, True):
        fault(text, task=task)


def test_the_kid_of_a_token_can_be_read_before_its_key_is_known() -> None:
    assert tokens.kid_of(user()) == "current"
    with pytest.raises(TokenRefused):
        tokens.kid_of("nonsense")
