"""Where the keys of tokens are: files of the data directory, a PEM file, or an endpoint that serves a JWK set.

The local stack makes its keys on first start, readable by their owner alone: three secrets for tokens (current, next
and previous) and one for the hashes of the audit. Files are read again when they change, so that a rotation needs no
restart. An endpoint is asked again when its answer is old, or when a token names a key that is not in it.
"""

import base64
import fcntl
import json
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from trace_ray.errors import KeysUnavailable, RefusedInput
from trace_ray.token_keys import ISSUER, Key, KeyRing, pem_keys, ring_from_jwks, secret_key
from trace_ray.tokens import kid_of

logger = logging.getLogger(__name__)

SECRETS: Final = "token-keys.json"
AUDIT_KEY: Final = "audit.key"
LOCK: Final = "keys.lock"
VERSION: Final = 1
SECRET_BYTES: Final = 32
KID_BYTES: Final = 8
KEPT: Final = 3  # current, next, previous

HTTP_OK: Final = 200
FETCH_S: Final = 5.0
FETCH_MAX_BYTES: Final = 1024**2
FRESH_S: Final = 600.0  # a key that its owner withdrew is refused after so long
LAST_S: Final = 24 * 3600.0  # an endpoint that is down for longer than this stops every token
FLOOR_S: Final = 30.0  # between two fetches, whatever keys strangers' tokens name


class KeySource(Protocol):
    """Gives the ring that a token is to be checked with, or tokens are to be signed with."""

    def ring(self) -> KeyRing:
        """Return the keys that are accepted now. Raises RefusedInput, KeysUnavailable."""
        ...

    def ring_for(self, token: str) -> KeyRing:
        """Return the keys to check this token with. Raises TokenRefused, RefusedInput, KeysUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the keys of people's and of tasks' tokens are. No identity provider has a say in the latter."""

    users: KeySource
    tasks: KeySource


def open_keys(data_dir: Path, *, pem: Path | None, jwks_url: str | None, issuer: str | None) -> Keys:
    """Return the keys that the settings name.

    `pem` holds our own keys in place of those of the data directory; people's tokens are those of `jwks_url` and
    `issuer` where that is given. Nothing is read or fetched yet.
    """
    own = FileKeys(data_dir, pem)
    if jwks_url is None:
        return Keys(own, own)
    return Keys(EndpointKeys(partial(fetch_jwks, jwks_url), issuer=issuer or ISSUER), own)


# --- files of the local stack -------------------------------------------------------------------------------------


def load_ring(data_dir: Path) -> KeyRing:
    """Return the keys of a data directory: current, next and previous; made when there are none.

    Raises:
        RefusedInput: the file is not ours, or cannot be read or written.
    """
    path = data_dir / SECRETS
    if not path.exists():
        with _locked(data_dir):
            _make_ring(path)
    return _read_ring(path)


def rotate(data_dir: Path) -> KeyRing:
    """Sign with the next key from now on, and make another next one.

    Tokens of the key before stay valid until the rotation after: rotating twice refuses every token given out before.

    Raises:
        RefusedInput
    """
    path = data_dir / SECRETS
    with _locked(data_dir):
        _make_ring(path)
        current, following, *_ = _read_ring(path).keys
        _write(path, _document((following, _new_key(), current)))
    return _read_ring(path)


def audit_key(path: Path) -> bytes:
    """Return the key of the audit's hashes; made when there is none. Processes of one installation share the file.

    Raises:
        RefusedInput
    """
    if not path.exists():
        with _locked(path.parent):
            if not path.exists():  # made by another process meanwhile
                _write(path, secrets.token_hex(SECRET_BYTES) + "\n")
    try:
        key = bytes.fromhex(_private_text(path))
    except ValueError:
        key = b""
    if len(key) < SECRET_BYTES:
        raise RefusedInput(
            f"the key of the audit is damaged: write {2 * SECRET_BYTES} hexadecimal digits into its file"
        )
    return key


class FileKeys:
    """Keys of a data directory, or of a PEM file with the current key first; read anew when the file changes."""

    def __init__(self, data_dir: Path, pem: Path | None = None) -> None:
        self._path = pem or data_dir / SECRETS
        self._read = (lambda: read_pem(pem)) if pem else (lambda: load_ring(data_dir))
        self._known: tuple[tuple[int, int, int], KeyRing] | None = None

    def ring(self) -> KeyRing:
        state, known = _state(self._path), self._known
        if known is None or known[0] != state:
            known = self._known = (state, self._read())
        return known[1]

    def ring_for(self, token: str) -> KeyRing:
        kid_of(token)
        return self.ring()


