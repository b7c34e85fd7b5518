"""`python -m tests.fuzz --seconds N --seed S [--only gate|http]`: each part until its time is up.

`gate` holds batches of texts against the gate, `http` volleys of requests against the whole service. Exits 1 at the
first that crashes, hangs or fools it, with the seed of its batch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests import pg
from tests.besieged import besieged, lasting, wait_for_rest
from tests.fuzz import http

EXAMPLES = 2_000  # texts of a batch
VOLLEYS = 100  # of a batch
BATCH_S = 600.0  # longest that a batch may take


def gate(seconds: float, start: int) -> bool:
    """Say whether every text was judged as it must be; tell what became of them."""
    verdicts: Counter[str] = Counter()
    slowest, seed, end = 0.0, start, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as directory:
        note = Path(directory) / "text"
        while time.monotonic() < end:
            command = [sys.executable, "-m", "tests.fuzz.batch", str(seed), str(EXAMPLES), str(note)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=BATCH_S, check=False)
            if done.returncode:
                print(f"seed {seed} ended with {done.returncode} at {note.read_bytes()!r}\n{done.stderr}")
                return False
            said = json.loads(done.stdout)
            verdicts.update(said["verdicts"])
            slowest, seed = max(slowest, said["slowest"]), seed + 1
    tell(f"texts in {seconds:g} s, seeds {start} to {seed - 1}; slowest {slowest * 1000:.0f} ms", verdicts)
    return True


def service(seconds: float, start: int) -> bool:
    """Say whether every response kept the rules; tell how the requests ended, and what ended a worker."""
    tally, seed = http.Tally(), start
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # Postgres may run as another user
        postgres = pg.server(directory / "postgres")
        try:
            with besieged(directory / "stack", pg.fresh_database(postgres), moment_s=http.QUESTION_S) as target:
                before, end = lasting(target.settings), time.monotonic() + seconds
                while time.monotonic() < end:
                    http.run(target, seed, VOLLEYS, tally)
                    seed += 1
                wait_for_rest(services=2)
                assert lasting(target.settings) == before, "a file of the stack differs"
                assert target.prey.connections == [], "a listener was reached"
        except Exception:
            print(f"seed {seed} of {VOLLEYS} volleys")
            raise
        finally:
            postgres.stop()
    tell(f"requests in {seconds:g} s, seeds {start} to {seed - 1}", tally.ends)
    for sql in sorted(tally.crashes):
        print(f"ended a worker: {sql!r}")
    return True


def tell(what: str, ends: Counter[str]) -> None:
    print(f"{ends.total()} {what}")
    for word, count in ends.most_common():
        print(f"{count:8d}  {100 * count / ends.total():5.1f} %  {word}")


PARTS: Final[dict[str, Callable[[float, int], bool]]] = {"gate": gate, "http": service}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=tuple(PARTS))
    asked = parser.parse_args()
    return int(not all(PARTS[name](asked.seconds, asked.seed) for name in ([asked.only] if asked.only else PARTS)))


if __name__ == "__main__":
    sys.exit(main())
