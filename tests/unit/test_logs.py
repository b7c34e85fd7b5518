"""Log lines: their form, and that no credential, no SQL and no token gets through."""

import io
import json
import logging
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_ray import logs

KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0YXNrIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.PACKAGES}
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    for name, package_level in levels.items():
        logging.getLogger(name).setLevel(package_level)


class Lines:
    """What a set-up logger wrote."""

    def __init__(self, **options: Any) -> None:
        self.stream = io.StringIO()
        logs.set_up(stream=self.stream, **options)

    def text(self) -> str:
        return self.stream.getvalue()

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


class Colour(Enum):
    RED = "red"


class Opaque:
    def __str__(self) -> str:
        return KEY


# --- form ---------------------------------------------------------------------------------------------------------


def test_json_line_carries_message_level_logger_and_fields() -> None:
    lines = Lines(json=True)
    fields = {
        "rows": 3,
        "seconds": 0.5,
        "task_id": UUID(int=1),
        "path": Path("/a"),
        "colour": Colour.RED,
        "gaps": [(1, 2)],
    }
    logging.getLogger("actors.ingest").info("range ingested", extra=fields)
    line = lines.objects()[0]
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "actors.ingest",
        "message": "range ingested",
        "rows": 3,
        "seconds": 0.5,
        "task_id": "00000000-0000-0000-0000-000000000001",
        "path": "/a",
        "colour": "Colour.RED",
        "gaps": [[1, 2]],
    }


def test_plain_line_is_one_line_with_its_fields() -> None:
    lines = Lines(json=False)
    logs.logger.warning("worker died", extra={"worker_id": "cryo/1", "note": "a\nb"})
    assert lines.text().endswith(" WARNING worker died worker_id=cryo/1 note=a\\nb\n")
    assert lines.text().count("\n") == 1


def test_traceback_is_kept_below_the_line_and_in_the_field_error() -> None:
    for as_json in (True, False):
        lines = Lines(json=as_json)
        try:
            raise LookupError("no such worker")
        except LookupError:
            logs.logger.exception("term ended")
        text = lines.objects()[0]["error"] if as_json else lines.text()
        assert "LookupError: no such worker" in text
        assert "Traceback" in text


def test_field_cannot_replace_what_every_line_has() -> None:
    lines = Lines(json=True)
    logs.logger.info("real", extra={"level": "fake"})
    assert lines.objects()[0]["level"] == "info"
    assert lines.objects()[0]["level_"] == "fake"


def test_setting_up_again_replaces_the_first_set_up() -> None:
    first, second = Lines(json=True), Lines(json=False)
    logs.logger.info("once")
    assert first.text() == ""
    assert second.text().count("once") == 1


def test_handlers_of_others_stay() -> None:
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    Lines(json=True)
    assert foreign in logging.getLogger().handlers


def test_other_libraries_are_heard_from_warning_on() -> None:
    lines = Lines(json=True, level=logging.DEBUG)
    logging.getLogger("botocore").info("chatter")
    logging.getLogger("botocore").warning("trouble")
    logging.getLogger("state.db").debug("detail")
    assert [line["message"] for line in lines.objects()] == ["trouble", "detail"]


def test_number_that_json_lacks_is_text() -> None:
    lines = Lines(json=True)
    logs.logger.info("rate", extra={"rate": float("nan")})
    assert lines.objects()[0]["rate"] == "nan"


# --- redaction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"asked https://rpc.example/v3/{KEY} twice", "asked https://rpc.example/... twice"),
        (f"asked http://127.0.0.1:8545/{KEY}", "asked http://127.0.0.1:8545/..."),
        ("dashboard http://127.0.0.1:8265", "dashboard http://127.0.0.1:8265"),
        (f"wss://me:{KEY}@rpc.example/", "wss://rpc.example/"),
        (f"postgresql://trace:{KEY}@db:5432/trace", "postgresql://db:5432/..."),
        (f"s3://bucket/cryo/1/a.parquet?X-Amz-Signature={KEY}", "s3://bucket/cryo/1/a.parquet"),
        (f"https://a/{KEY},http://b/{KEY}", "https://a/..."),
        (f"http://[::1]:8545/{KEY}", "http://[::1]:8545/..."),
        (f"http://[broken/{KEY}", "(hidden)"),
        (f"password={KEY} host=db", "password=(hidden) host=db"),
        (f'{{"api_key": "{KEY}", "n": 1}}', '{"api_key": (hidden), "n": 1}'),
        (f"aws_secret_access_key: {KEY}", "aws_secret_access_key: (hidden)"),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer (hidden)"),
        (f"got {JWT}.", "got (hidden)."),
        (f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY----- x", "(hidden) x"),
        ('syntax error\nLINE 1: SELECT secret FROM t\n        ^', "syntax error\nLINE (hidden)"),
        ("blocks [0, 200) of chain 1: 12 rows", "blocks [0, 200) of chain 1: 12 rows"),
    ],
)  # fmt: skip
def test_text_is_shown_without_credentials(text: str, shown: str) -> None:
    assert logs.redact(text) == shown


def test_known_secret_is_hidden_also_as_a_url_writes_it() -> None:
    assert logs.redact("pw p@ss/word and p%40ss%2Fword", ["p@ss/word"]) == "pw (hidden) and (hidden)"


def test_secret_inside_a_longer_one_leaves_no_rest() -> None:
    assert logs.redact("abcdef-tail", ["abcd", "abcdef-tail"]) == "(hidden)"


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_secret_passes_by_any_way(as_json: bool) -> None:
    lines = Lines(json=as_json, secrets=["hunter22"])
    url = f"https://rpc.example/{KEY}?key={KEY}"
    extra = {
        "provider": url,
        "sql": f"SELECT '{KEY}'",
        "lease_token": KEY,
        "Authorization": KEY,
        "nested": {"password": KEY, "urls": [url, (url,)], "hunter22": 1, "deep": {"a": {"b": {"c": {"d": KEY}}}}},
        "opaque": Opaque(),
        "failure": ValueError(url),
    }
    try:
        try:
            raise OSError(f"cannot reach {url}")
        except OSError as error:
            raise RuntimeError("password=hunter22") from error
    except RuntimeError:
        logs.logger.exception("asked %s", url, extra=extra)
    assert KEY not in lines.text()
    assert "hunter22" not in lines.text()
    assert "rpc.example" in lines.text()


def test_hash_of_a_statement_may_be_logged() -> None:
    lines = Lines(json=True)
    logs.logger.info("asked", extra={"sql_hash": "ab12"})
    assert lines.objects()[0]["sql_hash"] == "ab12"


@given(st.text(), st.text(alphabet="abcdef0123456789", min_size=8, max_size=40), st.text())
def test_known_secret_is_hidden_whatever_is_around_it(before: str, secret: str, after: str) -> None:
    assert secret not in logs.redact(before + secret + after, [secret])


@pytest.mark.parametrize(
    "unit", ["a", "a.", "password", "eyJ-", "\n", "http://", "-----BEGIN A-----", " LINE 1:", "bearer "]
)
def test_long_text_is_redacted_in_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        started = time.perf_counter()
        logs.redact(text)
        return time.perf_counter() - started

    assert seconds(200_000) < 2.0
