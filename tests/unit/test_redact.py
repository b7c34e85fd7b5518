"""No part of a provider's URL is left in what people see."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_ray.extract.redact import KEEP_CHARS, SUMMARY_CHARS, error_summary, readable, redact

URL = "https://alice:p%40ss-word@node.example.org:8545/v3/0123456789abcdef?apikey=QUERYSECRET&x=other%2Fvalue#frag-ment"
PARTS = [
    URL, "alice", "p%40ss-word", "p@ss-word", "node.example.org", "node.example.org:8545", "0123456789abcdef",
    "QUERYSECRET", "other%2Fvalue", "other/value", "frag-ment", "/v3/0123456789abcdef",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_the_url_is_removed_wherever_it_stands(part: str) -> None:
    text = redact(f'panicked at Url {{ host: "{part}" }}, ({part}): {part}', URL)
    assert part not in text
    assert text.startswith("panicked at Url { host: ")


def test_ordinary_words_stay() -> None:
    assert redact("Collect failed: block not found (1x)", "http://127.0.0.1:8545/v3/x") == (
        "Collect failed: block not found (1x)"
    )


def test_an_unknown_url_is_removed_too() -> None:
    assert (
        redact("limit reached, see HTTPS://billing.example.com/u/77?k=1 (1x)", URL) == "limit reached, see [url] (1x)"
    )


WORD = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ@:/é %", min_size=6, max_size=30)


@given(user=WORD, password=WORD, key=WORD, value=WORD)
def test_generated_secrets_are_removed_in_every_spelling(user: str, password: str, key: str, value: str) -> None:
    secrets = [user, password, key, value]
    encoded = [quote(secret, safe="") for secret in secrets]
    url = f"http://{encoded[0]}:{encoded[1]}@localhost:1/{encoded[2]}?q={encoded[3]}"
    text = redact(" | ".join(["rpc url: " + url, *encoded, *secrets]), url)
    assert not [secret for secret in secrets + encoded if secret in text]


def test_output_is_cut_to_its_end() -> None:
    text = readable(b"a" * KEEP_CHARS + b"the end", URL, is_cut=False)
    assert len(text) == KEEP_CHARS
    assert text.endswith("the end")


@pytest.mark.parametrize("lost", range(1, len(URL)))
def test_a_secret_whose_beginning_is_cut_off_is_removed(lost: int) -> None:
    text = readable(URL[lost:].encode() + b" failed", URL, is_cut=True)
    assert "SECRET" not in text
    assert "abcdef" not in text


def test_output_that_is_no_text_is_still_readable() -> None:
    assert readable(b"\xff\xfe panicked", URL, is_cut=False).endswith("panicked")


def test_the_error_summary_is_one_short_line() -> None:
    output = (
        "collecting data\nerror summary\n─────────────\n(errors in 1 chunks)\n- Failed to get block:\n  x (2x)\n\n\n"
        "collection summary\n──────────────────\n- total duration: 0.006 seconds\n"
    )
    assert error_summary(output) == "- Failed to get block: x (2x)"
    assert error_summary("collecting data\nall is well") == ""
    long = error_summary("error summary\n- " + "y" * 5000 + "\ncollection summary")
    assert len(long) == SUMMARY_CHARS + len("...")
