"""`python -m tests.fuzz --seconds N --seed S`: batches of texts against the gate until the time is up.

Exits 1 at the first text that crashes, hangs or fools the gate, with the seed of its batch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

EXAMPLES = 2_000  # texts of a batch
BATCH_S = 600.0  # longest that a batch may take


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    verdicts: Counter[str] = Counter()
    slowest, seed, end = 0.0, asked.seed, time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory() as directory:
        note = Path(directory) / "text"
        while time.monotonic() < end:
            command = [sys.executable, "-m", "tests.fuzz.batch", str(seed), str(EXAMPLES), str(note)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=BATCH_S, check=False)
            if done.returncode:
                print(f"seed {seed} ended with {done.returncode} at {note.read_bytes()!r}\n{done.stderr}")
                return 1
            said = json.loads(done.stdout)
            verdicts.update(said["verdicts"])
            slowest, seed = max(slowest, said["slowest"]), seed + 1
    texts = sum(verdicts.values())
    print(f"{texts} texts in {asked.seconds:g} s, seeds {asked.seed} to {seed - 1}; slowest {slowest * 1000:.0f} ms")
    for verdict, count in verdicts.most_common():
        print(f"{count:8d}  {100 * count / texts:5.1f} %  {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
