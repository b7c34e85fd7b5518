"""Keys and rings: one algorithm per key, public keys only in a JWK set, and nothing secret in what is shown."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.grants import NOW, private_pem, public_pem
from trace_ray import tokens
from trace_ray.errors import RefusedInput
from trace_ray.token_keys import KeyRing, jwks, pem_key, pem_keys, ring_from_jwks, secret_key, thumbprint

PEM = private_pem()
SECRET = b"s" * 32


def test_a_jwk_set_holds_public_keys_and_checks_what_the_private_ones_sign() -> None:
    ring = KeyRing((pem_key(PEM), pem_key(private_pem()), secret_key("lite", SECRET)))
    document = json.loads(json.dumps(jwks(ring)))
    assert [set(key) for key in document["keys"]] == [{"kty", "crv", "x", "y", "kid", "use", "alg"}] * 2
    public = ring_from_jwks(document)
    assert [key.kid for key in public.keys] == [key.kid for key in ring.keys[:2]]
    assert all(key.signing is None for key in public.keys)
    token = tokens.sign_user(ring, subject="x", now=NOW, lifetime_s=60)
    assert tokens.verify_user(public, token, now=NOW).subject == "x"


def test_the_kid_of_a_pem_key_is_its_thumbprint_on_both_sides() -> None:
    assert pem_key(PEM).kid == pem_key(public_pem(PEM)).kid
    assert len(pem_key(PEM).kid) == 43
    assert pem_key(PEM).kid != pem_key(private_pem()).kid
    assert pem_key(PEM, "named").kid == "named"


def test_the_thumbprint_is_that_of_the_standard() -> None:
    """The key is that of RFC 7517, appendix A.1; RFC 7638 hashes its members in lexical order without spaces."""
    key = {
        "kty": "EC", "crv": "P-256", "kid": "x",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }  # fmt: skip
    public = ring_from_jwks({"keys": [key]}).keys[0].verifying
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert thumbprint(public) == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_keys_never_show_their_secret() -> None:
    shown = repr(KeyRing((secret_key("lite", SECRET), pem_key(PEM))))
    assert "ssss" not in shown
    assert "PRIVATE" not in shown
    assert "EllipticCurve" not in shown


def test_a_file_of_keys_holds_several_in_their_order() -> None:
    old = private_pem()
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    traditional = ec.generate_private_key(ec.SECP256R1())
    openssl = parameters + traditional.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    found = pem_keys(b"# current\n" + PEM + b"\n# before\n" + public_pem(old) + openssl)
    assert [key.kid for key in found[:2]] == [pem_key(PEM).kid, pem_key(old).kid]
    assert [key.signing is not None for key in found] == [True, False, True]
    assert pem_keys(b"nothing") == ()


def _rsa() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nonsense",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        private_pem(ec.SECP384R1()),
        public_pem(private_pem(ec.SECP256K1())),
        _rsa(),
        _encrypted(),
    ],
)
def test_keys_of_other_kinds_are_refused_without_a_part_of_them(pem: bytes) -> None:
    with pytest.raises(RefusedInput) as caught:
        pem_key(pem)
    assert str(caught.value) == "a key for tokens cannot be read: give an unencrypted PEM key on the curve P-256"
    assert caught.value.__cause__ is None


def test_short_secrets_and_strange_kids_are_refused() -> None:
    with pytest.raises(RefusedInput, match="32 random bytes"):
        secret_key("a", b"s" * 31)
    for kid in ("", "a b", "ä", "k" * 129, "line\n"):
        with pytest.raises(RefusedInput, match="kid"):
            secret_key(kid, SECRET)


def test_a_ring_has_keys_and_none_twice() -> None:
    with pytest.raises(RefusedInput, match="no key"):
        KeyRing(())
    with pytest.raises(RefusedInput, match="same kid"):
        KeyRing((secret_key("a", SECRET), secret_key("a", SECRET)))
    with pytest.raises(RefusedInput, match="same"):
        KeyRing((pem_key(PEM), pem_key(public_pem(PEM))))


def _jwk(**changes: object) -> dict[str, object]:
    return {**jwks(KeyRing((pem_key(PEM),)))["keys"][0], **changes}


@pytest.mark.parametrize(
    "stranger",
    [
        {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"},
        {"kty": "oct", "kid": "o", "k": "c2VjcmV0"},
        _jwk(use="enc"),
        _jwk(alg="ES384"),
        _jwk(crv="P-384"),
        _jwk(kid=None),
        "text",
        None,
    ],
)
def test_keys_of_no_use_in_a_set_are_passed_over(stranger: object) -> None:
    ring = ring_from_jwks({"keys": [stranger, _jwk(kid="ours")]}, "https://idp.example")
    assert ([key.kid for key in ring.keys], ring.issuer) == (["ours"], "https://idp.example")
    with pytest.raises(RefusedInput, match="no key for ES256"):
        ring_from_jwks({"keys": [stranger]})


@pytest.mark.parametrize("document", [None, [], "keys", {}, {"keys": None}, {"keys": "abc"}, {"keys": {"kid": 1}}])
def test_what_is_no_jwk_set_is_refused(document: object) -> None:
    with pytest.raises(RefusedInput, match="not a JWK set"):
        ring_from_jwks(document)


@pytest.mark.parametrize("change", [{"x": "AA"}, {"y": "A" * 43}, {"x": 5}, {"x": "ä" * 43}, {"y": None}])
def test_a_key_that_is_no_point_of_the_curve_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RefusedInput, match="not a point"):
        ring_from_jwks({"keys": [_jwk(**change)]})
    without = _jwk()
    del without["x"]
    with pytest.raises(RefusedInput, match="not a point"):
        ring_from_jwks({"keys": [without]})
