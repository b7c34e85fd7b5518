"""Holds the gate against one text: it says yes or SqlRejected, in time, and never yes to what it must not."""

import time
from collections import Counter
from dataclasses import dataclass, field

from query import gate
from query.refusals import SqlRejected
from tests.fuzz.naive import objections
from tests.query_corpus.corpus import RELATIONS

SECONDS = 5.0  # of this process, for a text of at most a few thousand characters


@dataclass
class Tally:
    """What became of the texts of one run, by the gate's word, and the slowest."""

    verdicts: Counter[str] = field(default_factory=Counter[str])
    slowest: float = 0.0


def hold(sql: str, tally: Tally) -> None:
    """Judge a text.

    Raises:
        AssertionError: the gate accepts what it must not, or takes too long.
        Exception: whatever the gate raises that is no SqlRejected.
    """
    started = time.process_time()
    try:
        verdict = gate.validate_sql(sql, RELATIONS)
    except SqlRejected as refusal:
        word = refusal.reason.value
    else:
        word = "accepted"
        found = objections(sql, RELATIONS)
        assert not found, f"accepted in spite of {found}: {sql!r}"
        assert verdict.relations <= set(RELATIONS)
    took = time.process_time() - started
    assert took < SECONDS, f"{took:.1f} s for {sql!r}"
    tally.verdicts[word] += 1
    tally.slowest = max(tally.slowest, took)
