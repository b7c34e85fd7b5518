"""Batches of drafts: what is accepted, the reason of each refusal, and that any bytes are judged."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_ray import drafts
from trace_ray.alerts import (
    BatchName,
    DeliveryKind,
    Evaluation,
    EvaluationLease,
    Mode,
    Rule,
    RuleId,
    Severity,
    batch_key,
    batch_name,
    delivery_id,
    event_id,
    rule_id,
)
from trace_ray.contracts import DEFAULT_ORG, AttemptKey, BlockRange, LeaseToken, OrgId, TaskId, WorkerId
from trace_ray.drafts import BadBatch, digest

RULE = RuleId(UUID("6a1f0c52-7d30-5c5e-9e57-9f2f6b1c1d11"))
BLOCKS = BlockRange(100, 200)
CHAIN = 31337
SOME_RULE = Rule(DEFAULT_ORG, "watch", "aa", ("a",), {}, (), Severity.INFO, Mode.LIVE, True, 30.0, 256, None, None, "x")
FIELDS: dict[str, Any] = {
    "alert_definition_id": str(RULE),
    "dedupe_key": "k",
    "event_time": "2026-01-31T12:00:00Z",
    "chain_id": CHAIN,
    "block_number": 150,
    "block_hash": "0x" + "ab" * 32,
    "tx_hash": None,
    "payload": {"value": 1},
}


def line(**changes: object) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def read(data: bytes) -> list[drafts.Draft]:
    return drafts.read(data, rule_id=RULE, chain_id=CHAIN, blocks=BLOCKS)


def reason(data: bytes) -> str:
    with pytest.raises(BadBatch) as caught:
        read(data)
    return caught.value.reason


# --- what is accepted ---------------------------------------------------------------------------------------------


def test_a_line_becomes_a_draft() -> None:
    text = line(event_time="2026-01-31t14:00:00.250+02:00", block_hash="0x" + "AB" * 32, tx_hash="0x" + "0C" * 32)
    (draft,) = read(text)
    assert draft == drafts.Draft(
        alert_definition_id=RULE,
        dedupe_key="k",
        event_time=datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC),
        chain_id=CHAIN,
        block_number=150,
        block_hash="0x" + "ab" * 32,
        tx_hash="0x" + "0c" * 32,
        payload={"value": 1},
    )


def test_lines_keep_their_order_and_the_last_one_may_end_without_a_newline() -> None:
    text = line(dedupe_key="b") + b"\r\n" + line(dedupe_key="a")
    assert [draft.dedupe_key for draft in read(text)] == ["b", "a"] == [one.dedupe_key for one in read(text + b"\n")]


def test_no_bytes_are_no_drafts() -> None:
    assert read(b"") == []


def test_the_borders_of_the_blocks_are_those_of_the_range() -> None:
    assert len(read(line(block_number=100) + b"\n" + line(block_number=199, dedupe_key="l"))) == 2


def test_equal_lines_with_one_key_are_one_draft_whatever_their_order_zone_and_case() -> None:
    other = {**dict(reversed(FIELDS.items())), "payload": {"b": 1, "a": [1.5]}}
    first = line(payload={"a": [1.5], "b": 1})
    other |= {"event_time": "2026-01-31T13:00:00+01:00", "block_hash": "0x" + "AB" * 32}
    assert len(read(first + b"\n" + json.dumps(other).encode())) == 1


def test_a_key_and_a_payload_may_be_as_large_as_they_may_be() -> None:
    (draft,) = read(line(dedupe_key="\u00e9" * 256, payload={"a": "x" * (65_536 - len('{"a":""}'))}))
    assert len(draft.dedupe_key.encode()) == 512


def test_a_payload_may_hold_what_looks_like_nul_and_many_brackets() -> None:
    (draft,) = read(line(payload={"a": "\\u0000", "b": [[]] * 40}))
    assert draft.payload["a"] == "\\u0000"


def test_a_whole_number_may_be_larger_than_64_bits() -> None:
    (draft,) = read(line(payload={"value": 2**256 - 1}))
    assert json.loads(drafts.compact(draft.payload)) == draft.payload == {"value": 2**256 - 1}


def test_digest_tells_true_from_one_and_one_from_one_point_nought() -> None:
    found = {digest(read(line(payload={"a": value}))[0]) for value in (1, 1.0, True, "1", [1], None)}
    assert len(found) == 6


@pytest.mark.parametrize("text", [b"[", b"9", b'{"a":', b"\n", b'"', b"\\u0000"])
def test_a_full_batch_of_nonsense_is_refused(text: bytes) -> None:
    assert reason(text * (10_000_000 // len(text)))


# --- refusals -----------------------------------------------------------------------------------------------------

TIME = "event_time is not a time of RFC 3339 with its zone, such as 2026-01-31T12:00:00Z"
KEY = "dedupe_key is not a text of 1 to 512 bytes"
NO_JSON = "it is not one JSON object"
REFUSALS: list[tuple[bytes, str]] = [
    (b"{", NO_JSON),
    (b"[1]", NO_JSON),
    (b"", NO_JSON),
    (b"\xff", NO_JSON),
    (b"\xef\xbb\xbf" + line(), NO_JSON),
    (line() + line(), NO_JSON),
    (line().replace(b'"value": 1', b'"value": ' + b"9" * 5000), NO_JSON),
    (b"[" * 100_000, "its values are nested too deeply"),
    (line().replace(b'"value": 1', b'"value": NaN'), "NaN and Infinity are no JSON"),
    (line().replace(b'"value": 1', b'"value": 1, "value": 1'), "an object has a key twice"),
    (line().replace(b'"chain_id"', b'"chain_id": 31337, "chain_id"'), "an object has a key twice"),
    (line(extra=1), "'extra' is no field of an event"),
    (line(**{"\u001b[31m": 1}), r"'\x1b[31m' is no field of an event"),
    (line(org_id="x"), "'org_id' is no field of an event"),
    (json.dumps({k: v for k, v in FIELDS.items() if k != "tx_hash"}).encode(), "'tx_hash' is missing"),
    (line(alert_definition_id=str(UUID(int=1))), "alert_definition_id is not the id of its rule"),
    (line(alert_definition_id=None), "alert_definition_id is not the id of its rule"),
    (line(chain_id=1), "chain_id is not 31337"),
    (line(chain_id=31337.0), "chain_id is not 31337"),
    (line(block_number=99), "block_number is not in the evaluated blocks [100, 200)"),
    (line(block_number=200), "block_number is not in the evaluated blocks [100, 200)"),
    (line(block_number=True), "block_number is not in the evaluated blocks [100, 200)"),
    (line(block_number="150"), "block_number is not in the evaluated blocks [100, 200)"),
    (line(dedupe_key=""), KEY),
    (line(dedupe_key=5), KEY),
    (line(dedupe_key="x" * 513), KEY),
    (line(dedupe_key="\u00e9" * 257), KEY),
    (line(dedupe_key="a\0b"), "dedupe_key holds NUL"),
    (line(dedupe_key="\ud800"), "dedupe_key holds half a surrogate pair"),
    *(
        (line(event_time=text), TIME)
        for text in (
            "2026-01-31T12:00:00", "2026-01-31 12:00:00Z", "20260131T120000Z", "2026-02-30T12:00:00Z", 1769860800, None,
            "2026-01-31T12:00:00+25:00", "0001-01-01T00:00:00+01:00", "2026-01-31T12:00:60Z", "2026-01-31T12:00Z",
            "\u0662026-01-31T12:00:00Z", "2026-01-31T12:00:00Z\n",
        )
    ),
    (line(block_hash="0x" + "ab" * 31), "block_hash is not 0x and 64 hex digits"),
    (line(block_hash="ab" * 32), "block_hash is not 0x and 64 hex digits"),
    (line(block_hash=None), "block_hash is not 0x and 64 hex digits"),
    (line(tx_hash="0x" + "zz" * 32), "tx_hash is not 0x and 64 hex digits"),
    (line(payload=[]), "payload is not an object"),
    (line(payload={"a": "x" * 65_536}), "payload has 65544 bytes as JSON: at most 65536 are accepted"),
    (line(payload={"a": ["\0"]}), "payload holds NUL"),
    (line(payload={"a\0": 1}), "payload holds NUL"),
    (line(payload={"a": "\ud800"}), "payload holds half a surrogate pair"),
    (line(payload={"\udfff": 1}), "payload holds half a surrogate pair"),
    (line().replace(b'"value": 1', b'"value": 1e999'), "a number is too large"),
    (line(payload={"a": [2**70, "\ud800"]}), "payload holds half a surrogate pair"),
    (line().replace(b'"value": 1', b'"value": ' + b"[" * 500 + b"]" * 500), "payload has more than 32 levels"),
    (line().replace(b'"value": 1', b'"value": ' + b"[" * 33 + b"]" * 33), "payload has more than 32 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REFUSALS, ids=range(len(REFUSALS)))
def test_one_bad_line_refuses_the_batch_and_is_named(text: bytes, expected: str) -> None:
    assert reason(line(dedupe_key="first") + b"\n" + text + b"\n" + line(dedupe_key="last")) == f"line 2: {expected}"


def test_a_payload_of_any_depth_is_judged() -> None:
    texts = [line().replace(b'"value": 1', b'"value": ' + b"[" * depth + b"]" * depth) for depth in range(33, 1200)]
    found = {reason(text) for text in texts}
    deep = "line 1: payload has more than 32 levels"
    assert deep in found
    assert found <= {deep, "line 1: its values are nested too deeply"}  # where the second begins depends on the stack


def test_one_key_with_two_contents_refuses_the_batch() -> None:
    text = b"\n".join((line(), line(), line(payload={"value": True})))
    assert reason(text) == "line 3: its dedupe_key stands on an earlier line with other content"


def test_a_batch_that_is_too_large_is_not_even_read() -> None:
    assert reason(b"x" * (16 * 1024**2 + 1)) == "the batch has 16777217 bytes: at most 16777216 are accepted"


def test_a_reason_holds_no_value_of_an_event() -> None:
    secret = "hunter2"
    texts = [line(**{name: secret}) for name in FIELDS if name != "dedupe_key"]
    assert all(secret not in reason(text) for text in texts)


# --- whatever the bytes -------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
names = st.sampled_from([*FIELDS, "other"])
changed = st.dictionaries(names, values, max_size=3).map(lambda changes: json.dumps(FIELDS | changes).encode())
lines = st.one_of(st.binary(max_size=40), values.map(lambda value: json.dumps(value).encode()), changed)


@settings(max_examples=200)
@given(st.lists(lines, max_size=4))
def test_any_bytes_are_drafts_that_can_be_stored_or_a_bad_batch(found: list[bytes]) -> None:
    try:
        good = read(b"\n".join(found))
    except BadBatch:
        return
    assert len({draft.dedupe_key for draft in good}) == len(good)
    for draft in good:
        assert draft.alert_definition_id == RULE
        assert draft.block_number in BLOCKS
        assert draft.event_time.tzinfo is UTC
        assert json.loads(drafts.canonical(draft.payload).encode()) == draft.payload
        assert json.loads(drafts.compact(draft.payload)) == draft.payload
        assert len(digest(draft)) == 32


# --- identities ---------------------------------------------------------------------------------------------------


def test_identities_are_made_of_their_causes() -> None:
    other = OrgId(UUID(int=7))
    assert len({event_id(org, key) for org in (DEFAULT_ORG, other) for key in ("a", "b")}) == 4
    event = event_id(DEFAULT_ORG, "a")
    assert len({delivery_id(event, channel, kind) for channel in ("a", "b") for kind in DeliveryKind}) == 4
    rule = rule_id(DEFAULT_ORG, "watch")
    made = [
        Evaluation.make(rule, CHAIN, blocks, as_of, inputs).task_id
        for blocks in (BlockRange(0, 10), BlockRange(0, 20))
        for as_of in (1, 2)
        for inputs in ("x", "y")
    ]
    assert len(set(made)) == 4  # the snapshot makes no difference, blocks and inputs do


def test_an_attempts_batch_has_a_place_of_its_own() -> None:
    task = TaskId(UUID(int=5))
    assert batch_key(task, 2) == f"batches/{task}/2/udf.jsonl"
    assert batch_name(batch_key(task, 2)) == BatchName(batch_key(task, 2), task, 2)
    for other in (f"batches/{task}/02/udf.jsonl", f"batches/{task}/0/udf.jsonl", f"batches/{task}/2/udf.jsonl.part"):
        assert batch_name(other) is None
    lease = EvaluationLease(
        evaluation=Evaluation(task, RULE, CHAIN, BLOCKS, 1, "x"),
        rule=SOME_RULE,
        attempt=2,
        lease_token=LeaseToken(UUID(int=6)),
        worker_id=WorkerId("w"),
        ttl_s=60.0,
    )
    assert lease.key == AttemptKey(task, 2, LeaseToken(UUID(int=6)))
