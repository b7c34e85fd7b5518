"""What receivers get: body, signature, words; and what their answers mean."""

import json
from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes, policy
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.alert_events import HASH, OTHER, T0, notice
from trace_ray import webhook
from trace_ray.alerts import DeliveryKind
from trace_ray.channels import Sending, Sent, Unsent

OLD, NEW = "an old secret of 20 c", "a new secret of 20 ch"
RETRACTION = notice(kind=DeliveryKind.RETRACTION, retracts=OTHER)

# --- body ---------------------------------------------------------------------------------------------------------


def test_the_body_says_all_of_a_delivery() -> None:
    one = notice()
    assert json.loads(webhook.body(one)) == {
        "delivery_id": str(one.delivery_id),
        "event_id": str(one.event_id),
        "kind": "alert",
        "test": False,
        "retracts": None,
        "rule": {"rule_id": str(one.rule_id), "name": "big_transfers"},
        "severity": "critical",
        "created_at": "2026-01-02T03:04:05+00:00",
        "event": {
            "dedupe_key": "transfer:1",
            "event_time": "2026-01-02T03:04:05+00:00",
            "chain_id": 31337,
            "block_number": 101,
            "block_hash": HASH,
            "tx_hash": HASH,
            "payload": {"value": 1},
        },
    }


def test_a_retraction_names_what_it_takes_back() -> None:
    document = json.loads(webhook.body(RETRACTION))
    assert (document["kind"], document["retracts"]) == ("retraction", str(OTHER))
    assert json.loads(webhook.body(notice(test=True)))["test"] is True


def test_numbers_of_the_payload_are_not_rounded_on_the_way() -> None:
    text = f'{{"wei": {2**256 - 1}, "ratio": 0.1000000000000000000001}}'
    assert text.encode() in webhook.body(notice(payload=text))


def test_the_body_is_the_same_in_each_attempt() -> None:
    assert webhook.body(notice()) == webhook.body(notice())


# --- signature ----------------------------------------------------------------------------------------------------


def test_a_request_names_its_delivery_and_carries_one_signature_per_secret() -> None:
    content = webhook.body(notice())
    found = webhook.headers(notice(), content, (NEW, OLD), T0)
    assert found["Idempotency-Key"] == str(notice().delivery_id)
    assert found["Content-Type"] == "application/json"
    assert found["Trace-Signature"].startswith(f"t={int(T0.timestamp())},v1=")
    assert found["Trace-Signature"].count("v1=") == 2
    assert "Trace-Signature" not in webhook.headers(notice(), content, (), T0)


def test_the_signature_is_the_documented_one() -> None:
    """HMAC-SHA256 of `t.body`, computed with `openssl dgst -sha256 -hmac`."""
    assert webhook.signature(b'{"a":1}', ("0123456789abcdef",), 1767323045) == (
        "t=1767323045,v1=4c32cf781f3565724c268f18d7bc9ba04dd466529b0127d152f7e9f20a8ea5e0"
    )


@settings(max_examples=30)
@given(content=st.binary(max_size=200), secrets=st.lists(st.text(min_size=16, max_size=40), min_size=1, max_size=2),
       late=st.integers(-300, 300))  # fmt: skip
def test_a_receiver_with_either_secret_believes_a_request_for_a_while(
    content: bytes, secrets: list[str], late: int
) -> None:
    header = webhook.signature(content, secrets, int(T0.timestamp()))
    for secret in secrets:
        assert webhook.verify(header, content, (secret,), now=T0 + timedelta(seconds=late))
        assert webhook.verify(header, content, ("another", secret), now=T0)
    for wrong in (301, -301):
        assert not webhook.verify(header, content, secrets, now=T0 + timedelta(seconds=wrong))


@given(content=st.binary(max_size=200), data=st.data())
def test_a_changed_body_instant_or_signature_is_not_believed(content: bytes, data: st.DataObject) -> None:
    at = int(T0.timestamp())
    header = webhook.signature(content, (NEW,), at)
    changed = data.draw(st.binary(max_size=200).filter(lambda other: other != content))
    assert not webhook.verify(header, changed, (NEW,), now=T0)
    assert not webhook.verify(header, content, (OLD,), now=T0)
    assert not webhook.verify(header.replace(f"t={at}", f"t={at + 1}"), content, (NEW,), now=T0)
    place = data.draw(st.integers(0, 63))
    digit = header[len(header) - 64 + place]
    start, end = header[: len(header) - 64 + place], header[len(header) - 63 + place :]
    assert not webhook.verify(f"{start}{'1' if digit == '0' else '0'}{end}", content, (NEW,), now=T0)


@given(st.text(max_size=200))
def test_no_header_is_worse_than_not_believed(header: str) -> None:
    assert not webhook.verify(header, b"", (NEW,), now=T0)


@pytest.mark.parametrize("change", ["", " ", "v1=", "t=,", "x"])
def test_a_header_of_another_form_is_not_believed(change: str) -> None:
    header = webhook.signature(b"", (NEW,), int(T0.timestamp()))
    assert webhook.verify(header, b"", (NEW,), now=T0)
    assert not webhook.verify(f"{change}{header}" if change else "", b"", (NEW,), now=T0)
    assert not webhook.verify(header, b"", (), now=T0)


