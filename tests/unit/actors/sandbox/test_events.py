"""Events are counted as they come; what a handler returns may hold more of them."""

from dataclasses import replace

import pytest

from actors.sandbox.events import Events, NotAnAnswer, NotAskedFor, TooManyEvents
from trace_ray.alerts import SandboxLimits

LIMITS = replace(SandboxLimits(), events=3, event_bytes=25)


def test_lines_are_kept_in_order_without_empty_ones() -> None:
    events = Events(LIMITS, allowed=True)
    events.take(b'{"a":1}\n\n  \n{"b":2}\n')
    events.take_response(b'{"events": [{"c": 3}], "more": 1}')
    assert events.lines == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


@pytest.mark.parametrize("answer", [b"null", b"1", b"[]", b'"events"', b"{}", b'{"events": []}'])
def test_answer_without_events_adds_none(answer: bytes) -> None:
    events = Events(LIMITS, allowed=True)
    events.take_response(answer)
    assert events.lines == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"\xff", b"NaN", b"[" * 5000 + b"]" * 5000, b'{"events": {}}', b'{"events": [1]}', b'{"events": null}'],
)
def test_answer_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        Events(LIMITS, allowed=True).take_response(answer)


def test_count_and_bytes_are_limited() -> None:
    events = Events(LIMITS, allowed=True)
    events.take(b"1\n2\n3")
    assert events.room == 22
    with pytest.raises(TooManyEvents, match="more than 3 events"):
        events.take(b"4")
    with pytest.raises(TooManyEvents, match="MiB"):
        Events(LIMITS, allowed=True).take(b"x" * 26)
    with pytest.raises(TooManyEvents):
        Events(LIMITS, allowed=True).take_response(b'{"events": [{"a": "xxxxxxxxxxxxxxxxxxxxxxxxxx"}]}')


@pytest.mark.parametrize("answer", [b"", b"\n"])
def test_who_asked_for_no_events_may_say_so_in_so_many_words(answer: bytes) -> None:
    events = Events(LIMITS, allowed=False)
    events.take(answer)
    events.take_response(b'{"events": [], "seen": 3}')
    with pytest.raises(NotAskedFor, match=r"requests\.events"):
        events.take(b'{"a":1}')
    with pytest.raises(NotAskedFor, match=r"requests\.events"):
        events.take_response(b'{"events": [{"a": 1}]}')
    assert events.lines == []
