"""How many evaluators a cluster gets: two nodes with processors and one without, all on this machine."""

import json
import os
import secrets
import subprocess
import sys

from tests.conftest import REPOSITORY

SCRIPT = """
import json, sys, time
import httpx
import ray
from ray.cluster_utils import Cluster
from actors import runtime
from trace_ray.contracts import WorkerId

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=0)
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote
class Where:
    def __init__(self, *_):
        pass
    def node(self):
        return ray.get_runtime_context().get_node_id()

try:
    found = {"nodes": runtime.nodes(most=32), "most": runtime.nodes(most=1)}
    names = [runtime.worker_name(index, 0, runtime.EVALUATOR_PREFIX) for index in range(2)]
    handles = [
        runtime.create_worker(Where, runtime.worker_options(name, "test", slots=1), name, "") for name in names
    ]
    found["places"] = len(set(ray.get([one.node.remote() for one in handles])))
    cluster.remove_node(second)
    give_up = time.monotonic() + 60
    while runtime.nodes(most=32) != 1 and time.monotonic() < give_up:
        time.sleep(0.1)
    found["left"] = runtime.nodes(most=32)
    try:
        httpx.Client(transport=runtime.QueryTransport("test"), base_url="http://q").post("/v1/task/query")
    except httpx.ConnectError:
        found["unserved"] = "ConnectError"
    print(json.dumps(found))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_cluster_gets_an_evaluator_for_each_node_with_processors() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=REPOSITORY,
        env={**kept, **token, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "nodes": 2,
        "most": 1,
        "places": 2,
        "left": 1,
        "unserved": "ConnectError",
    }
