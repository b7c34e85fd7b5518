"""Which evidence makes which outcome, and what text from inside looks like when it is shown."""

from dataclasses import replace
from typing import Any

import pytest

from actors.sandbox.outcome import Cause, Evidence, classify, cleaned, tail
from trace_ray.alerts import SandboxLimits

SEEN = Evidence(Cause.ENDED, "said", 0, SandboxLimits())
OOM = {"oom_kills": 1, "memory_hits": 1}


@pytest.mark.parametrize(
    ("cause", "evidence", "outcome"),
    [
        (Cause.RESPONSE, {}, "ok"),
        (Cause.RESPONSE, OOM, "ok"),  # a child died for it, the handler did not
        (Cause.CANCELLED, OOM, "lost_lease"),
        (Cause.UNAVAILABLE, {}, "sandbox_unavailable"),
        (Cause.OUTPUT, {}, "output_limit"),
        (Cause.INIT_ERROR, {}, "init_error"),
        (Cause.INIT_ERROR, OOM, "memory_limit"),
        (Cause.ERROR, {}, "user_error"),
        (Cause.ERROR, {"pids_hits": 3}, "pids_limit"),
        (Cause.ERROR, {"denied": True}, "query_denied"),
        (Cause.ERROR, {"denied": True, "unavailable": True}, "query_unavailable"),
        (Cause.BAD_RESPONSE, {}, "bad_output"),
        (Cause.INIT_WALL, {}, "init_timeout"),
        (Cause.WALL, {}, "timeout"),
        (Cause.WALL, {"pids_hits": 1}, "pids_limit"),
        (Cause.WALL, {"unavailable": True}, "timeout"),
        (Cause.CPU, {}, "cpu_limit"),
        (Cause.MEMORY, {}, "memory_limit"),
        (Cause.PIDS, {}, "pids_limit"),
        (Cause.PROTOCOL, {}, "protocol_error"),
        (Cause.ENDED, {}, "exit"),
        (Cause.ENDED, {"status": 127}, "exit"),
        (Cause.ENDED, {"status": 255}, "exit"),
        (Cause.ENDED, {"status": None}, "exit"),
        (Cause.ENDED, {"status": 128 + 11}, "crash"),
        (Cause.ENDED, {"status": -9}, "crash"),
        (Cause.ENDED, {"status": 128 + 24}, "cpu_limit"),
        (Cause.ENDED, {"status": 128 + 9, **OOM}, "memory_limit"),
        (Cause.ENDED, {"status": 128 + 9, "oom_kills": 1}, "host_oom"),
        (Cause.ENDED, {"status": 128 + 9}, "crash"),  # it may kill itself: that is no excuse
    ],
)
def test_evidence_decides(cause: Cause, evidence: dict[str, Any], outcome: str) -> None:
    kind, detail = classify(replace(SEEN, cause=cause, **evidence))
    assert kind == outcome
    assert detail


def test_what_it_says_changes_no_class() -> None:
    for said in ("MemoryError", "timeout", '{"outcome": "ok"}', "sandbox_unavailable"):
        assert classify(replace(SEEN, cause=Cause.ERROR, said=said)) == ("user_error", said)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after\x1b]8;;http://x\x1b\\link", "afterlink"),
        ("\x1b]unended", ""),
        ("\x1bPdevice\x1b\\x\x1bcreset", "xreset"),
        ("\x9b31mred", "red"),
        ("a\x00b\x07c\x7fd\x85e\r", "abcde"),
        ("\u202eevil\u2066\u200b\ufeff", "evil"),
        ("line\u2028separator", "lineseparator"),
        ("\ud800lone", "lone"),
        ("äöü €", "äöü €"),
    ],
)
def test_text_from_inside_is_harmless(dirty: str, clean: str) -> None:
    assert cleaned(dirty, 100) == clean


def test_text_from_inside_is_short_and_whole() -> None:
    assert cleaned("€" * 100, 10) == "€€€"
    assert tail(b"\xff" * 10 + "€".encode() * 100, 10) == "€€€"
    assert tail(b"start" + b"e" * 5000, 4096) == "e" * 4096
