"""One batch of texts in a process of its own: `python -m tests.fuzz.batch SEED EXAMPLES NOTE`.

NOTE is a file that holds the text under way, for the case that the engine ends this process. Prints the tally as JSON.
"""

import json
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.gate import Tally, hold
from tests.fuzz.texts import statements

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]


def run(start: int, examples: int, note: Path) -> Tally:
    """Hold the gate against `examples` texts drawn from a seed."""
    tally = Tally()

    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=SLOW)
    @given(statements)
    def each(sql: str) -> None:
        note.write_bytes(sql.encode("utf-8", "surrogatepass"))
        hold(sql, tally)

    each()
    return tally


if __name__ == "__main__":
    found = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"verdicts": found.verdicts, "slowest": found.slowest}))