def read_pem(path: Path) -> KeyRing:
    """Return the ES256 keys of a file of PEM blocks, the current one first.

    Raises:
        RefusedInput
    """
    try:
        return KeyRing(pem_keys(path.read_bytes()))
    except OSError:
        raise RefusedInput("the file of TRACE_TOKEN_KEYS cannot be read: name a PEM file that is there") from None


# --- an endpoint --------------------------------------------------------------------------------------------------


class EndpointKeys:
    """The public keys of a JWKS endpoint. Safe to share between threads: one asks, the others go on with what is known.

    `fetch` returns the endpoint's document and `clock` seconds that never go back.
    """

    def __init__(
        self, fetch: Callable[[], object], *, issuer: str = ISSUER, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._issuer = issuer
        self._clock = clock
        self._ring: KeyRing | None = None
        self._fetched_at = -float("inf")
        self._asked_at = -float("inf")
        self._asking = threading.Lock()

    def ring(self) -> KeyRing:
        if self._ring is None or self._clock() - self._fetched_at > FRESH_S:
            self._refresh()
        if self._ring is None or self._clock() - self._fetched_at > LAST_S:
            raise KeysUnavailable("the keys of tokens cannot be fetched: check the endpoint of TRACE_JWKS_URL")
        return self._ring

    def ring_for(self, token: str) -> KeyRing:
        kid = kid_of(token)
        if self.ring().find(kid) is None:
            self._refresh()
        return self.ring()

    def _refresh(self) -> None:
        """Ask the endpoint unless it was asked a moment ago; only the first caller waits, unless nothing is known."""
        if not self._asking.acquire(blocking=self._ring is None):
            return
        try:
            if self._clock() - self._asked_at < FLOOR_S:
                return
            self._asked_at = self._clock()
            self._ring = ring_from_jwks(self._fetch(), self._issuer)
            self._fetched_at = self._clock()
        except (KeysUnavailable, RefusedInput) as error:
            logger.warning("keys of tokens not renewed", extra={"reason": str(error)})
        finally:
            self._asking.release()


def fetch_jwks(url: str) -> object:
    """Return the document of a JWKS endpoint. No redirect is followed.

    Raises:
        KeysUnavailable: without the URL.
    """
    try:
        with httpx.stream("GET", url, timeout=FETCH_S, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != HTTP_OK:
                raise KeysUnavailable(f"the endpoint of TRACE_JWKS_URL answers with {answer.status_code}")
            content = b""
            for part in answer.iter_bytes():
                content += part
                if len(content) > FETCH_MAX_BYTES:
                    raise KeysUnavailable("the endpoint of TRACE_JWKS_URL sends too much: name one that serves keys")
        return json.loads(content)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
        raise KeysUnavailable("the endpoint of TRACE_JWKS_URL gives no JSON answer") from error


# --- files --------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Let one process at a time make or rotate keys."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (directory / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RefusedInput("the keys cannot be written: let TRACE_DATA_DIR name a directory of yours") from error


def _make_ring(path: Path) -> None:
    """Make the first keys unless there are some; under the lock."""
    if not path.exists():
        _write(path, _document((_new_key(), _new_key())))


def _new_key() -> Key:
    return secret_key(secrets.token_hex(KID_BYTES), secrets.token_bytes(SECRET_BYTES))


def _document(keys: tuple[Key, ...]) -> str:
    found = [
        {"kid": key.kid, "secret": base64.b64encode(key.verifying).decode()}
        for key in keys
        if isinstance(key.verifying, bytes)
    ]
    return json.dumps({"version": VERSION, "keys": found}) + "\n"


def _read_ring(path: Path) -> KeyRing:
    try:
        content: dict[str, Any] = json.loads(_private_text(path))
        if content["version"] != VERSION:
            raise RefusedInput(f"{path.name} was written by another version of trace_ray: install that one")
        keys = [secret_key(one["kid"], base64.b64decode(one["secret"])) for one in content["keys"]]
    except (ValueError, KeyError, TypeError):
        raise RefusedInput(
            f"{path.name} in the data directory is damaged: delete it, which refuses every token"
        ) from None
    return KeyRing(tuple(keys[:KEPT]))


def _private_text(path: Path) -> str:
    """Return the text of a file that nobody else may read."""
    try:
        if path.stat().st_mode & 0o077:
            raise RefusedInput(f"others can read {path.name}: run `chmod 600` on it, and rotate the keys")
        return path.read_text(encoding="ascii")
    except OSError:
        raise RefusedInput(f"{path.name} cannot be read: run as the user who started the stack") from None


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
