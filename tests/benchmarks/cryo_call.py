"""One bare call of Cryo in a process of its own, with Cryo's defaults. Started and imported before the clock runs.

    python cryo_call.py URL OUTPUT_DIR BLOCKS

Says `ready`, waits for a line, calls, and answers with one line of JSON: wall and CPU seconds, peak memory in bytes.
Cryo's own output, a progress report, goes nowhere.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import cryo

DATASETS = ("blocks", "transactions", "logs")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    url, directory, blocks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with os.fdopen(os.dup(1), "w") as answers, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        answers.write("ready\n")
        answers.flush()
        sys.stdin.readline()
        cpu, began = time.process_time(), time.perf_counter()
        cryo.freeze(list(DATASETS), blocks=[f"0:{blocks}"], rpc=url, output_dir=directory)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
        json.dump({"seconds": seconds, "cpu_s": time.process_time() - cpu, "peak_bytes": peak}, answers)
        answers.flush()
    os._exit(0)  # the interpreter's own end can crash in Cryo's threads


if __name__ == "__main__":
    main()
