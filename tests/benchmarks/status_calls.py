"""Asks the Dispatcher of a running stack for its status, call after call, and prints the seconds of each as JSON.

    python -m tests.benchmarks.status_calls DATA_DIR CALLS

A process of its own: Ray reads its token when it is imported, so the stack has to be found before.
"""

import json
import sys
import time
from pathlib import Path

from trace_ray import config
from trace_ray.lite import ray_cluster

PAUSE_S = 0.01  # a person or a dashboard asks now and then; a busy loop would measure itself


def main() -> None:
    data_dir, calls = Path(sys.argv[1]), int(sys.argv[2])
    cluster = ray_cluster.find(config.load_stack(data_dir))
    assert cluster is not None, "no stack runs here"
    from actors import runtime

    runtime.connect(cluster.address, data_dir=data_dir)
    handle = runtime.dispatcher(runtime.namespace(data_dir))
    assert handle is not None, "no Dispatcher runs here"
    runtime.ask(handle.status.remote(), timeout_s=30)  # connects
    seconds: list[float] = []
    for _ in range(calls):
        began = time.perf_counter()
        runtime.ask(handle.status.remote(), timeout_s=30)
        seconds.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
