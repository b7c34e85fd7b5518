"""What people read on a terminal."""

import pytest

from trace_ray import console


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3_599, "59 min 59 s"), (7_500, "2 h 5 min")]
)
def test_durations_are_told_as_query_say_them(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_text_from_a_chain_cannot_steer_the_terminal() -> None:
    assert (
        console.printable("a\x1b[2Jb\r\nc")
        == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c"
    )
    assert console.printable(None) == ""
    assert console.printable("Grüße, 0x00") == "Grüße, 0x00"
