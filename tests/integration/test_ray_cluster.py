"""How the Ray of a stack ends."""

import subprocess
import sys

import psutil

from trace_ray.lite.ray_cluster import _kill, _works


def test_a_process_that_has_ended_by_itself_does_not_keep_the_next_one_alive() -> None:
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    family = [psutil.Process(one.pid) for one in sleepers]
    sleepers[0].kill()
    sleepers[0].wait()

    _kill(family)

    sleepers[1].wait(10)
    assert not any(map(_works, family))
