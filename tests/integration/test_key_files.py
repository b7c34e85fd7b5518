"""Where keys come from: private files that are made once, rotated and read anew, and endpoints that fail."""

import json
import multiprocessing
import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.grants import NOW, private_pem, public_pem
from trace_ray import key_files, tokens
from trace_ray.errors import KeysUnavailable, RefusedInput, TokenFault, TokenRefused
from trace_ray.key_files import FLOOR_S, FRESH_S, LAST_S, EndpointKeys, FileKeys
from trace_ray.token_keys import KeyRing, jwks, pem_key


def sign(ring: KeyRing) -> str:
    return tokens.sign_user(ring, subject="x", now=NOW, lifetime_s=60)


def holds(ring: KeyRing, token: str) -> bool:
    try:
        return tokens.verify_user(ring, token, now=NOW).subject == "x"
    except TokenRefused as refused:
        if refused.reason is not TokenFault.UNKNOWN_KEY:
            raise
        return False


# --- files --------------------------------------------------------------------------------------------------------


def test_keys_are_made_on_first_start_for_their_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "new"
    ring = key_files.load_ring(home)
    assert len(ring.keys) == 2
    assert key_files.load_ring(home) == ring
    assert len(key_files.audit_key(home / key_files.AUDIT_KEY)) == 32
    for name in (key_files.SECRETS, key_files.AUDIT_KEY):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert key_files.load_ring(tmp_path / "other").current != ring.current


def _first_start(home: Path, answers: "multiprocessing.Queue[tuple[str, str]]") -> None:
    answers.put((key_files.load_ring(home).current.kid, key_files.audit_key(home / "audit.key").hex()))


def test_processes_that_start_at_once_share_one_set_of_keys(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[str, str]] = context.Queue()
    processes = [context.Process(target=_first_start, args=(tmp_path, answers)) for _ in range(8)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1


def test_a_rotation_keeps_older_tokens_until_the_next_one(tmp_path: Path) -> None:
    first = key_files.load_ring(tmp_path)
    old = sign(first)
    second = key_files.rotate(tmp_path)
    assert second.current == first.keys[1], "what signs now was known before, to everybody"
    assert holds(first, sign(second))
    assert holds(second, old)
    third = key_files.rotate(tmp_path)
    assert not holds(third, old)
    assert holds(third, sign(second))
    assert len(third.keys) == 3


def test_a_running_service_sees_a_rotation(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path)
    before = sign(keys.ring())
    key_files.rotate(tmp_path)
    key_files.rotate(tmp_path)
    assert not holds(keys.ring_for(before), before)
    assert holds(keys.ring_for(before), sign(key_files.load_ring(tmp_path)))
    with pytest.raises(TokenRefused):
        keys.ring_for("nonsense")


def test_a_file_of_keys_in_pem_signs_with_the_first_and_accepts_all(tmp_path: Path) -> None:
    path, first, second = tmp_path / "keys.pem", private_pem(), private_pem()
    path.write_bytes(first)
    keys = FileKeys(tmp_path, path)
    token = sign(keys.ring())
    path.write_bytes(second + first)
    assert keys.ring().current.kid == pem_key(second).kid
    assert holds(keys.ring(), token)
    path.write_bytes(second + public_pem(first))
    assert holds(keys.ring(), token)
    path.write_bytes(second)
    assert not holds(keys.ring(), token)
    path.unlink()
    with pytest.raises(RefusedInput, match="TRACE_TOKEN_KEYS"):
        keys.ring()
    assert not (tmp_path / key_files.SECRETS).exists()


@pytest.mark.parametrize("name", [key_files.SECRETS, key_files.AUDIT_KEY])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    load: Callable[[], object] = {
        key_files.SECRETS: partial(key_files.load_ring, tmp_path),
        key_files.AUDIT_KEY: partial(key_files.audit_key, tmp_path / name),
    }[name]
    load()
    (tmp_path / name).chmod(0o640)
    with pytest.raises(RefusedInput, match="others can read"):
        load()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "keys": [{"kid": "a"}]}', "\xff"])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    for name in (key_files.SECRETS, key_files.AUDIT_KEY):
        (tmp_path / name).write_text(content, encoding="latin-1")
        (tmp_path / name).chmod(0o600)
    with pytest.raises(RefusedInput, match="damaged"):
        key_files.load_ring(tmp_path)
    with pytest.raises(RefusedInput, match="damaged"):
        key_files.audit_key(tmp_path / key_files.AUDIT_KEY)
    with pytest.raises(RefusedInput, match="damaged"):
        key_files.rotate(tmp_path)
    assert (tmp_path / key_files.SECRETS).read_text(encoding="latin-1") == content


def test_keys_of_another_version_and_an_unwritable_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / key_files.SECRETS).write_text(json.dumps({"version": 2, "keys": []}))
    (tmp_path / key_files.SECRETS).chmod(0o600)
    with pytest.raises(RefusedInput, match="another version"):
        key_files.load_ring(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RefusedInput, match="TRACE_DATA_DIR"):
        key_files.load_ring(file / "below")
    (tmp_path / "directory" / key_files.AUDIT_KEY).mkdir(parents=True, mode=0o700)
    with pytest.raises(RefusedInput, match="cannot be read"):
        key_files.audit_key(tmp_path / "directory" / key_files.AUDIT_KEY)