def test_a_header_cannot_make_us_compute_without_end() -> None:
    header = webhook.signature(b"", (NEW,), int(T0.timestamp()))
    many = header + ",v1=" + "0" * 64
    assert webhook.verify(many, b"", (NEW,), now=T0)
    assert not webhook.verify(header + (",v1=" + "0" * 64) * 8, b"", (NEW,), now=T0)


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, Sent()),
        (204, {}, Sent()),
        (302, {}, Unsent("the receiver answered 302, a redirect, which is not followed: set its final URL")),
        (404, {}, Unsent("the receiver answered 404")),
        (410, {}, Unsent("the receiver answered 410, which trying again does not change", retryable=False)),
        (429, {"retry-after": "120"}, Unsent("the receiver answered 429", retry_after_s=120.0)),
        (503, {"retry-after": "x"}, Unsent("the receiver answered 503", in_doubt=True)),
        (999, {}, Unsent("the receiver answered 999")),
        (100, {}, Unsent("the receiver answered 100")),
    ],
)
def test_the_status_of_an_answer_decides(status: int, headers: dict[str, str], expected: Sending) -> None:
    assert webhook.judge(status, headers, T0) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None), ("0", 0.0), (" 90 ", 90.0), ("-1", None), ("1.5", None), ("9" * 20, None), ("soon", None),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0), ("Fri, 02 Jan 2026 03:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 03:05:05", None), ("Fri, 99 Jan 2026 03:05:05 GMT", None),
    ],
)  # fmt: skip
def test_a_receiver_may_ask_for_time_in_seconds_or_by_a_date(text: str | None, seconds: float | None) -> None:
    assert webhook.retry_after_s(text, T0) == seconds


@given(st.text(max_size=60))
def test_nonsense_in_place_of_a_time_is_no_time(text: str) -> None:
    found = webhook.retry_after_s(text, T0)
    assert found is None or found >= 0


# --- people -------------------------------------------------------------------------------------------------------


def test_slack_gets_text_that_a_payload_cannot_steer() -> None:
    hostile = json.dumps({"x": "<!channel> & ```<http://evil|click>"})
    document = json.loads(webhook.slack_body(notice(payload=hostile)))
    assert document["text"].startswith("*CRITICAL: big_transfers, chain 31337, block 101*\n```")
    assert "&lt;!channel&gt; &amp; '''&lt;http://evil|click&gt;" in document["text"]
    assert "<" not in document["text"]
    assert document["text"].count("```") == 2


def test_words_say_what_happened_and_where() -> None:
    text = webhook.words(notice(payload='"' + "x" * 5000 + '"'))
    assert f"block        101 {HASH}" in text
    assert f"transaction  {HASH}" in text
    assert "time         2026-01-02 03:04:05 UTC" in text
    assert text.endswith("x ...\n")
    assert len(text) < 2500
    assert "transaction" not in webhook.words(notice(tx_hash=None))
    assert webhook.words(notice(test=True)).startswith("Test message of trace_ray")


def test_an_email_has_the_id_of_its_delivery_and_a_retraction_answers_its_alert() -> None:
    made = webhook.email(RETRACTION, sender="alerts@trace.example", recipients=("a@x.example", "b@x.example"))
    read = message_from_bytes(made.as_bytes(), policy=policy.default)
    assert read["Message-ID"] == f"<{RETRACTION.delivery_id}@trace.example>"
    assert read["In-Reply-To"] == read["References"] == f"<{OTHER}@trace.example>"
    assert read["Idempotency-Key"] == str(RETRACTION.delivery_id)
    assert (read["From"], read["To"]) == ("alerts@trace.example", "a@x.example, b@x.example")
    assert read["Subject"] == "Retracted: big_transfers, chain 31337, block 101"
    assert f"It takes back delivery {OTHER}." in read.get_content()
    assert webhook.email(notice(), sender="a@b", recipients=("c@d",))["In-Reply-To"] is None


@given(st.text(max_size=100))
def test_a_payload_stays_in_the_body_of_an_email(text: str) -> None:
    payload = json.dumps({"x": text}, ensure_ascii=False)
    try:
        payload.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: Postgres keeps none
    made = webhook.email(notice(payload=payload), sender="a@b.example", recipients=("c@d.example",))
    plain = webhook.email(notice(), sender="a@b.example", recipients=("c@d.example",))
    assert made.keys() == plain.keys()
    assert payload in made.get_content().replace("\r\n", "\n") or "\r" in text


def test_repr_of_a_notice_does_not_show_its_payload() -> None:
    shown = repr(replace(notice(), payload='{"x": "private"}', delivery_id=OTHER))
    assert "private" not in shown
    assert str(UUID(int=7)) in shown


def test_dates_are_those_of_the_delivery() -> None:
    made = webhook.email(notice(), sender="a@b", recipients=("c@d",))
    assert made["Date"].datetime == T0