def test_a_failed_write_leaves_the_old_keys_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = key_files.load_ring(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RefusedInput):
        key_files.rotate(tmp_path)
    assert key_files.load_ring(tmp_path) == ring
    assert {path.name for path in tmp_path.iterdir()} == {key_files.SECRETS, key_files.LOCK}


# --- endpoints ----------------------------------------------------------------------------------------------------


class Endpoint:
    """A JWKS endpoint on loopback that answers as told, and counts."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, b"", 0
        self.headers: dict[str, str] = {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked += 1
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, *pems: bytes) -> None:
        self.status, self.body = 200, json.dumps(jwks(KeyRing(tuple(map(pem_key, pems))))).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(endpoint: Endpoint, clock: Clock) -> EndpointKeys:
    return EndpointKeys(partial(key_files.fetch_jwks, endpoint.url), clock=clock)


def test_keys_are_fetched_once_and_again_when_they_are_old(
    endpoint: Endpoint, keys: EndpointKeys, clock: Clock
) -> None:
    first, second = private_pem(), private_pem()
    endpoint.serve(first)
    token = sign(KeyRing((pem_key(first),)))
    for _ in range(5):
        assert holds(keys.ring_for(token), token)
    assert endpoint.asked == 1
    endpoint.serve(second)
    clock.now += FRESH_S + 1
    assert not holds(keys.ring_for(token), token), "a key that was withdrawn is refused soon"


def test_an_unknown_key_is_asked_for_but_strangers_cannot_make_us_ask_again(
    endpoint: Endpoint, keys: EndpointKeys, clock: Clock
) -> None:
    first, second = private_pem(), private_pem()
    endpoint.serve(first)
    keys.ring()
    clock.now += FLOOR_S + 1
    endpoint.serve(second, first)
    token = sign(KeyRing((pem_key(second),)))
    assert holds(keys.ring_for(token), token)
    assert endpoint.asked == 2
    for _ in range(50):
        strange = sign(KeyRing((pem_key(private_pem()),)))
        assert not holds(keys.ring_for(strange), strange)
    assert endpoint.asked == 2


def test_a_failing_endpoint_is_lived_without_for_a_day(endpoint: Endpoint, keys: EndpointKeys, clock: Clock) -> None:
    pem = private_pem()
    endpoint.serve(pem)
    token = sign(KeyRing((pem_key(pem),)))
    assert holds(keys.ring_for(token), token)
    endpoint.status = 500
    clock.now += FRESH_S + 1
    assert holds(keys.ring_for(token), token)
    clock.now += LAST_S
    with pytest.raises(KeysUnavailable):
        keys.ring_for(token)
    endpoint.serve(pem)
    clock.now += FLOOR_S
    assert holds(keys.ring_for(token), token)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (404, b"{}", {}),
        (302, b"", {"Location": "http://127.0.0.1:1/"}),
        (200, b"not json", {}),
        (200, b"[" * 100_000, {}),
        (200, b"{}", {}),
        (200, b'{"keys": []}', {}),
        (200, b" " * (key_files.FETCH_MAX_BYTES + 1), {}),
        (200, b"no gzip", {"Content-Encoding": "gzip"}),
    ],
)
def test_answers_that_are_no_keys_are_refused_without_the_address(
    caplog: pytest.LogCaptureFixture, endpoint: Endpoint, status: int, body: bytes, headers: dict[str, str]
) -> None:
    endpoint.status, endpoint.headers, endpoint.body = status, headers, body
    with pytest.raises(KeysUnavailable, match="TRACE_JWKS_URL"):
        EndpointKeys(partial(key_files.fetch_jwks, endpoint.url)).ring()
    assert "keys of tokens not renewed" in caplog.text
    shown = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert endpoint.url not in shown


def test_an_endpoint_that_cannot_be_reached_is_unavailable() -> None:
    with pytest.raises(KeysUnavailable) as caught:
        key_files.fetch_jwks("http://127.0.0.1:1/jwks")
    assert "127.0.0.1" not in str(caught.value)


def test_while_one_asks_the_others_go_on_with_what_is_known(clock: Clock) -> None:
    ring = KeyRing((pem_key(private_pem()),))
    asking, go_on = threading.Event(), threading.Event()
    answers = iter([True, False])

    def fetch() -> object:
        if not next(answers):
            asking.set()
            assert go_on.wait(10)
        return jwks(ring)

    keys = EndpointKeys(fetch, clock=clock)
    keys.ring()
    clock.now += FRESH_S + 1
    slow = threading.Thread(target=keys.ring)
    slow.start()
    assert asking.wait(10)
    assert keys.ring().current.kid == ring.current.kid
    go_on.set()
    slow.join()


def test_people_may_have_tokens_of_a_provider_and_tasks_never(endpoint: Endpoint, tmp_path: Path) -> None:
    provider = private_pem()
    endpoint.serve(provider)
    issuer = "https://idp.example"
    keys = key_files.open_keys(tmp_path, pem=None, jwks_url=endpoint.url, issuer=issuer)
    theirs = KeyRing((pem_key(provider),), issuer)
    assert holds(keys.users.ring(), sign(theirs))
    assert not holds(keys.tasks.ring(), sign(theirs))
    assert keys.tasks.ring() == key_files.load_ring(tmp_path)
    own = key_files.open_keys(tmp_path, pem=None, jwks_url=None, issuer=None)
    assert own.users is own.tasks
